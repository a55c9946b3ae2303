"""Training together: the same as one by one within float32 rounding, and only where that can be."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgehold.attacks.byzantine import label_flip
from edgehold.core import torch_together
from edgehold.core.contract import Facts
from edgehold.core.facts import FACTS
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining, Task
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import FloatArray
from edgehold.defenses import registry
from edgehold.server.engine import Result, VirtualFleet, run

SHARE = 1e-5
"""Stated tolerance: of the largest weight."""


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))


def frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4))
    module[0].weight.requires_grad_(False)
    return module


def task(number: int, model: Callable[[], nn.Module] = perceptron, loss: Any = nn.functional.cross_entropy) -> TorchTask:
    rng = stream(1, number)
    records = 3 + 7 * (number % 5)
    data = rng.standard_normal((records, 6), dtype=np.float32), rng.integers(0, 4, records)
    return TorchTask(model, data, None, loss)


HOW = LocalTraining(epochs=3, batch_size=8, learning_rate=0.2)


@pytest.mark.parametrize(
    "how",
    [HOW, replace(HOW, momentum=0.9), replace(HOW, weight_decay=0.1, proximal=0.5), replace(HOW, batch_size=1, epochs=1)],
    ids=["plain", "momentum", "decay and proximal", "single records"],
)
@pytest.mark.parametrize("model", [perceptron, frozen])
def test_stacked_equals_one_by_one(how: LocalTraining, model: Callable[[], nn.Module]) -> None:
    tasks = [task(number, model) for number in range(20)]
    starts = [one.initial(number) for number, one in enumerate(tasks)]
    alone = [one.train(start, how, stream(2, n)) for n, (one, start) in enumerate(zip(tasks, starts, strict=True))]
    rngs = [stream(2, number) for number in range(20)]
    assert len({one.companions(how) for one in tasks}) == 1
    stacked = tasks[0].train_together(tasks, starts, how, rngs)
    assert stacked is not None
    for one, other, start in zip(alone, stacked, starts, strict=True):
        assert np.abs(one - other).max() <= SHARE * np.abs(one).max()
        assert np.abs(one - start).max() > 0.01  # and something was learnt
    # The generators are where plain training leaves them.
    used = stream(2, 3)
    tasks[3].train(starts[3], how, used)
    assert used.random() == rngs[3].random()


def summed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


class Crossing(nn.Module):
    """Looks at the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x - x.mean(0))
        return found


class Branching(nn.Module):
    """Computes what torch cannot vectorise."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        return found if float(found.detach().sum()) > 0 else -found


@pytest.mark.parametrize(
    ("model", "loss"),
    [(perceptron, summed), (Crossing, nn.functional.cross_entropy), (Branching, nn.functional.cross_entropy)],
    ids=["a loss that is no mean", "records that see each other", "branches"],
)
def test_what_only_seems_stackable_is_found_out(model: Callable[[], nn.Module], loss: Any) -> None:
    tasks = [task(number, model, loss) for number in range(1, 21)]
    starts = [one.initial(0) for one in tasks]
    assert tasks[0].train_together(tasks, starts, HOW, [stream(2, n) for n in range(20)]) is None


@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Sequential(nn.Linear(6, 9), nn.Dropout(), nn.Linear(9, 4)),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4)),
        lambda: nn.Sequential(nn.Linear(6, 2000), nn.ReLU(), nn.Linear(2000, 4)),
    ],
    ids=["dropout", "convolution", "too large"],
)
def test_what_cannot_be_stacked_or_does_not_pay_has_no_companions(model: Callable[[], nn.Module]) -> None:
    assert task(0, model).companions(HOW) is None


def test_different_models_losses_and_few_clients_stay_apart() -> None:
    other = lambda: nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4))  # noqa: E731
    keys = {one.companions(HOW) for one in (task(0), task(1), task(0, other), task(0, loss=summed))}
    assert len(keys) == 3
    few = [task(number) for number in range(torch_together.FEWEST - 1)]
    assert few[0].train_together(few, [one.initial(0) for one in few], HOW, [stream(0)] * len(few)) is None


def play(batch: bool, tasks: Any = None, adversaries: Any = None, method: str = "", workers: int = 1) -> Result:
    head = '[run]\nname = "t"\nrounds = 3\ntask = "t"\n[cohort]\nsize = 20\nover_select = 1.0\n'
    text = f'{head}[method]\nname = "fedavg"\n{method}'
    fleet = tasks or VirtualFleet("edgehold.client.data.digits:make_task", {"hidden": 16}, 20)
    own = None if tasks else fleet.own_copy()
    return run(*parse_plan(text, registry.method), fleet, own, adversaries, batch=batch, workers=workers)


def test_a_run_says_which_path_it_took_and_comes_out_the_same() -> None:
    plain, stacked = play(False, method="local_epochs = 2"), play(True, method="local_epochs = 2")
    assert "clients_batched" not in plain.rounds[0]
    assert [facts["clients_batched"] for facts in stacked.rounds] == [20.0] * 3
    assert set(stacked.rounds[0]) <= set(FACTS)
    one, other = plain.model.whole(), stacked.model.whole()
    assert np.abs(one - other).max() <= SHARE * np.abs(one).max()
    assert stacked.rounds[-1]["accuracy"] == pytest.approx(plain.rounds[-1]["accuracy"], abs=0.01)
    # Nothing to stack: the plain path, said so, bit for bit.
    large = play(True, VirtualFleet("edgehold.client.data.digits:make_task", {"hidden": 400}, 20))
    assert large.rounds[0]["clients_batched"] == 0.0
    assert large.digest == play(False, VirtualFleet("edgehold.client.data.digits:make_task", {"hidden": 400}, 20)).digest


def test_liars_who_change_records_train_alone() -> None:
    liars = {client: label_flip.make() for client in ("c0003", "c0007")}
    plain, stacked = play(False, adversaries=liars), play(True, adversaries=liars)
    assert [facts["clients_batched"] for facts in stacked.rounds] == [18.0] * 3
    one, other = plain.model.whole(), stacked.model.whole()
    assert np.abs(one - other).max() <= SHARE * np.abs(one).max()
    assert plain.digest != play(False).digest


@dataclass(frozen=True)
class Twice:
    """Draws before and after training, trains twice, and sends what it drew: replaying it must not move its randomness."""

    honest: Any
    log: list[tuple[float, float]]

    def begin(self, order: Any, task: Task, rng: np.random.Generator) -> Any:
        return self.honest.begin(order, task, rng)

    def work(self, order: Any, local: Any, task: Task, rng: np.random.Generator) -> tuple[Any, Any, Facts]:
        before = rng.random()
        local, update, facts = self.honest.work(order, local, task, rng)
        again: FloatArray = task.train(order.model.whole(), LocalTraining(learning_rate=0.01), rng)
        self.log.append((before, rng.random() + float(np.abs(again).max())))
        return local, update, facts

    def dump(self, local: Any) -> bytes:
        found: bytes = self.honest.dump(local)
        return found

    def load(self, data: bytes) -> Any:
        return self.honest.load(data)


def test_halves_are_replayed_exactly() -> None:
    logs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for batch, log in logs.items():
        clients = [f"c{number:04}" for number in range(20)]
        liars = {c: lambda honest, client, log=log: Twice(honest, log) for c in clients}
        play(batch, adversaries=liars)
    assert len(logs[False]) == 60
    assert [one[0] for one in logs[False]] == [one[0] for one in logs[True]]
    assert np.allclose([one[1] for one in logs[False]], [one[1] for one in logs[True]], rtol=1e-5)
