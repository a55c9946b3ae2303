"""The one-process engine: equals rounds done by hand, repeats exactly, counts refusals, gives up in words."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import gaussian
from edgehold.client.data.synthetic import SyntheticTask, make_task
from edgehold.core.contract import Adversary, Facts
from edgehold.core.errors import FlError
from edgehold.core.facts import FACTS
from edgehold.core.plan import parse_plan
from edgehold.core.streams import client_stream, select, selection_stream
from edgehold.core.task import LocalTraining, Task
from edgehold.core.vectors import FloatArray, Schema, Vector
from edgehold.defenses import registry
from edgehold.server.engine import Result, model_digest, run


def go(
    tasks: Mapping[str, Task], cohort: str = "size = 3", method: str = "", more: str = "", rounds: int = 2, **how: Any
) -> Result:
    text = f"""
        [run]
        name = "small"
        rounds = {rounds}
        task = "synthetic"
        [cohort]
        {cohort}
        [method]
        name = "fedavg"
        {method}
        {more}
    """
    plan, settings = parse_plan(text, registry.method)
    return run(plan, settings, tasks, **how)


def fleet(n: int, values: int = 4) -> dict[str, Task]:
    return {f"c{i}": SyntheticTask(values, step=float(i), samples=i + 1) for i in range(n)}


def test_rounds_by_hand() -> None:
    # Steps 0, 1, 2 with claims 1, 2, 3 (cap 3 x median 2 leaves them): (0 + 2 + 6) / 6 = 4/3 a round.
    tasks = fleet(3)
    seen: list[tuple[int, Facts]] = []
    result = go(tasks, evaluate=make_task(4), on_round=lambda n, f: seen.append((n, f)))
    start = make_task(4).initial(0)
    once = (start.astype(np.float64) + np.float64(4 / 3)).astype(np.float32)
    assert np.allclose(result.model.whole(), once + np.float32(4 / 3), atol=1e-6)
    assert [n for n, _ in seen] == [1, 2]
    assert [f for _, f in seen] == result.rounds
    assert set(result.rounds[0]) <= set(FACTS)
    assert result.rounds[0]["clients_admitted"] == 3
    assert result.rounds[0]["bytes_up"] == 3 * (4 + 4 * 4)  # a header of four bytes and four values each
    assert result.rounds[1]["loss"] == make_task(4).evaluate(result.model.whole())["loss"]
    assert result.digest == model_digest(result.model) == hashlib.sha256(result.model.whole().tobytes()).digest()


def test_weights_follow_the_plan() -> None:
    tasks = {"a": SyntheticTask(1, 0.0, 10), "b": SyntheticTask(1, 0.0, 10), "c": SyntheticTask(1, 8.0, 10**9)}
    zero = Vector.of(np.zeros(1, np.float32))
    capped = go(tasks, rounds=1, initial=zero, more="[weights]\ncap = 2.0")
    assert capped.model.whole().tolist() == [4.0]  # 8 x 20 / 40
    equal = go(tasks, rounds=1, initial=zero, more='[weights]\nby = "equal"')
    assert equal.model.whole().tolist() == [np.float32(8 / 3)]


@dataclass(frozen=True)
class NoisyTask(SyntheticTask):
    """Adds noise from its stream, so that the stream shows in the model."""

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        return (start + rng.standard_normal(len(start))).astype(np.float32)


def test_same_seed_same_bits_and_insertion_order_is_irrelevant() -> None:
    tasks = {f"c{i}": NoisyTask(5, 1.0, i + 1) for i in range(4)}
    one = go(tasks, "size = 3\nover_select = 1.0")
    assert one.digest == go(dict(reversed(tasks.items())), "size = 3\nover_select = 1.0").digest
    assert one.digest != go(tasks, "size = 3\nover_select = 1.0", method="server_learning_rate = 0.5").digest


@dataclass(frozen=True)
class Flaky(SyntheticTask):
    """Gives infinity the first `bad` times: refused by the law, so that the round needs more attempts."""

    bad: int = 0
    calls: list[int] = field(default_factory=list)

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        self.calls.append(1)
        out = (start + rng.standard_normal(len(start))).astype(np.float32)
        if len(self.calls) <= self.bad:
            out[0] = np.inf
        return out


def test_attempts_leave_no_trace_in_the_model() -> None:
    smooth = {f"c{i}": Flaky(5, 0.0, 1) for i in range(3)}
    rough = {f"c{i}": Flaky(5, 0.0, 1, bad=2 if i == 1 else 0) for i in range(3)}
    a = go(smooth, "size = 3\nquorum = 3", more='[weights]\nby = "equal"')
    b = go(rough, "size = 3\nquorum = 3", more='[weights]\nby = "equal"')
    assert b.rejected == {"not_finite": 2}
    assert a.digest == b.digest


def test_rejected_clients_are_absent_and_spares_stand_in() -> None:
    adversaries: dict[str, Adversary] = {"c0": gaussian.not_finite(), "c1": gaussian.not_finite(float("inf"))}
    short = go(fleet(6), "size = 6\nquorum = 4", adversaries=adversaries, rounds=1)
    assert short.rejected == {"not_finite": 2}
    assert short.rounds[0]["clients_admitted"] == 4
    assert np.isfinite(short.model.whole()).all()
    spare = go(fleet(6), "size = 4\nover_select = 1.5\nquorum = 4", adversaries=adversaries, rounds=1)
    assert spare.rounds[0]["clients_admitted"] == 4
    assert spare.rounds[0]["clients_selected"] == 6


def test_a_round_short_of_its_quorum_ends_the_run_with_the_reason() -> None:
    adversaries: dict[str, Adversary] = {"c0": gaussian.not_finite()}
    with pytest.raises(FlError, match=r"round 1: 2 updates admitted.*2 attempts; 3 are needed.*not_finite.*: 2"):
        go(fleet(3), "size = 3\nquorum = 3\nmax_attempts = 2", adversaries=adversaries)
    with pytest.raises(FlError, match="no clients of this run"):
        go(fleet(3), adversaries={"stranger": gaussian.not_finite()})


class Counting:
    """A client half with local state: how many rounds it has worked; it sends that."""

    def begin(self, order: Any, task: Task, rng: np.random.Generator) -> int:
        return 0

    def work(self, order: Any, local: int, task: Task, rng: np.random.Generator) -> tuple[int, Any, Facts]:
        from edgehold.defenses.baselines.fedavg.state import Update

        bad = np.nan if local == 1 and not self.__dict__.setdefault("failed", False) else float(local + 1)
        self.__dict__["failed"] = self.__dict__.get("failed", False) or local == 1
        return local + 1, Update(Vector.of(np.full(order.model.size, bad, np.float32)), 1), {}

    def dump(self, local: int) -> bytes:
        return bytes([local])

    def load(self, data: bytes) -> int:
        return data[0]


def test_a_repeated_round_starts_from_the_local_state_before_it() -> None:
    # Rounds send 1, 2, 3. Round 2 fails once; were its local state kept, the repeat would send 3.
    zero = Vector.of(np.zeros(1, np.float32))
    counting: Adversary = lambda honest, client: Counting()  # noqa: E731
    result = go({"a": make_task(1)}, "size = 1", adversaries={"a": counting}, rounds=3, initial=zero)
    assert result.rejected == {"not_finite": 1}
    assert result.model.whole().tolist() == [6.0]


def test_streams_are_apart_and_attempts_do_not_reach_clients() -> None:
    draws = {
        tuple(client_stream(seed, run, round, client).integers(1 << 60, size=2))
        for seed in (0, 1)
        for run in ("a", "b")
        for round in (1, 2)
        for client in ("x", "y")
    }
    assert len(draws) == 16
    assert select("dbca", 4, selection_stream(0, "r", 1, 1)) == ("a", "b", "c", "d")
    ids = [f"c{i}" for i in range(20)]
    picks = [select(ids, 5, selection_stream(0, "r", 1, attempt)) for attempt in (1, 1, 2)]
    assert picks[0] == picks[1] != picks[2]
    assert picks[0] == tuple(sorted(picks[0]))
    assert set(picks[0]) < set(select(ids[::-1], 9, selection_stream(0, "r", 1, 1)))
    assert select([], 3, selection_stream(0, "r", 1, 1)) == ()


def test_every_client_is_equally_likely() -> None:
    # 2000 draws of 3 of 10: each is drawn 600 times on average, sd sqrt(2000 x 0.3 x 0.7) = 20.5; 5 sd is 1 in 10^5 runs.
    ids = [f"c{i}" for i in range(10)]
    drawn = [c for round in range(2000) for c in select(ids, 3, selection_stream(0, "r", round, 1))]
    counts = np.array([drawn.count(c) for c in ids])
    assert np.abs(counts - 600).max() < 5 * 20.5


def test_schema_of_tasks_is_checked_by_the_orders() -> None:
    with pytest.raises(FlError):
        go({"a": make_task(4), "b": make_task(5)}, "size = 2", rounds=1)
    assert isinstance(make_task(4).schema, Schema)
