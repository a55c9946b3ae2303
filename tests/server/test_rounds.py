"""Counting: when a round closes, how many are asked, what a claim weighs, how fast somebody may call."""

from math import ceil, inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehold.core.weights import capped
from edgehold.server.rounds.tally import Tally, Verdict, wanted
from edgehold.server.wire import gate
from edgehold.server.wire.gate import Bucket


def tally(selected: str, size: int, quorum: int, admitted: str = "", lost: str = "") -> Tally:
    found = Tally(frozenset(selected), size, quorum)
    for client in admitted:
        found.admit(client)
    for client in lost:
        found.lose(client)
    return found


@pytest.mark.parametrize(
    ("admitted", "lost", "late", "verdict"),
    [
        # Four asked for three updates, two are enough at the deadline.
        ("", "", False, "wait"),
        ("ab", "", False, "wait"),
        ("abc", "", False, "close"),
        ("abcd", "", True, "close"),
        ("ab", "", True, "close"),
        ("a", "", True, "abandon"),
        ("ab", "cd", False, "close"),  # nobody else can come
        ("ab", "c", False, "wait"),  # d would make it three
        ("a", "cd", False, "wait"),  # b would make the quorum
        ("a", "bcd", False, "abandon"),
        ("", "abcd", False, "abandon"),
        ("", "", True, "abandon"),
    ],
)
def test_verdicts_by_hand(admitted: str, lost: str, late: bool, verdict: str) -> None:
    assert tally("abcd", 3, 2, admitted, lost).decide(late) == verdict


def test_an_admitted_client_cannot_be_lost_and_a_stranger_is_nobody() -> None:
    found = tally("ab", 2, 1, "az", "az")
    assert (found.admitted, found.lost, set(found.pending)) == ({"a"}, set(), {"b"})
    late = tally("ab", 2, 1, "", "a")
    late.admit("a")  # lost, but its receipt was under way
    assert (late.admitted, late.lost) == ({"a"}, set())


def test_who_is_shut_out_counts_no_more() -> None:
    found = tally("abc", 3, 2, "ab")
    found.drop("a")
    assert (found.admitted, found.lost, set(found.pending)) == ({"b"}, {"a"}, {"c"})
    found.drop("z")
    assert found.lost == {"a"}


events = st.lists(st.tuples(st.sampled_from(["admit", "lose", "drop"]), st.integers(0, 9)), max_size=30)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), events, st.booleans())
def test_never_closes_below_quorum_nor_abandons_within_reach(
    asked: int, size: int, quorum: int, happened: list[tuple[str, int]], late: bool
) -> None:
    size, quorum = min(size, asked), min(quorum, size, asked)
    found = Tally(frozenset(str(i) for i in range(asked)), size, quorum)
    for what, client in happened:
        getattr(found, what)(str(client))
        assert found.admitted | found.lost | found.pending == found.selected
        assert len(found.admitted) + len(found.lost) + len(found.pending) == asked
    verdict = found.decide(late)
    have, reach = len(found.admitted), len(found.admitted) + len(found.pending)
    if verdict is Verdict.CLOSE:
        assert have >= quorum
    if verdict is Verdict.ABANDON:
        assert have < quorum
        assert late or reach < quorum
    if verdict is Verdict.WAIT:
        assert not late
        assert found.pending


def test_wanted_by_hand() -> None:
    # 1.1 * 10 is 11.000000000000002 in binary: not twelve.
    assert [wanted(10, 1.0), wanted(10, 1.3), wanted(10, 1.1), wanted(3, 1.3), wanted(1, 1.0)] == [10, 13, 11, 4, 1]


@given(st.integers(1, 1_000_000), st.integers(100, 400))
def test_wanted_is_the_exact_ceiling(size: int, percent: int) -> None:
    assert wanted(size, percent / 100) == ceil(-(-size * percent // 100)) >= size


# Weights.


def test_capped_by_hand() -> None:
    # Median 20, cap 3: nothing above 60.
    assert capped([10.0, 20.0, 1000.0], "samples", 3.0) == [10.0, 20.0, 60.0]
    assert capped([10.0, 20.0, 1000.0], "equal", 3.0) == [1.0] * 3
    assert capped([nan, inf, -1.0, 0.0, 8.0, 4.0], "samples", 3.0) == [4.0, 4.0, 4.0, 4.0, 8.0, 4.0]
    assert capped([nan, 0.0], "samples", 3.0) == [1.0, 1.0]
    assert capped([], "samples", 3.0) == []


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20), st.floats(1.0, 100.0))
def test_capped_laws(claims: list[float], cap: float) -> None:
    weights = capped(claims, "samples", cap)
    assert len(weights) == len(claims)
    assert all(0 < weight < inf for weight in weights)
    sound = sorted(claim for claim in claims if 0 < claim < inf)
    if sound:
        middle = (sound[(len(sound) - 1) // 2] + sound[len(sound) // 2]) / 2
        assert max(weights) <= cap * middle or max(weights) <= cap * sound[len(sound) // 2]
        for weight, claim in zip(weights, claims, strict=True):
            assert not 0 < claim < inf or weight <= claim
    # Order is irrelevant: each claim keeps its weight.
    assert sorted(capped(claims[::-1], "samples", cap)) == sorted(weights)
    assert capped(claims[::-1], "samples", cap) == weights[::-1]


# Pace.


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(gate, "time", clock)
    bucket = Bucket(rate=2.0, burst=3.0)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 0.4  # 0.8 of one
    assert not bucket.take()
    clock.now += 0.1
    assert [bucket.take(), bucket.take()] == [True, False]
    clock.now += 1000.0  # never more than the burst
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.floats(0.0, 3.0), max_size=60))
def test_bucket_never_lets_more_through_than_rate_and_burst(waits: list[float]) -> None:
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "time", clock)
        bucket, start, passed = Bucket(2.0, 3.0), clock.now, 0
        for wait in waits:
            clock.now += wait
            passed += bucket.take()
            assert passed <= 3.0 + 2.0 * (clock.now - start) + 1e-6
