"""A PyTorch model as a task: flat float32 vectors in and out.

Parameters are views of one flat tensor and gradients of another, so that a step of SGD is one addition for the whole model:
for small models the cost of a step is Python's, not arithmetic's. Only a device's own task code imports this module.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor as TorchTensor
from torch import nn

from edgehold.core import torch_together
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.task import LocalTraining
from edgehold.core.torch_dense import Dense
from edgehold.core.torch_pixels import layout_for
from edgehold.core.vectors import Array, FloatArray, Schema, Tensor

_TEST_BATCH = 4096
_PROVED: dict[Hashable, bool] = {}
"""Kinds of task that were tried in a stack, and whether that gave what training alone gives."""


@dataclass
class TorchTask:
    """One device's model and data.

    model: makes a fresh module; all its parameters are float32, and it has no floating buffers.
    train_data, test_data: (inputs, targets) as numpy arrays or tensors with one record per row, or None for none.
    loss: (outputs, targets) -> scalar tensor, the mean over the batch.
    metrics: name -> (outputs, targets) -> float, over all test records at once; "loss" is always there.
    device: where it trains. On "cpu" training is single-threaded and repeats bit for bit.
    classes: names of the classes in the order of the outputs, for devices that a model is handed to; () for none.
    """

    model: Callable[[], nn.Module]
    train_data: tuple[Any, Any] | None
    test_data: tuple[Any, Any] | None
    loss: Callable[[TorchTensor, TorchTensor], TorchTensor]
    metrics: Mapping[str, Callable[[TorchTensor, TorchTensor], float]] = field(default_factory=dict)
    device: str = "cpu"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # With several threads sums are split differently on each machine, and then the same seed gives another model.
        torch.set_num_threads(1)
        self._train = self._tensors(self.train_data, "train_data")
        self._test = self._tensors(self.test_data, "test_data")
        module = self._fresh(0)
        named = list(module.named_parameters())
        _check(module, named)
        self._schema = Schema(tuple(Tensor(name, tuple(p.shape)) for name, p in named))
        self._module = module.to(self.device)
        self._flat = torch.empty(self._schema.size, device=self.device)
        self._gradient = torch.zeros_like(self._flat)
        self._frozen: list[slice] = []
        at = 0
        for _, parameter in named:
            place = slice(at, at + parameter.numel())
            parameter.data = self._flat[place].view(parameter.shape)
            if parameter.requires_grad:
                parameter.grad = self._gradient[place].view(parameter.shape)
            else:
                self._frozen.append(place)
            at = place.stop
        self._dense = Dense.of(self._module, self.loss)
        self._layout = layout_for(self._module, self.device)

    def with_records(self, train_data: tuple[Any, Any] | None, test_data: tuple[Any, Any] | None = None) -> "TorchTask":
        """The task of another device: other records, the same model, loss and metrics.

        Making a module costs more than a step of a small one, so that both share this one's: use them one after the other, as
        a process does that plays many devices. Nothing of one is left in what the other computes, since every computation
        begins with its own weights.
        """
        other = copy.copy(self)
        other.train_data, other.test_data = train_data, test_data
        other._train = other._tensors(train_data, "train_data")
        other._test = other._tensors(test_data, "test_data")
        return other

    @property
    def schema(self) -> Schema:
        """Parameters of the model in the order of `named_parameters`."""
        return self._schema

    @property
    def samples(self) -> int:
        """Number of training records."""
        return len(self._train[0]) if self._train else 0

    def initial(self, seed: int) -> FloatArray:
        """What the model's own constructor draws under `seed`, (schema.size,) float32."""
        parameters = [p.detach().reshape(-1) for p in self._fresh(seed).parameters()]
        return torch.cat(parameters).numpy() if parameters else np.empty(0, np.float32)

    def train(self, start: FloatArray, how: LocalTraining, rng: np.random.Generator) -> FloatArray:
        """SGD with momentum, weight decay and the FedProx term, over all records once per epoch in shuffled batches."""
        if self._train is None:
            raise ConfigError("this task has no training data; it can only evaluate")
        with self._seeded(int(rng.integers(1 << 62))):
            return self._descend(start, how, _batches(len(self._train[0]), how, rng))

    def records(self, rows: Array) -> tuple[TorchTensor, TorchTensor]:
        """Inputs, laid out as the model computes on them soonest, and targets of the training records with these indices."""
        if self._train is None:
            raise ConfigError("this task has no training data; it can only evaluate")
        inputs, targets = self._train
        places = torch.from_numpy(rows).to(self.device)
        return self._layout(inputs.index_select(0, places)), targets.index_select(0, places)

    def record(self) -> tuple[tuple[int, ...], torch.dtype]:
        """Shape and type of the inputs of one record; `ConfigError` when there is neither training nor test data."""
        held = self._train or self._test
        if held is None:
            raise ConfigError("this task has no records, so that nobody knows what its model takes; give it test data")
        return tuple(held[0].shape[1:]), held[0].dtype

    @property
    def test(self) -> tuple[TorchTensor, TorchTensor] | None:
        """Inputs and targets of the test records; None without any."""
        return self._test

    @property
    def module(self) -> nn.Module:
        """The model; its parameters hold the weights that were used last."""
        return self._module

    def train_by(
        self, begin: Callable[[TorchTensor], None], step: Callable[[TorchTensor, TorchTensor], None], how: LocalTraining,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        """Batches as in `train`, for methods with an optimiser of their own; of `how` only epochs and batch size count.

        begin(weights) writes the flat weights of the first batch, (d,) float32, in place; step(weights, gradient) is called
        after each batch and writes those of the next one.
        """
        if self._train is None:
            raise ConfigError("this task has no training data; it can only evaluate")
        with self._seeded(int(rng.integers(1 << 62))):
            begin(self._flat)
            self._module.train()
            differentiate = self._differentiator()
            for rows in _batches(len(self._train[0]), how, rng):
                differentiate(*self.records(rows))
                step(self._flat, self._gradient)

    def batches(self, how: LocalTraining, rng: np.random.Generator) -> Iterator[tuple[TorchTensor, TorchTensor]]:
        """(inputs, targets) as `train` goes through them, for methods that give the model its parameters themselves; of `how`
        only epochs and batch size count. The module trains, and torch is seeded, until the last batch is used up.
        """
        if self._train is None:
            raise ConfigError("this task has no training data; it can only evaluate")
        with self._seeded(int(rng.integers(1 << 62))):
            self._module.train()
            for rows in _batches(len(self._train[0]), how, rng):
                yield self.records(rows)

    def companions(self, how: LocalTraining) -> Hashable | None:
        """Tasks with equal keys may be trained together (`edgehold.core.torch_together`); None: not this one."""
        if self._train is None or self.device != "cpu" or not torch_together.stackable(self._module):
            return None
        inputs, targets = self._train
        looks = (inputs.shape[1:], inputs.dtype, targets.shape[1:], targets.dtype)
        return torch_together.likeness(self._module), self.loss, looks

    def train_together(
        self, others: Sequence[Any], starts: Sequence[FloatArray], how: LocalTraining, rngs: Sequence[np.random.Generator]
    ) -> list[FloatArray] | None:
        """What `train` gives each of `others` (tasks with equal keys, this one first), within float32 rounding.

        None when it does not pay or cannot be done; the generators have then been used all the same.
        """
        if len(others) < torch_together.FEWEST:
            return None
        rows = []
        for task, rng in zip(others, rngs, strict=True):
            rng.integers(1 << 62)  # what `train` seeds torch with; nothing here draws from that
            rows.append(list(_batches(task.samples, how, rng)))
        key = (self.companions(how), how)
        try:
            if key not in _PROVED:
                _PROVED[key] = self._agrees(starts[0], how, rows[0][0])
            if not _PROVED[key]:
                return None
            return torch_together.train(self._module, self.loss, self._frozen, [t._train for t in others], starts, how, rows)
        except RuntimeError:  # a computation that torch cannot vectorise
            _PROVED[key] = False
            return None

    def _agrees(self, start: FloatArray, how: LocalTraining, rows: Array) -> bool:
        """Whether one step of this task alone is the same in a stack: on a batch, and on half of it, which is padded there."""
        assert self._train is not None
        parts = [[rows], [rows[: max(1, len(rows) // 2)]]]
        alone = [self._descend(start, how, part) for part in parts]
        stacked = torch_together.train(self._module, self.loss, self._frozen, [self._train] * 2, [start] * 2, how, parts)
        return all(
            np.abs(one - other).max() <= torch_together.TOLERANCE * np.abs(one - start).max()
            for one, other in zip(alone, stacked, strict=True)
        )

    def _descend(self, start: FloatArray, how: LocalTraining, batches: Iterable[Array]) -> FloatArray:
        flat, gradient, differentiate = self._flat, self._gradient, self._differentiator()
        self.load(start)
        anchor = flat.clone() if how.proximal else None
        velocity = torch.zeros_like(flat) if how.momentum else None
        self._module.train()
        for rows in batches:
            differentiate(*self.records(rows))
            if how.weight_decay:
                gradient.add_(flat, alpha=how.weight_decay)
            if anchor is not None:
                gradient.add_(flat - anchor, alpha=how.proximal)
            for place in self._frozen:
                gradient[place].zero_()
            step = gradient if velocity is None else velocity.mul_(how.momentum).add_(gradient)
            flat.add_(step, alpha=-how.learning_rate)
        return flat.cpu().numpy().copy()

    def _differentiator(self) -> Callable[[TorchTensor, TorchTensor], None]:
        """(inputs, targets) of a batch -> the gradient of the mean loss, in the flat gradient."""
        if self._dense is not None and self._train is not None and self._dense.takes(*self._train):
            return self._dense.differentiate
        gradient, loss, module = self._gradient, self.loss, self._module

        def by_autograd(inputs: TorchTensor, targets: TorchTensor) -> None:
            gradient.zero_()
            loss(module(inputs), targets).backward()  # type: ignore[no-untyped-call]

        return by_autograd

    def evaluate(self, weights: FloatArray) -> dict[str, float]:
        """Loss and metrics on the test data; {} without any."""
        if self._test is None:
            return {}
        inputs, targets = self._test
        self.load(weights)
        self._module.eval()
        with torch.no_grad():
            parts = [self._module(self._layout(part)) for part in torch.split(inputs, _TEST_BATCH)]
            outputs = torch.cat(parts)
            scores = {"loss": float(self.loss(outputs, targets))}
            scores.update((name, float(metric(outputs, targets))) for name, metric in self.metrics.items())
        return scores

    def load(self, weights: FloatArray) -> None:
        """Give the module these weights, (schema.size,) float32."""
        if weights.shape != (self._schema.size,):
            raise WrongShape(f"weights of shape {weights.shape}; the model has {self._schema.size} values")
        # A copy first: torch warns about arrays that must not be written to, which orders are.
        self._flat.copy_(torch.from_numpy(np.array(weights, dtype=np.float32)))

    def _fresh(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.model()

    def _seeded(self, seed: int) -> Any:
        return _Seeded(seed, self.device)

    def _tensors(self, data: tuple[Any, Any] | None, what: str) -> tuple[TorchTensor, TorchTensor] | None:
        if data is None:
            return None
        inputs, targets = (_tensor(part).to(self.device) for part in data)
        if len(inputs) != len(targets) or not len(inputs):
            raise ConfigError(f"{what}: {len(inputs)} inputs and {len(targets)} targets; as many of both, at least one")
        return inputs, targets


class _Seeded:
    """Dropout and the like draw from torch's own generator: seeded inside, as it was before outside."""

    def __init__(self, seed: int, device: str) -> None:
        self._fork = torch.random.fork_rng(devices=[] if device == "cpu" else [device])
        self._seed, self._device = seed, device

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.default_generator.manual_seed(self._seed)
        if self._device != "cpu":
            torch.cuda.manual_seed_all(self._seed)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


def _batches(records: int, how: LocalTraining, rng: np.random.Generator) -> Iterator[Array]:
    left = how.steps or how.epochs * records
    for _ in range(how.epochs):
        order = rng.permutation(records)
        for start in range(0, records, how.batch_size):
            yield order[start : start + how.batch_size]
            left -= 1
            if not left:
                return


def _tensor(values: Any) -> TorchTensor:
    return values if isinstance(values, TorchTensor) else torch.from_numpy(np.array(values))


def _check(module: nn.Module, named: list[tuple[str, nn.Parameter]]) -> None:
    """`ConfigError` that names the first tensor that cannot be trained together."""
    if not named:
        raise ConfigError("the model has no parameters")
    for name, parameter in named:
        if parameter.dtype != torch.float32:
            raise ConfigError(f"parameter {name} is {parameter.dtype}; all parameters must be float32")
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            layer = name.rpartition(".")[0] or "the model itself"
            raise ConfigError(
                f"layer {layer} keeps {name.rpartition('.')[2]}, numbers that are not parameters and would differ on every "
                "device; use a layer without running statistics, such as GroupNorm"
            )
