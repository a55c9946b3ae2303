"""The parts by themselves: shares, draws, key streams, grids, laws, combination, suspicion."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.masked import VALUE, names, seeded, terms

from edgehold.core.errors import ConfigError, GroupLost, NotFinite, OutsideLaw, WrongShape
from edgehold.core.masks import combine, draw, laws, pads, recovery, sealing, shamir, suspicion
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.fixed import FixedPoint
from edgehold.core.masks.sums import GroupSum
from edgehold.core.masks.terms import CEILING, FLOOR, WIDTHS, dropouts_withstood, helpers_withstood, narrowest, threshold

# Shares.


def is_prime(number: int) -> bool:
    """Miller and Rabin with 40 bases: wrong for less than one composite number of 2^80."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in range(2, 42):
        x = pow(base, odd, number)
        if x not in (1, number - 1) and all((x := x * x % number) != number - 1 for _ in range(twos - 1)):
            return False
    return True


def test_the_prime_is_the_smallest_above_2_to_256() -> None:
    assert is_prime(shamir.PRIME)
    assert not any(is_prime((1 << 256) + more) for more in range(1, 297))


@given(secret=st.binary(min_size=32, max_size=32), members=st.integers(2, 12), data=st.data())
def test_any_threshold_of_shares_gives_the_secret_back_and_one_less_does_not(
    secret: bytes, members: int, data: st.DataObject
) -> None:
    needed = data.draw(st.integers(1, members))
    places = data.draw(st.permutations(range(1, members + 1)))
    shares = dict(zip(places, shamir.split(secret, needed, places, seeded(secret)(shamir.random_bytes(needed))), strict=True))
    chosen = data.draw(st.permutations(places))
    for count in range(1, members + 1):
        some = {place: shares[place] for place in chosen[:count]}
        found = shamir.value_at(some, shamir.weights(tuple(some)))
        assert (found == int.from_bytes(secret, "little")) == (count >= needed)


def test_fewer_shares_fit_every_secret() -> None:
    """By hand: two shares of threshold 3; for any secret there is a third that gives it."""
    two = dict(zip((1, 2), shamir.split(b"a" * 32, 3, (1, 2), seeded(1)(shamir.random_bytes(3))), strict=True))
    for secret in (bytes(32), b"b" * 32, b"\xff" * 32):
        places = {0: int.from_bytes(secret, "little"), **two}
        third = shamir.value_at(places, shamir.weights(tuple(places), 5))
        back = {**two, 5: third}
        assert shamir.secret_of(shamir.value_at(back, shamir.weights(tuple(back)))) == secret


def test_shares_are_made_from_all_the_randomness() -> None:
    first = shamir.split(bytes(32), 4, (1, 2), b"\x01" * shamir.random_bytes(4))
    for at in range(0, shamir.random_bytes(4), 7):
        other = bytearray(b"\x01" * shamir.random_bytes(4))
        other[at] ^= 1
        assert shamir.split(bytes(32), 4, (1, 2), bytes(other)) != first
    with pytest.raises(ValueError, match="are needed"):
        shamir.split(bytes(32), 4, (1, 2), b"\x01" * 5)


def test_shares_as_bytes() -> None:
    for share in (0, 1, shamir.PRIME - 1):
        assert shamir.decode(shamir.encode(share)) == share
    for wrong in (b"", bytes(32), bytes(34), shamir.PRIME.to_bytes(33, "little"), b"\xff" * 33):
        with pytest.raises(WrongShape):
            shamir.decode(wrong)
    assert shamir.secret_of(1 << 256) is None


def test_recovery_withstands_and_names_up_to_two_liars() -> None:
    secret, places = b"s" * 32, tuple(range(1, 10))
    honest = dict(zip(places, shamir.split(secret, 5, places, seeded(2)(shamir.random_bytes(5))), strict=True))
    for liars in [(), *combinations(places, 1), *combinations(places, 2)]:
        shares = {place: (share + (place in liars) * (place + 1) ** 20) % shamir.PRIME for place, share in honest.items()}
        suspects: set[int] = set()
        assert recovery.recovered(shares, 5, lambda found: found == secret, suspects) == secret
        assert suspects <= set(liars)
        if set(liars) & set(places[:5]):  # those after them were not needed, and not looked at
            assert suspects == set(liars)
    three = {place: (share + (place < 4) * (place + 1) ** 20) % shamir.PRIME for place, share in honest.items()}
    assert recovery.recovered(three, 5, lambda found: found == secret, set()) is None


def test_thresholds_of_the_specification() -> None:
    assert (threshold(8), threshold(16), threshold(32), threshold(64)) == (5, 11, 21, 43)
    for members in range(FLOOR, CEILING + 1):
        k, t = members - 1, threshold(members)
        assert t == 2 * k // 3 + 1
        assert dropouts_withstood(members) == k - t
        helpers = helpers_withstood(members)
        # So many helpers give both kinds, honest members one: 2t shares cannot be had; with one helper more they can.
        assert (k - helpers) + 2 * helpers < 2 * t <= (k - helpers - 1) + 2 * (helpers + 1)


# Draws.


def entrants(count: int, companies: tuple[int, ...] = ()) -> list[Entrant]:
    marked = dict(enumerate(companies))
    return [Entrant(who, marked.get(at, 0), who.encode()) for at, who in enumerate(names(count))]


@given(count=st.integers(FLOOR, 400), least=st.integers(FLOOR, CEILING), wide=st.integers(2 * FLOOR - 1, CEILING))
@settings(max_examples=60)
def test_groups_are_as_equal_as_can_be(count: int, least: int, wide: int) -> None:
    most = max(least, wide)
    groups = draw.groups(VALUE, entrants(count), least, most)
    sizes = sorted(len(group) for group in groups)
    assert sorted(who for group in groups for who in group) == list(names(count))
    assert all(list(group) == sorted(group) for group in groups)
    assert sizes[-1] - sizes[0] <= 1
    assert sizes[0] >= FLOOR
    assert sizes[-1] <= most or len(groups) == count // least  # sizes above `most` only where fewer would be below `least`
    if least <= count and 2 * least - 1 <= most:
        assert least <= sizes[0]
        assert sizes[-1] <= most


def test_usual_groups_have_16_to_32_members() -> None:
    for count in range(16, 300):
        assert all(16 <= len(group) <= 31 for group in draw.groups(VALUE, entrants(count), 16, 32))
    assert [len(group) for group in draw.groups(VALUE, entrants(15), 16, 32)] == [15]
    with pytest.raises(GroupLost):
        draw.groups(VALUE, entrants(7), 16, 32)


def test_the_draw_depends_on_the_value_and_on_every_advert_and_on_nothing_else() -> None:
    all_ = entrants(64)
    first = draw.groups(VALUE, all_, 16, 32)
    assert draw.groups(VALUE, all_[::-1], 16, 32) == first
    assert draw.groups(VALUE, [*all_, Entrant("late")], 16, 32) == first  # asked, but sent no keys
    assert draw.groups(b"v" * 32, all_, 16, 32) != first
    for at in range(64):
        other = [Entrant(one.client, 0, b"other" if place == at else one.advert) for place, one in enumerate(all_)]
        assert draw.groups(VALUE, other, 16, 32) != first


def test_former_company_is_dealt_out_over_all_groups() -> None:
    companies = (1,) * 16 + (2,) * 10
    groups = draw.groups(VALUE, entrants(80, companies), 16, 32)
    assert len(groups) == 5
    for company, size in ((range(16), 16), (range(16, 26), 10)):
        met = [sum(int(who[-3:]) in company for who in group) for group in groups]
        assert max(met) - min(met) <= 1
        assert sum(met) == size


def test_everybody_is_as_likely_to_meet_anybody() -> None:
    """Of 32 in two groups, each pair meets with chance 15/31; 2,000 draws: 5 deviations are 0.056."""
    met = np.zeros((32, 32))
    for number in range(2000):
        for group in draw.groups(number.to_bytes(32, "little"), entrants(32), 16, 32):
            at = [int(who[-3:]) for who in group]
            met[np.ix_(at, at)] += 1
    apart = met[~np.eye(32, dtype=bool)] / 2000
    assert np.abs(apart - 15 / 31).max() < 0.056


# Masks.


@pytest.mark.parametrize("cipher", ["aes256-ctr", "chacha20"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_masks_come_off_in_blocks_of_any_size(bits: int, cipher: str) -> None:
    dtype, keys = WIDTHS[bits], [bytes([at]) * 32 for at in range(5)]
    chance = np.random.default_rng(0)
    plain = chance.integers(0, 1 << bits, 100_003).astype(dtype)
    laid = plain.copy()
    on, off = pads.Pads(keys[:2], keys[2:], cipher, dtype), pads.Pads(keys[2:], keys[:2], cipher, dtype)  # type: ignore[arg-type]
    at = 0
    while at < len(laid):
        step = int(chance.integers(1, pads.BLOCK_BYTES // dtype.itemsize))
        on.lay(laid[at : at + step])
        at += step
    assert (laid != plain).mean() > 0.99
    for start in range(0, len(laid), pads.BLOCK_BYTES // dtype.itemsize):
        off.lay(laid[start : start + pads.BLOCK_BYTES // dtype.itemsize])
    assert np.array_equal(laid, plain)
    with pytest.raises(ValueError, match="a block of"):
        on.lay(np.zeros(pads.BLOCK_BYTES + 8, dtype))


def test_streams_are_those_of_the_ciphers() -> None:
    """AES-256-CTR and ChaCha20 of a zero key, counter and nonce: published first bytes (FIPS 197 form; RFC 8439, A.1 #1)."""
    for cipher, first in (("aes256-ctr", "dc95c078a2408989ad48a21492842087"), ("chacha20", "76b8e0ada0f13d90405d6ae55386bd28")):
        block = np.zeros(16, np.uint8)
        pads.Pads([bytes(32)], [], cipher, WIDTHS[8]).lay(block)  # type: ignore[arg-type]
        assert block.tobytes().hex() == first


def test_keys_have_one_purpose_each() -> None:
    one, other = b"\x01" * 32, b"\x02" * 32
    mine, theirs = sealing.public_of(one), sealing.public_of(other)
    own, others = sealing.loaded(one), sealing.loaded(other)
    assert sealing.pair_key(own, theirs, b"t", b"r", "a", "b") == sealing.pair_key(others, mine, b"t", b"r", "b", "a")
    found = [
        sealing.pair_key(own, theirs, b"t", b"r", "a", "b"), sealing.pair_key(own, theirs, b"u", b"r", "a", "b"),
        sealing.pair_key(own, theirs, b"t", b"s", "a", "b"), sealing.pair_key(own, theirs, b"t", b"r", "a", "c"),
        sealing.box_key(own, theirs, b"t", b"r", "a", "b"), sealing.box_key(own, theirs, b"t", b"r", "b", "a"),
        sealing.self_key(one, b"t", b"r", "a"), sealing.self_key(one, b"t", b"r", "b"),
        sealing.derived(one, "share randomness", b"r"),
    ]  # fmt: skip
    assert len(set(found)) == len(found)
    with pytest.raises(ValueError, match="shared key"):
        sealing.agreed(own, bytes(32))


def test_every_term_is_in_the_transcript() -> None:
    how = terms(names(9))
    changed = {
        "federation": "other", "plan_digest": b"x", "run": "other", "round": 4, "attempt": 2, "nonce": b"x",
        "base_digest": b"x", "draw_commitment": b"x", "entries": 38, "largest": 2, "bits": 16, "margin": 1,
        "cipher": "chacha20", "least": 8, "most": 63, "clip": 1.0, "norm": 1.0,
        "variance": 1.0, "helpers": 1,
    }  # fmt: skip
    assert set(changed) == set(how.__dataclass_fields__)
    found = {terms(names(9), **{name: value}).transcript for name, value in changed.items()}
    assert len(found | {how.transcript}) == len(changed) + 1


@given(members=st.integers(1, 64), largest=st.integers(1, 1 << 28), margin=st.integers(0, 1 << 20))
def test_the_narrowest_modulus_is_wide_enough(members: int, largest: int, margin: int) -> None:
    values = members * largest + 2 * margin + 1
    if values > 1 << 32:
        with pytest.raises(ValueError, match="coarser"):
            narrowest(members, largest, margin)
    else:
        bits = narrowest(members, largest, margin)
        assert 1 << bits >= values
        assert bits == 8 or 1 << bits // 2 < values


def test_sums_below_zero_are_read_so() -> None:
    found = GroupSum(("a", "b"), np.array([0, 5, 255, 246, 245], np.uint8), margin=10)
    assert list(np.concatenate(list(found.blocks(2)))) == [0, 5, -1, -10, 245]


# Grids.


@given(
    values=st.lists(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4), min_size=1, max_size=32),
    bits=st.sampled_from([8, 16, 32]),
    clip=st.floats(1e-3, 2.0),
)
def test_sums_on_the_grid_are_within_half_a_step_each(values: list[list[float]], bits: int, clip: float) -> None:
    grid = FixedPoint.finest(clip, 32, bits)
    reals = np.array(values, np.float32)
    whole = np.stack([grid.encode(row) for row in reals])
    assert whole.min() >= 0
    assert whole.max() <= grid.largest
    assert 32 * grid.largest < 1 << bits
    found = grid.decode(whole.sum(axis=0), len(reals))
    wanted = np.clip(reals.astype(np.float64), -clip, clip).sum(axis=0)
    assert np.abs(found - wanted).max() <= grid.error(len(reals))


def test_grids_by_hand() -> None:
    """Two devices, clip 1, two steps each side: 0.6 lies at 0.5, 0.8 at 1.0, 7 is cut to 1; shifted by two steps."""
    grid = FixedPoint(1.0, 2)
    assert list(grid.encode(np.array([0.6, -0.8, 7.0]))) == [3, 0, 4]
    assert list(grid.decode(np.array([6, 0, 8, 4]), 2)) == [1.0, -2.0, 2.0, 0.0]
    with pytest.raises(NotFinite):
        grid.encode(np.array([np.nan]))
    with pytest.raises(ValueError, match="no grid"):
        FixedPoint.finest(1.0, 64, 8, margin=70)


# Laws.


def test_laws_of_sums() -> None:
    one, other = laws.rank_scores(np.array([2, 0, 1])), laws.rank_scores(np.array([0, 1, 2]))
    assert list(one) == [1, 2, 0]
    total = np.concatenate([one + other, [1, 1]])  # a second layer of two edges, each device another order
    for size in (1, 2, 3, 5):
        laws.ranked((total[at : at + size] for at in range(0, 5, size)), 2, (3, 2))
    for wrong, word in (
        (total + [1, 0, 0, 0, 0], "add up"), (total - [0, 0, 0, 0, 1], "add up"),
        (total + [0, 0, 0, 2, -2], "entries from"), (total[:4], "ends in layer 2"), ([*total, 0], "more entries"),
    ):  # fmt: skip
        with pytest.raises(OutsideLaw, match=word):
            laws.ranked(iter((np.array(wrong),)), 2, (3, 2))
    assert laws.bounded(iter((np.array([0, 2]), np.array([2]))), 2, 1) == 4
    for block in ([3], [-1]):
        with pytest.raises(OutsideLaw):
            laws.bounded(iter((np.array(block),)), 2, 1)
        laws.bounded(iter((np.array(block),)), 2, 1, margin=1)
    with pytest.raises(OutsideLaw):
        laws.total_is(3, 4)


# Groups together.


def sums(rows: list[list[int]], survivors: list[int]) -> list[GroupSum]:
    return [GroupSum(names(count), np.array(row, np.uint32)) for row, count in zip(rows, survivors, strict=True)]


def test_five_groups_give_the_median_of_their_means() -> None:
    """Means per group of entry 0: 1, 2, 3, 4, 1000; of entry 1: 5 each."""
    five = sums([[2, 10], [4, 10], [9, 15], [16, 20], [2000, 10]], [2, 2, 3, 4, 2])
    for size in (1, 2):
        assert list(np.concatenate(list(combine.means(five, size=size)))) == [3.0, 5.0]
    assert list(np.concatenate(list(combine.means(five, "trimmed", 0.2)))) == [3.0, 5.0]
    assert list(np.concatenate(list(combine.means(five, "trimmed", 0.0)))) == [202.0, 5.0]
    six = [*five, *sums([[5, 5]], [1])]
    assert list(np.concatenate(list(combine.means(six)))) == [3.5, 5.0]
    # Four: the plain mean over all 11 survivors, which one group can move at will.
    assert list(np.concatenate(list(combine.means(five[:4])))) == [31 / 11, 5.0]
    with pytest.raises(ValueError, match="no group"):
        next(combine.means([]))


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.integers(0, 1 << 31))
def test_one_group_of_five_moves_the_median_no_farther_than_the_others_reach(honest: list[int], lie: int) -> None:
    (found,) = combine.means(sums([[one] for one in (*honest, lie)], [1] * 5))
    assert min(honest) <= found[0] <= max(honest)


def test_the_bound_on_liars() -> None:
    for members in (8, 16, 32, 64):
        share = combine.liars_withstood(members)
        assert (1 - share) ** members == pytest.approx(0.5)
    assert round(combine.liars_withstood(16), 4) == 0.0424
    assert round(combine.liars_withstood(32), 4) == 0.0214


def test_liars_are_found_by_the_company_they_keep() -> None:
    """80 devices, two liars, ten rounds: at the end they are the two most suspected, and far from all others."""
    liars, chances, companies = {"device-011", "device-045"}, dict[str, float](), dict[str, int]()
    for number in range(10):
        drawn = [Entrant(who, companies.get(who, 0), b"a") for who in names(80)]
        groups = draw.groups(number.to_bytes(32, "little"), drawn, 16, 32)
        void = [group for group in groups if liars & set(group)]
        good = [group for group in groups if not liars & set(group)]
        chances = suspicion.judged(chances, void, good)
        cleared = {who for group in good for who in group}
        companies = suspicion.companies(void, {who: one for who, one in companies.items() if who not in cleared})
    order = sorted(chances, key=lambda who: -chances[who])
    assert set(order[:2]) == liars
    assert chances[order[1]] > 0.5
    assert chances[order[2]] < 0.1


def test_suspicion_by_hand() -> None:
    """Two devices, 2 % each. Void: either alone accuses itself with 0.9, P(void) = 1 - 0.982^2; a liar beside: 0.1 x 0.018."""
    found = suspicion.judged({}, [("a", "b")], [])
    spoilt = 1 - 0.982**2
    assert found["a"] == found["b"] == pytest.approx(0.02 * (0.9 + 0.1 * 0.018) / spoilt)
    assert suspicion.judged(found, [], [("a",)])["a"] == pytest.approx(found["a"] * 0.1 / (1 - 0.9 * found["a"]))
    assert suspicion.companies([("a", "b"), ("c",)], {"a": 3, "d": 1}) == {"a": 4, "b": 4, "c": 5, "d": 1}


def test_noise_that_nobody_honest_brings_is_refused() -> None:
    from edgehold.core.masks.noise import SharedNoise

    assert SharedNoise(100.0).share(8) == pytest.approx(100 / 6)
    assert SharedNoise(100.0, helpers=2).share(8) == pytest.approx(25)
    with pytest.raises(ConfigError, match="helpers"):
        SharedNoise(100.0, helpers=6).share(8)
