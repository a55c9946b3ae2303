"""Sums are exact: every group size, every number of drop-outs that is withstood, at every step, three widths."""

from dataclasses import replace
from functools import lru_cache

import msgspec
import numpy as np
import pytest
from tests.support.masked import (
    SERVER_KEY,
    Memory,
    Played,
    advertised,
    expected,
    revealed,
    roots,
    settled,
    shared,
    uploaded,
)  # fmt: skip

from edgehold.core.errors import GroupLost, Stale
from edgehold.core.masks import members
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.group import MaskGroup
from edgehold.core.masks.terms import CEILING, FLOOR, dropouts_withstood, narrowest, threshold


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each advert is judged once instead of once by every member: the judgement is the same, and has tests of its own."""
    known = lru_cache(maxsize=512)(members.fault)
    monkeypatch.setattr(members, "fault", known)


WIDTHS = {8: 3, 16: 1000, 32: 60_000_000}
"""Bits of the modulus, and a largest entry that needs them in groups of 64."""
SIZES = tuple(range(FLOOR, CEILING + 1))


def begun(count: int, bits: int, silent: int = 0, seed: int = 0, cipher: str = "aes256-ctr") -> Played:
    """A group all of whose members but the first `silent` ones of a drawn order have shared and made their masked vectors."""
    played = advertised(count, seed, bits=bits, largest=WIDTHS[bits], cipher=cipher)
    shared(played, order(played, seed)[:silent])
    uploaded(played)
    return played


def order(played: Played, seed: int) -> list[str]:
    return [str(who) for who in np.random.default_rng(seed).permutation(played.group.roster.ids)]


def ended(played: Played, vectors: int, reveals: int, seed: int = 0) -> None:
    """From there: so many never send their vector, so many more never reveal. The sum of the rest is exact.

    Machines are copies of those that began, through their bytes.
    """
    left = [who for who in order(played, seed) if who in played.group.sharers]
    state = msgspec.msgpack.decode(played.group.dump())
    state["uploads"] = {who: digest for who, digest in state["uploads"].items() if who in left[vectors:]}
    clients = {
        who: MaskClient.restore(played.clients[who].dump(), roots=roots(), server_key=SERVER_KEY, journal=Memory())
        for who in left
    }
    again = replace(played, clients=clients, group=MaskGroup.restore(msgspec.msgpack.encode(state)))
    revealed(again, left[vectors : vectors + reveals])
    found = settled(again)
    assert found.survivors == tuple(sorted(left[vectors:]))
    assert np.array_equal(np.concatenate(list(found.blocks(7))), expected(again))
    assert found.residues.dtype.itemsize * 8 == played.terms.bits


def test_widths_are_the_narrowest() -> None:
    assert [narrowest(CEILING, largest) for largest in WIDTHS.values()] == list(WIDTHS)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("cipher", ["aes256-ctr", "chacha20"])
def test_every_number_of_dropouts_at_every_step_of_small_groups(bits: int, cipher: str) -> None:
    for count in (8, 9, 10, 11):
        most = dropouts_withstood(count)
        for silent in range(most + 1):
            played = begun(count, bits, silent, count, cipher)
            for vectors in range(most + 1 - silent):
                for reveals in range(most + 1 - silent - vectors):
                    ended(played, vectors, reveals, seed=vectors)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(6))
def test_every_size(first: int) -> None:
    """Each with no drop-out, one, half, all but one and all it withstands, at the later two steps in turns; every third size
    with some at the first step too. Sizes 8 to 11 have every number of them, above.
    """
    for count in SIZES[first::6]:
        most = dropouts_withstood(count)
        silent = most // 2 if count % 3 == 0 else 0
        played = begun(count, (8, 16, 32)[count % 3], silent, count)
        left = most - silent
        for gone in sorted({0, 1, left // 2, left - 1, left} & set(range(left + 1))):
            vectors = (gone, 0, gone // 2)[(gone + first) % 3]
            ended(played, vectors, gone - vectors, gone)


@pytest.mark.parametrize("count", [8, 9, 16, 31, 64])
def test_as_many_as_can_vanish_before_they_share(count: int) -> None:
    ended(begun(count, 32, dropouts_withstood(count)), 0, 0)


@pytest.mark.parametrize("count", [8, 9, 10, 16, 31, 32, 64])
def test_one_more_dropout_aborts_and_reveals_nothing(count: int) -> None:
    gone = dropouts_withstood(count) + 1
    assert count - gone == threshold(count)

    played = advertised(count)
    with pytest.raises(GroupLost, match="sent shares"):
        shared(played, played.group.roster.ids[:gone])
    with pytest.raises(Stale):
        played.group.boxes_for(played.group.roster.ids[-1])

    played = begun(count, 8)
    before = played.group.dump()
    with pytest.raises(GroupLost, match="are needed"):
        ended(played, 0, gone)
    with pytest.raises(GroupLost, match="sent masked vectors"):
        ended(played, gone, 0)
    with pytest.raises(GroupLost, match="are needed"):
        ended(played, gone - 1, 1)
    assert played.group.dump() == before
    assert not any(book.lines for book in played.journals.values())


def test_masked_vectors_say_nothing_alone() -> None:
    """All zeros under masks: every byte value about as often as any other, and no two devices send the same."""
    played = advertised(8, entries=20_000)
    for who in played.vectors:
        played.vectors[who] = np.zeros(20_000, np.int64)
    shared(played)
    uploaded(played)
    seen = np.bincount(np.frombuffer(b"".join(bytes(one.data) for one in played.uploads.values()), np.uint8), minlength=256)
    # chi-squared with 255 degrees of freedom: above 420 in less than one of 10^9 cases
    assert ((seen - 625.0) ** 2 / 625).sum() < 420
    assert len({bytes(one.data) for one in played.uploads.values()}) == 8
    revealed(played)
    assert not np.any(settled(played).residues)
