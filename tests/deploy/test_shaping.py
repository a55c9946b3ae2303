"""Links: what happens to packets, by hand and by count; and that cuts begin and end with their rounds."""

import random
import threading
from collections.abc import Mapping
from math import isclose, sqrt
from pathlib import Path

import pytest

from edgehold.attacks.multinode.backend import Ended, OnRound
from edgehold.attacks.multinode.config import Link, Testbed, checked
from edgehold.attacks.multinode.partitions import Partitions
from edgehold.attacks.multinode.shaping import MOST_HELD, Direction
from edgehold.attacks.testbed import eventually
from edgehold.core.config import convert, parse_toml

DEPLOY = Path(__file__).parents[2] / "deploy"


def arrivals(direction: Direction, sent: list[tuple[int, float]]) -> list[float | None]:
    """Of packets (bytes, second)."""
    rng = random.Random(1)
    return [direction.arrival(size, now, rng) for size, now in sent]


def test_a_perfect_link_holds_nothing() -> None:
    assert arrivals(Direction(), [(1500, 1.0), (1500, 1.0), (1500, 2.0)]) == [1.0, 1.0, 2.0]


def test_delay_and_rate_add_up() -> None:
    # 1 Mbit/s: 1250 bytes take 10 ms. The second waits for the first, the third finds the line free; each is 5 ms under way.
    direction = Direction(Link(delay_ms=5.0, rate_mbit=1.0))
    found = arrivals(direction, [(1250, 0.0), (1250, 0.0), (1250, 1.0)])
    assert [round(when or 0.0, 6) for when in found] == [0.015, 0.025, 1.015]


def test_a_cut_lets_nothing_through_and_leaves_the_link_as_it_was() -> None:
    direction = Direction(Link(delay_ms=5.0), cut=True)
    assert arrivals(direction, [(100, 0.0)]) == [None]
    direction.cut = False
    assert arrivals(direction, [(100, 1.0)]) == [1.005]


def test_jitter_never_reorders_nor_arrives_early() -> None:
    direction = Direction(Link(delay_ms=2.0, jitter_ms=50.0))
    sent = [(100, 0.001 * i) for i in range(500)]
    found = [when for when in arrivals(direction, sent) if when is not None]
    assert found == sorted(found)
    assert all(when >= now for when, (_, now) in zip(found, sent, strict=True))
    assert max(when - now for when, (_, now) in zip(found, sent, strict=True)) > 0.03


def test_the_share_lost_is_the_share_asked_for() -> None:
    # 20,000 independent draws at 2 %: standard deviation 19.8 packets; five of them are exceeded once in a million seeds.
    many = 20_000
    lost = arrivals(Direction(Link(loss_percent=2.0)), [(100, float(i)) for i in range(many)]).count(None)
    assert abs(lost - 0.02 * many) < 5 * sqrt(many * 0.02 * 0.98)


def test_what_is_more_than_a_link_holds_is_lost() -> None:
    direction = Direction(Link(delay_ms=1000.0))
    found = arrivals(direction, [(100, 0.0)] * (MOST_HELD + 1) + [(100, 2.0)])
    assert found[MOST_HELD - 1] == 1.0
    assert found[MOST_HELD] is None
    assert isclose(found[MOST_HELD + 1] or 0.0, 3.0)


class Watched:
    """A backend that notes who is off."""

    def __init__(self, refuses: bool = False) -> None:
        self.off: list[str] = []
        self.said: list[str] = []
        self.refuses = refuses
        self._lock = threading.Lock()

    def cut(self, client: str) -> None:
        with self._lock:
            self.off.append(client)
            self.said.append(f"cut {client}")

    def heal(self, client: str) -> None:
        if self.refuses:
            raise RuntimeError("no such network")
        with self._lock:
            self.off.remove(client)
            self.said.append(f"heal {client}")

    def up(self) -> None: ...
    def turn(self) -> None: ...
    def down(self) -> None: ...
    def logs(self, folder: Path) -> None: ...
    def fetch(self, run: str, path: Path) -> None: ...
    def export(self, run: str, folder: Path) -> None: ...

    def deploy(self, folder: Path, client: str) -> str:
        raise AssertionError("not asked for here")

    def run(self, name: str, plan: str, on_round: OnRound) -> Ended:
        raise AssertionError("not asked for here")


def parted(seconds: float, rounds: str = "") -> Testbed:
    """The shipped testbed with a partition."""
    text = (
        DEPLOY / "testbed.toml"
    ).read_text() + f'\n[[partition]]\nclients = ["dev-1", "dev-2"]\nseconds = {seconds}\n{rounds}\n'
    return checked(convert(parse_toml(text, "here"), Testbed, "here"), "here")


def test_a_cut_begins_with_its_round_and_ends_by_itself() -> None:
    backend = Watched()
    cuts = Partitions(parted(0.05), backend)
    cuts.begin(1, 2)
    assert backend.said == ["cut dev-1"]
    eventually(lambda: backend.said == ["cut dev-1", "heal dev-1"], 5.0, "healed by itself")
    cuts.begin(2, 2)
    cuts.begin(2, 2)  # a round is told twice
    cuts.begin(3, 2)  # there is no third round
    cuts.end()
    assert backend.said[2:] == ["cut dev-2", "heal dev-2"]
    told: list[Mapping[str, object]] = [
        {"round": 1, "client": "dev-1", "seconds": 0.05},
        {"round": 2, "client": "dev-2", "seconds": 0.05},
    ]
    assert cuts.as_list() == told


def test_the_end_of_a_run_heals_whoever_is_off() -> None:
    backend = Watched()
    cuts = Partitions(parted(3600.0, "rounds = [1]"), backend)
    cuts.begin(1, 5)
    assert backend.off == ["dev-1", "dev-2"]
    cuts.end()
    assert backend.off == []


def test_a_heal_that_fails_fails_the_run() -> None:
    cuts = Partitions(parted(3600.0), Watched(refuses=True))
    cuts.begin(1, 5)
    with pytest.raises(RuntimeError, match="no such network"):
        cuts.end()
