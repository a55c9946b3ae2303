"""Gradients written out for perceptrons: bit for bit those of autograd, and only for models they are right for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgehold.core.task import LocalTraining
from edgehold.core.torch_dense import Dense
from edgehold.core.torch_task import TorchTask

RECORDS = 23
PLAIN = nn.functional.cross_entropy
MODELS: dict[str, Callable[[], nn.Module]] = {
    "one layer": lambda: nn.Sequential(nn.Linear(12, 4)),
    "two": lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)),
    "three": lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)),
    "no bias": lambda: nn.Sequential(nn.Linear(12, 9, bias=False), nn.ReLU(), nn.Linear(9, 4, bias=False)),
    "nothing between": lambda: nn.Sequential(nn.Linear(12, 9), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)),
    "flattened": lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4)),
}


def by_autograd(outputs: Tensor, targets: Tensor) -> Tensor:
    """The same loss under a name that nothing is written out for."""
    return nn.functional.cross_entropy(outputs, targets)


def task_of(
    model: Callable[[], nn.Module], loss: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...] = (12,)
) -> TorchTask:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(RECORDS, *shape)).astype(np.float32)
    return TorchTask(model, (x, rng.integers(0, 4, RECORDS)), None, loss)


def knows(task: TorchTask) -> bool:
    return task._dense is not None and task._dense.takes(*task._train)  # type: ignore[misc]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", [
    LocalTraining(epochs=3, batch_size=5, learning_rate=0.3),
    LocalTraining(epochs=2, batch_size=64, learning_rate=0.1, momentum=0.9, weight_decay=0.01, proximal=0.1),
], ids=["plain", "everything"])  # fmt: skip
def test_training_is_bit_for_bit_that_of_autograd(name: str, how: LocalTraining) -> None:
    shape = (1, 3, 4) if name == "flattened" else (12,)
    ours, other = task_of(MODELS[name], PLAIN, shape), task_of(MODELS[name], by_autograd, shape)
    assert knows(ours)
    assert not knows(other)
    start = ours.initial(1)
    got = ours.train(start, how, np.random.default_rng(7))
    want = other.train(start, how, np.random.default_rng(7))
    assert not np.array_equal(want, start)
    assert got.tobytes() == want.tobytes()


def test_a_method_with_its_own_optimiser_sees_the_same_gradients() -> None:
    def slopes(loss: Callable[[Tensor, Tensor], Tensor]) -> list[bytes]:
        task, seen = task_of(MODELS["two"], loss), list[bytes]()

        def begin(flat: Tensor) -> None:
            flat.copy_(torch.from_numpy(task.initial(2)))

        def step(flat: Tensor, gradient: Tensor) -> None:
            seen.append(gradient.numpy().tobytes())
            flat.sub_(gradient)

        task.train_by(begin, step, LocalTraining(2, 6), np.random.default_rng(3))
        return seen

    ours = slopes(PLAIN)
    assert len(ours) == 8
    assert ours == slopes(by_autograd)


def test_blown_up_weights_give_what_autograd_gives() -> None:
    ours, other = task_of(MODELS["three"], PLAIN), task_of(MODELS["three"], by_autograd)
    start, how = ours.initial(0) * np.float32(1e18), LocalTraining(epochs=2, batch_size=8, learning_rate=1e18)
    got, want = (one.train(start, how, np.random.default_rng(1)) for one in (ours, other))
    assert not np.isfinite(want).all()
    assert np.array_equal(got, want, equal_nan=True)


class Odd(nn.Linear):
    """Not a linear layer any more."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) * 2


def _tied() -> nn.Module:
    one = nn.Linear(12, 12)
    return nn.Sequential(one, nn.ReLU(), one, nn.ReLU(), nn.Linear(12, 4))


def _frozen() -> nn.Module:
    module = MODELS["two"]()
    next(module.parameters()).requires_grad_(False)
    return module


def _hooked() -> nn.Module:
    module = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
    module[0].register_forward_hook(lambda layer, inputs, output: output * 2)
    return module


def _nested() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Linear(12, 9), nn.ReLU()), nn.Linear(9, 4))


OTHERS: dict[str, Callable[[], Any]] = {
    "another bend": lambda: nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)),
    "dropout": lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 4)),
    "ends bent": lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU()),
    "bent twice": lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.ReLU(), nn.Linear(9, 4)),
    "begins bent": lambda: nn.Sequential(nn.ReLU(), nn.Linear(12, 4)),
    "a subclass": lambda: nn.Sequential(Odd(12, 9), nn.ReLU(), nn.Linear(9, 4)),
    "tied": _tied, "frozen": _frozen, "hooked": _hooked, "nested": _nested,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_model_goes_through_autograd(name: str) -> None:
    task = task_of(OTHERS[name], PLAIN)
    assert not knows(task)
    how = LocalTraining(epochs=1, batch_size=6)
    got = task.train(task.initial(0), how, np.random.default_rng(1))
    want = task_of(OTHERS[name], by_autograd).train(task.initial(0), how, np.random.default_rng(1))
    assert got.tobytes() == want.tobytes()


def test_a_hook_that_is_hung_on_later_is_called() -> None:
    task, seen = task_of(MODELS["two"], PLAIN), list[int]()
    assert knows(task)
    handle = task.module.register_forward_hook(lambda layer, inputs, output: seen.append(len(output)))
    task.train(task.initial(0), LocalTraining(epochs=1, batch_size=6), np.random.default_rng(1))
    assert seen == [6, 6, 6, 5]
    handle.remove()
    assert knows(task)


def test_records_that_cross_entropy_reads_otherwise_go_through_autograd() -> None:
    module = MODELS["two"]()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    dense = Dense.of(module, PLAIN)
    assert dense is not None
    x, y = torch.zeros(3, 12), torch.tensor([0, 1, 2])
    assert dense.takes(x, y)
    assert not dense.takes(x, torch.tensor([0, -100, 2]))  # left out by cross-entropy
    assert not dense.takes(x, torch.rand(3, 4))  # shares of every class
    assert not dense.takes(x.double(), y)
    assert not dense.takes(torch.zeros(3, 5, 12), y)  # a linear layer works on the last axis
