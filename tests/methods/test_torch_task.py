"""TorchTask: equals plain torch.optim.SGD, repeats exactly, refuses what cannot be averaged."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining, Task
from edgehold.core.torch_task import TorchTask

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 50)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def task(model: Callable[[], nn.Module] = mlp) -> TorchTask:
    return TorchTask(
        model,
        (X, Y),
        (X[:20], Y[:20]),
        nn.functional.cross_entropy,
        {"accuracy": lambda o, t: float((o.argmax(1) == t).float().mean())},
    )


@pytest.mark.parametrize(
    "how",
    [
        LocalTraining(epochs=2, batch_size=8, learning_rate=0.1),
        LocalTraining(epochs=2, batch_size=8, learning_rate=0.1, momentum=0.9, weight_decay=0.01),
        LocalTraining(epochs=2, batch_size=64, learning_rate=0.1, proximal=0.5),
        LocalTraining(epochs=2, batch_size=8, learning_rate=0.1, steps=1),
        LocalTraining(epochs=2, batch_size=8, learning_rate=0.1, momentum=0.9, steps=9),  # two of the second epoch
        LocalTraining(epochs=2, batch_size=8, learning_rate=0.1, steps=100),
    ],
)
def test_training_equals_torch_sgd(how: LocalTraining) -> None:
    """Oracle: torch's optimiser on the same batches, the proximal term written into the loss."""
    mine = task()
    start = mine.initial(3)
    got = mine.train(start, how, stream(1))
    model = mlp()
    nn.utils.vector_to_parameters(torch.from_numpy(start.copy()), model.parameters())
    anchor = torch.from_numpy(start.copy())
    rng = stream(1)
    rng.integers(1 << 62)  # the seed of torch's own generator
    optimiser = torch.optim.SGD(model.parameters(), how.learning_rate, momentum=how.momentum, weight_decay=how.weight_decay)
    taken = 0
    for _ in range(how.epochs):
        order = rng.permutation(50)
        for at in range(0, 50, how.batch_size):
            rows = order[at : at + how.batch_size]
            taken += 1
            if 0 < how.steps < taken:
                break
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(torch.from_numpy(X[rows])), torch.from_numpy(Y[rows]))
            flat = nn.utils.parameters_to_vector(model.parameters())
            (loss + how.proximal / 2 * (flat - anchor).square().sum()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    want = nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    assert not np.allclose(got, start, atol=1e-3)
    assert np.allclose(got, want, atol=1e-6)


def test_is_a_task_with_named_tensors() -> None:
    mine = task()
    assert isinstance(mine, Task)
    assert [(t.name, t.shape) for t in mine.schema.tensors][:2] == [("0.weight", (5, 4)), ("0.bias", (5,))]
    assert mine.samples == 50
    views = mine.schema.unflatten(mine.initial(0))
    torch.manual_seed(0)
    assert np.array_equal(views["2.weight"], mlp()[2].weight.detach().numpy())  # type: ignore[index]


def test_same_seed_same_bits_with_dropout_and_after_other_work() -> None:
    def dropping() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3))

    mine, how = task(dropping), LocalTraining(epochs=2, batch_size=8)
    start = mine.initial(1)
    outside = torch.random.get_rng_state()
    first = mine.train(start, how, stream(1))
    assert torch.equal(outside, torch.random.get_rng_state())
    torch.rand(7)
    mine.evaluate(first)
    mine.train(first, how, stream(9))
    assert mine.train(start, how, stream(1)).tobytes() == first.tobytes()
    assert task(dropping).train(start, how, stream(1)).tobytes() == first.tobytes()
    assert mine.train(start, how, stream(2)).tobytes() != first.tobytes()
    assert mine.initial(1).tobytes() == start.tobytes() != mine.initial(2).tobytes()


def test_tasks_that_share_a_module_leave_nothing_of_each_other_behind() -> None:
    def dropping() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3))

    how = LocalTraining(epochs=2, batch_size=8, momentum=0.9)
    first = task(dropping)
    second = first.with_records((X[:30], Y[:30]), (X[30:], Y[30:]))
    alone = TorchTask(dropping, (X[:30], Y[:30]), (X[30:], Y[30:]), nn.functional.cross_entropy, first.metrics)
    assert second.module is first.module
    assert (second.samples, first.samples) == (30, 50)
    start = first.initial(1)
    want = task(dropping).train(start, how, stream(1))
    for _ in range(2):  # by turns
        assert second.train(start, how, stream(2)).tobytes() == alone.train(start, how, stream(2)).tobytes()
        assert second.evaluate(start) == alone.evaluate(start) != first.evaluate(start)
        assert first.train(start, how, stream(1)).tobytes() == want.tobytes()
    assert first.with_records(None).evaluate(start) == {}
    with pytest.raises(ConfigError, match="50 inputs and 3 targets"):
        first.with_records((X, Y[:3]))


def test_start_is_not_written_and_may_be_read_only() -> None:
    mine = task()
    start = mine.initial(0)
    start.flags.writeable = False
    before = start.tobytes()
    out = mine.train(start, LocalTraining(), stream(0))
    mine.train(start, LocalTraining(), stream(1))
    assert start.tobytes() == before
    kept = out.tobytes()
    mine.evaluate(start)
    assert out.tobytes() == kept  # the result is the caller's, not a view of the model


def test_evaluate() -> None:
    mine = task()
    scores = mine.evaluate(np.zeros(mine.schema.size, np.float32))
    assert scores["loss"] == pytest.approx(np.log(3), rel=1e-6)
    assert scores["accuracy"] == pytest.approx(float(np.mean(Y[:20] == 0)))
    assert TorchTask(mlp, (X, Y), None, nn.functional.cross_entropy).evaluate(mine.initial(0)) == {}
    with pytest.raises(WrongShape, match="model has 43 values"):
        mine.evaluate(np.zeros(3, np.float32))


def test_frozen_parameters_travel_but_do_not_move() -> None:
    def frozen() -> nn.Module:
        model = mlp()
        model[0].requires_grad_(False)  # type: ignore[index]
        return model

    mine = task(frozen)
    start = mine.initial(0)
    out = mine.train(start, LocalTraining(momentum=0.9, weight_decay=0.1, proximal=0.1), stream(0))
    assert np.array_equal(out[:25], start[:25])
    assert not np.array_equal(out[25:], start[25:])


def test_refuses_what_cannot_be_averaged() -> None:
    with pytest.raises(ConfigError, match=r"layer 1 keeps running_mean.*GroupNorm"):
        task(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    with pytest.raises(ConfigError, match=r"parameter weight is torch.float64"):
        task(lambda: nn.Linear(4, 3).double())
    with pytest.raises(ConfigError, match="no parameters"):
        task(nn.ReLU)
    with pytest.raises(ConfigError, match="50 inputs and 3 targets"):
        TorchTask(mlp, (X, Y[:3]), None, nn.functional.cross_entropy)
    with pytest.raises(ConfigError, match="no training data"):
        TorchTask(mlp, None, None, nn.functional.cross_entropy).train(task().initial(0), LocalTraining(), stream(0))
