"""The forms in which FRL's ranks travel: round trips, exact sizes, every way to break the law; sorting and what coding pays."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from edgehold.core.contract import Cohort, Payload, Weighted
from edgehold.core.errors import ConfigError, NotPermutation, RejectedUpdate, WrongShape
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.vectors import Bytes, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.frl.coding import entropy_coded
from edgehold.defenses.frl.entropy import ENTROPY, plan_of
from edgehold.defenses.frl.forms import PACKED, EncodedRanks, Form, Top, encoded, forms_of
from edgehold.defenses.frl.sorting import inverse, sorted_places
from edgehold.defenses.frl.state import Ranks, Settings, Update
from edgehold.defenses.packing import STEP, pack, packed_bytes, unpack, width

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 255, 256, 257, 4097, 65_535, 65_536, 65_537, 600_003]
LENET = [288, 18_432, 1_605_632, 1_280]
CONV8 = [1_728, 36_864, 73_728, 147_456, 294_912, 589_824, 1_179_648, 2_359_296, 524_288, 65_536, 2_560]


def drawn(edges: int, *name: str | int) -> Ranks:
    return stream(1, "forms", edges, *name).permutation(edges).astype(np.int32)


def body_of(ranks: Ranks, form: Form) -> bytes:
    blob = encoded([ranks], (form,))
    return bytes(blob.read(0, blob.size))


def read(body: bytes, edges: int, form: Form) -> Ranks:
    """Checked, then read."""
    found = EncodedRanks(Bytes(body), (edges,), (form,))
    found.check(["net"])
    return found[0]


# Sorting.


def test_radix_passes_sort_as_numpy_does() -> None:
    rng = stream(2, "sort")
    for n in (0, 1, 2, 1000, 70_000):
        floats = rng.normal(size=n).astype(np.float32)
        floats[: n // 3] = np.round(floats[: n // 3])  # equals
        floats[: n // 5] *= np.float32(-0.0)  # zeros of both signs
        for values in (floats, np.abs(floats), rng.integers(0, 1 << 7, n), rng.integers(0, 1 << 20, n, dtype=np.int32),
                       rng.integers(0, 1 << 45, n)):  # fmt: skip
            assert sorted_places(values).tolist() == np.argsort(values, kind="stable").tolist()


def test_inverse_twice_is_the_permutation() -> None:
    ranks = drawn(1000)
    assert inverse(inverse(ranks)).tolist() == ranks.tolist()
    assert (inverse(ranks)[ranks] == np.arange(1000)).all()


# Packing.


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 5, 7, 8, 11, 15, 16, 17, 20, 22, 24, 27, 31])
def test_numbers_of_any_width_come_back(bits: int) -> None:
    for count in (1, 7, 8, 9, 1001, STEP + 13):
        values = stream(3, "pack", bits, count).integers(0, 1 << bits, count).astype(np.int32)
        body = b"".join(part.tobytes() for part in pack(values, bits))
        assert len(body) == packed_bytes(count, bits) == -(-count * bits // 8)
        found = np.concatenate([part.copy() for _, part in unpack(Bytes(b"x" + body), 1, count, bits)])
        assert found.tolist() == values.tolist()


def test_bits_lie_as_documented() -> None:
    # Eight numbers of 3 bits are a plane of 2 and one of 1: byte j of the first has numbers j, j + 2, j + 4, j + 6.
    first = np.array([0b101, 0b010, 0b111, 0b000, 0b001, 0b110, 0b011, 0b100], dtype=np.int32)
    two = [0b11_01_11_01, 0b00_10_00_10]
    one = 0b10100101  # the highest bits: 1 0 1 0 0 1 0 1, the first number lowest
    assert b"".join(part.tobytes() for part in pack(first, 3)) == bytes([*two, one])
    # Fewer than eight: one little-endian integer.
    assert b"".join(part.tobytes() for part in pack(first[:5], 3)) == (0b001_000_111_010_101).to_bytes(2, "little")
    # 20 bits: sixteen as they are, four above.
    wide = np.array([0x10002, 0x20003, *[0] * 6], dtype=np.int32)
    assert next(pack(wide, 20)).tobytes() == bytes([2, 0, 3, 0, *[0] * 12, 1, 2, 0, 0])


# Whole ranks.


@pytest.mark.parametrize("form", [PACKED, ENTROPY])
@pytest.mark.parametrize("edges", SIZES)
def test_ranks_come_back_and_take_what_the_formula_says(edges: int, form: Form) -> None:
    for ranks in (drawn(edges), np.arange(edges, dtype=np.int32), np.arange(edges, dtype=np.int32)[::-1]):
        body = body_of(ranks, form)
        assert len(body) == form.size(edges)
        assert read(body, edges, form).tolist() == ranks.tolist()
    if form is PACKED:
        assert form.size(edges) == -(-edges * math.ceil(math.log2(edges)) // 8)


def test_every_short_permutation_has_one_code_of_its_own() -> None:
    for edges in (1, 2, 3, 5):
        codes = {body_of(np.array(one, np.int32), ENTROPY) for one in itertools.permutations(range(edges))}
        assert len(codes) == math.factorial(edges)


@pytest.mark.parametrize(("net", "packed", "coded"), [(LENET, 0.654, 0.615), (CONV8, 0.650, 0.60)])
def test_bytes_of_reference_networks_and_how_near_they_come_to_the_limit(net: list[int], packed: float, coded: float) -> None:
    floats = 4 * sum(net)
    assert sum(PACKED.size(edges) for edges in net) / floats == pytest.approx(packed, abs=0.001)
    entropy = sum(ENTROPY.size(edges) for edges in net)
    assert entropy / floats <= coded
    limit = sum(math.lgamma(edges + 1) / math.log(2) / 8 for edges in net)
    assert limit < entropy < 1.03 * limit


def flipped(body: bytes) -> Any:
    for at in range(8 * len(body)):
        other = bytearray(body)
        other[at // 8] ^= 1 << at % 8
        yield bytes(other)


@pytest.mark.parametrize("edges", [1, 5, 8, 12, 33, 200])
def test_changed_entropy_codes_are_refused_or_another_permutation(edges: int) -> None:
    """One code per permutation: whatever is accepted encodes to just what was read."""
    ranks = drawn(edges)
    body = body_of(ranks, ENTROPY)
    accepted = refused = 0
    for other in flipped(body):
        try:
            found = read(other, edges, ENTROPY)
        except (NotPermutation, WrongShape):
            refused += 1
            continue
        accepted += 1
        assert sorted(found.tolist()) == list(range(edges))
        assert found.tolist() != ranks.tolist()
        assert body_of(found, ENTROPY) == other
    assert refused > 0
    assert accepted > 0 or edges <= 5  # of so few edges a single flip never gives another one


def rebuilt(
    edges: int, buckets: list[int] | None = None, orders: list[int] | None = None, words: list[int] | None = None
) -> bytes:
    """A code with parts of it replaced. The layer is one without words, or all of its words are given."""
    cut = plan_of(edges)
    body = body_of(np.arange(edges, dtype=np.int32), ENTROPY)
    low, middle = packed_bytes(edges, cut.low), packed_bytes(cut.words, cut.word_bits)

    def packed(values: list[int], bits: int) -> bytes:
        return b"".join(part.tobytes() for part in pack(np.array(values, np.int32), bits))

    parts = [body[:low], body[low : low + middle], body[low + middle :]]
    if buckets is not None:
        parts[0] = packed(buckets, cut.low)
    if words is not None:
        parts[1] = packed(words, cut.word_bits)
    if orders is not None:
        parts[2] = packed(orders, 31)
    return b"".join(parts)


def test_law_of_entropy_codes() -> None:
    # 32 edges: four buckets of eight, two plain bits, no words; two words of two orders each.
    assert (plan_of(32).low, plan_of(32).words, plan_of(32).pairs) == (2, 0, 2)
    full = sorted([0, 1, 2, 3] * 8)
    assert read(rebuilt(32, full, [0, 0]), 32, ENTROPY).tolist() == list(range(32))
    with pytest.raises(NotPermutation, match=r"net: bucket 0 has 9 edges; 8 belong there"):
        read(rebuilt(32, [0, *full[:-1]]), 32, ENTROPY)
    with pytest.raises(NotPermutation, match=r"bucket 2 of 4 has the order 40320; there are 40320"):
        read(rebuilt(32, full, [40_320 * 40_320, 0]), 32, ENTROPY)
    # 20 edges: three buckets, the last of four; its order may only move those, and the fourth order is spare.
    last = next(i for i, one in enumerate(itertools.permutations(range(8))) if one == (0, 1, 2, 4, 3, 5, 6, 7))
    assert plan_of(20).pairs == 2
    rest = {"buckets": [0] * 8 + [1] * 8 + [2] * 4} if plan_of(20).letters == 1 else {}
    assert read(rebuilt(20, orders=[0, 0], **rest), 20, ENTROPY).tolist() == list(range(20))
    # Pairs are (0, 2) and (1, spare).
    with pytest.raises(NotPermutation, match="last bucket has 4 edges"):
        read(rebuilt(20, orders=[last * 40_320, 0]), 20, ENTROPY)
    with pytest.raises(WrongShape, match="spare order"):
        read(rebuilt(20, orders=[0, 40_320]), 20, ENTROPY)


def test_law_of_words() -> None:
    edges = 36 * 8  # 36 buckets: two plain bits, nine letters, five to a word
    cut = plan_of(edges)
    assert (cut.low, cut.letters, cut.each, cut.words) == (2, 9, 5, 58)
    body = body_of(np.arange(edges, dtype=np.int32), ENTROPY)
    start = packed_bytes(edges, cut.low)
    words = [int.from_bytes(body[start + 2 * i : start + 2 * i + 2], "little") for i in range(48)]  # 16 bits: as they are
    words += [word for _, part in unpack(Bytes(body), start, cut.words, 16) for word in part.tolist()][48:]
    assert rebuilt(edges, words=words) == body
    with pytest.raises(WrongShape, match="word 3 is 59049"):
        read(rebuilt(edges, words=[*words[:3], 9**5, *words[4:]]), edges, ENTROPY)
    # 5 x 58 symbols for 288 edges: the last two are spare, in words 56 and 57.
    with pytest.raises(WrongShape, match="spare symbols"):
        read(rebuilt(edges, words=[*words[:57], words[57] + 9**4]), edges, ENTROPY)
    top = 35 + 1  # a bucket beyond the last one
    low = [0] * edges
    with pytest.raises(NotPermutation, match="buckets 0 to 35|belong there"):
        read(rebuilt(edges, low, words=[*words[:-1], (top >> 2) - 1]), edges, ENTROPY)


# Top edges only.


@pytest.mark.parametrize("edges", SIZES)
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_top_edges_come_back_and_the_rest_counts_as_nothing(edges: int, share: float) -> None:
    ranks, form = drawn(edges), Top(share)
    sent = edges - math.floor((1 - share) * edges)
    body = body_of(ranks, form)
    assert len(body) == form.size(edges) == -(-sent * width(edges) // 8)
    found = read(body, edges, form)
    assert found.tolist() == np.where(ranks >= edges - sent, ranks, 0).tolist()
    assert body_of(found, form) == body


def test_top_by_hand_and_its_law() -> None:
    # Six edges, ranks 3 0 5 1 4 2: the upper half is 0 (3), 4 (4), 2 (5).
    form = Top(0.5)
    body = body_of(np.array([3, 0, 5, 1, 4, 2], np.int32), form)
    assert body == (0b010_100_000).to_bytes(2, "little")
    assert read(body, 6, form).tolist() == [3, 0, 5, 0, 4, 0]
    for wrong, says in ((0b010_010_000, "3 places name 2 different edges"), (0b110_100_000, "place 2 names edge 6")):
        with pytest.raises(NotPermutation, match=says):
            read(wrong.to_bytes(2, "little"), 6, form)
    with pytest.raises(WrongShape, match="fill up"):
        read((1 << 9 | 0b010_100_000).to_bytes(2, "little"), 6, form)
    with pytest.raises(WrongShape, match="ranks of 3 bytes"):
        read(body + b"\0", 6, form)
    # Not checked, it still gives numbers and nothing else.
    assert len(EncodedRanks(Bytes(b"\xff\x01"), (6,), (form,))[0]) == 6


# The plan and the protocol.


TWO = Schema((Tensor("a", (30, 50)), Tensor("b", (2, 3, 2, 1))))


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(coding="entropy"), Settings(coding="auto", link_mbit_s=1), Settings(upload="top", top=0.3)],
)
def test_both_directions_carry_the_forms_of_the_plan(settings: Settings) -> None:
    server, at_server = registry.server_side("frl", settings, TWO, 3), registry.codec("frl", settings)
    on_device = registry.codec("frl")  # which knows no plan
    state = server.start(Vector.of(np.zeros(TWO.size, np.float32)))
    order = on_device.decode_order(at_server.encode_order(server.open(state, Cohort(1, ("a",)))), TWO)
    ranks = [drawn(1500), drawn(12)]
    sent = on_device.encode_update(Update(ranks, order.entropy, order.top))
    assert (sent.body.size, sent.body.size) == at_server.body_bytes(TWO)
    back = at_server.decode_update(sent, TWO)
    first = 1500 - Top(0.3).sent(1500) if settings.upload == "top" else 0
    assert back.ranks[0].tolist() == np.where(ranks[0] >= first, ranks[0], 0).tolist()
    after, _ = server.close(state, [Weighted("a", 1.0, back)], MemorySpace())
    assert (server.open(after, Cohort(2, ())).ranks[0] >= 1000).tolist() == (ranks[0] >= 1000).tolist() or first > 1000
    others = {"entropy": (not order.entropy[0], order.entropy[1]), "top": order.top}
    with pytest.raises(RejectedUpdate):
        at_server.decode_update(on_device.encode_update(Update(ranks, **others)), TWO)
    with pytest.raises(WrongShape, match="forms of 2 layers; the model has 1"):
        on_device.decode_order(Payload(at_server.encode_order(server.open(state, Cohort(1, ()))).header, sent.body),
                               Schema(TWO.tensors[:1]))  # fmt: skip


def test_auto_codes_where_the_link_is_slow_and_the_layer_gains() -> None:
    # 1,500 edges take 11 bits packed and about 9.2 coded; 1,024 take 10 and 8.7; two take 2 bits and more.
    edges = [1500, 1024, 2]
    assert entropy_coded(Settings(coding="packed"), edges) == (False, False, False)
    assert entropy_coded(Settings(coding="entropy"), edges) == (True, True, False)
    assert entropy_coded(Settings(coding="auto", link_mbit_s=1), edges) == (True, True, False)
    assert entropy_coded(Settings(coding="auto", link_mbit_s=1000), edges) == (False, False, False)
    forms = forms_of((True, False))
    assert forms == (ENTROPY, PACKED)


@pytest.mark.parametrize(
    "wrong", ["keep = 0.0", "keep = 1.01", "top = 0.0", "top = 1.2", 'upload = "some"', 'coding = "zip"', "link_mbit_s = 0.0"]
)
def test_plans_outside_the_bounds_are_refused(wrong: str) -> None:
    text = f'[run]\nname = "r"\nrounds = 1\ntask = "t"\n[cohort]\nsize = 3\n[method]\nname = "frl"\n{wrong}\n'
    with pytest.raises(ConfigError, match=wrong.split(" ")[0]):
        parse_plan(text, registry.method)
