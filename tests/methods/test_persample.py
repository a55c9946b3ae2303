"""Per-sample clipped sums: equal to gradients taken record by record in float64, by hand and through Opacus; what one record
can do to a sum; what is refused.
"""

import gc
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgehold.client.models import make_model
from edgehold.core import torch_layers
from edgehold.core.errors import ConfigError
from edgehold.core.privacy.sampling import BLOCK, SURCHARGE
from edgehold.core.task import LocalTraining
from edgehold.core.torch_persample import ClippedSums
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array

NEAR = 4e-5
"""Relative, per record: float32 against float64, and the 2^-16 by which clipping aims lower."""
EVEN = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


class BareParameter(nn.Module):
    """A layer of no known kind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x * self.scale)


class ByPixel(nn.Module):
    """Lays images out with all channels of a pixel side by side, as models made for speed do."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


class Tied(nn.Module):
    """One matrix as embedding and as output."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 5)
        self.out = nn.Linear(5, 7, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.words(x).mean(1))
        return scores


class Twice(nn.Module):
    """Every kind of layer, each used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.line = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.norm, self.conv, self.group = nn.LayerNorm(4), nn.Conv2d(2, 2, 3, padding=1), nn.GroupNorm(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x) + self.words((x + 1) % 7).flip(1)  # (n, 6, 4)
        y = self.norm(torch.tanh(self.line(self.norm(torch.tanh(self.line(y))))))
        z = self.group(torch.tanh(self.conv(y.reshape(len(y), 2, 3, 4))))
        out: Tensor = self.group(self.conv(z)).flatten(1)
        return out


class Recurrent(nn.Module):
    """nn.GRU, which is one layer of parameters that nobody can take apart."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.gru(x)[0][:, -1])
        return scores


def next_symbol(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten())


def grouped(layer: nn.Module) -> nn.Module:
    return flat(nn.Conv2d(2, 4, 3), layer, nn.ReLU())


Model = Callable[[], nn.Module]
IMAGE = (1, 16, 16)
MODELS: dict[str, tuple[Model, Any]] = {
    "mlp": (lambda: make_model("mlp", (6,), 5, hidden=[7]), (6,)),
    "mlp without bias": (lambda: make_model("mlp", (2, 3), 5, hidden=[7], bias=False), (2, 3)),
    "cnn": (lambda: make_model("small-cnn", IMAGE, 4), IMAGE),
    "cnn without bias": (lambda: make_model("small-cnn", IMAGE, 4, bias=False), IMAGE),
    "resnet": (lambda: make_model("resnet", (1, 8, 8), 4, width=4, groups=2), (1, 8, 8)),
    "stride and dilation": (lambda: flat(nn.Conv2d(2, 3, 3, stride=2, dilation=(1, 2), padding=(2, 1)), nn.Tanh()), (2, 9, 8)),
    "groups": (lambda: flat(nn.Conv2d(4, 6, (2, 3), groups=2), nn.Tanh()), (4, 5, 6)),
    "same": (lambda: flat(nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2)), nn.Tanh()), (2, 6, 7)),
    "valid": (lambda: flat(nn.Conv2d(2, 3, 2, padding="valid", bias=False), nn.Tanh()), (2, 4, 4)),
    "places, wide": (lambda: flat(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 2)), (3, 6)),
    "places, many": (lambda: flat(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1, bias=False)), (40, 2)),
    "places in two axes": (lambda: flat(nn.Linear(5, 3), nn.Tanh()), (2, 3, 5)),
    "in place": (lambda: flat(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3), nn.ReLU(inplace=True)), (3, 5)),
    "group norm": (lambda: grouped(nn.GroupNorm(2, 4)), (2, 5, 5)),
    "layer norm": (lambda: grouped(nn.LayerNorm([3, 3])), (2, 5, 5)),
    "layer norm without bias": (lambda: flat(nn.Linear(4, 6), nn.LayerNorm(6, bias=False), nn.Tanh()), (3, 4)),
    "bag of words": (lambda: make_model("bag-of-words", (8,), 3, buckets=9, embedding=4), 9),
    "padding": (lambda: flat(nn.Embedding(9, 3, padding_idx=0), nn.Tanh()), 9),
    "characters": (lambda: make_model("char-gru", (8,), 7, embedding=3, hidden=5), 7),
    "twice": (Twice, 7),
}
NOT_OPACUS = {"in place", "layer norm without bias", "padding"}
"""What Opacus 1.6 refuses, or (padding) gets wrong."""
BY_OPACUS: dict[str, tuple[Model, Any]] = {
    "bare parameter": (lambda: nn.Sequential(nn.Linear(6, 5), BareParameter(5), nn.Linear(5, 3)), (6,)),
    "tied": (Tied, 7),
}


def task_of(model: Model, shape: Any, records: int = 24, seed: int = 0) -> TorchTask:
    """shape: of a record of numbers, or how many words there are in texts of length 8 (6 in `Twice`)."""
    module = model()
    rng = np.random.default_rng(seed)
    if isinstance(shape, tuple):
        inputs: Array = rng.standard_normal((records, *shape)).astype(np.float32)
    else:
        inputs = rng.integers(0, shape, (records, 6 if isinstance(module, Twice) else 8))
    with torch.no_grad():
        outputs = module(torch.from_numpy(inputs))
    if outputs.dim() == 3:
        return loaded(TorchTask(model, (inputs, rng.integers(0, outputs.shape[2], inputs.shape)), None, next_symbol), seed)
    targets = rng.integers(0, outputs.shape[1], records)
    return loaded(TorchTask(model, (inputs, targets), None, functional.cross_entropy), seed)


def loaded(task: TorchTask, seed: int = 0) -> TorchTask:
    task.load(task.initial(seed))
    return task


def gradients(task: TorchTask) -> Array:
    """(records, d) float64: each record alone, in double precision, through torch.func."""
    module = task.module
    weights = {name: p.detach().double() for name, p in module.named_parameters() if p.requires_grad}
    fixed = {name: p.detach().double() for name, p in module.named_parameters() if not p.requires_grad}
    inputs, targets = task.records(np.arange(task.samples))
    inputs = inputs.double() if inputs.is_floating_point() else inputs

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return task.loss(torch.func.functional_call(module, {**fixed, **values}, (x[None],)), y[None])

    found = np.zeros((task.samples, task.schema.size))
    for record in range(task.samples):
        one = torch.func.grad(loss)(weights, inputs[record], targets[record])
        at = 0
        for name, parameter in module.named_parameters():
            if name in one:
                found[record, at : at + parameter.numel()] = one[name].flatten().numpy()
            at += parameter.numel()
    return found


def clipped(each: Array, clip: float) -> Array:
    norms = np.linalg.norm(each, axis=1)
    factors = np.minimum(1.0, np.divide(clip, norms, out=np.full_like(norms, inf), where=norms > 0))
    found: Array = factors @ each
    return found


def groups_of(*sizes: int) -> list[Array]:
    ends = np.cumsum([0, *sizes])
    return [np.arange(*pair) for pair in zip(ends[:-1], ends[1:], strict=True)]


def middle(each: Array) -> float:
    """A clip that cuts half of the records."""
    return float(np.median(np.linalg.norm(each, axis=1)))


def compare(task: TorchTask, sums: ClippedSums) -> None:
    each = gradients(task)
    clips = (middle(each) / 2, middle(each), inf)
    got = sums(groups_of(task.samples - 9, 0, 9), clips)
    assert got.shape == (3, task.schema.size)
    assert got.dtype == np.float64
    for row, clip in zip(got, clips, strict=True):
        expected = clipped(each, clip)
        assert np.abs(row - expected).max() <= NEAR * max(np.abs(each).max(), 1e-3) * np.sqrt(task.samples)
    assert np.abs(got[2] - got[1]).max() > 10 * np.abs(got[2] - each.sum(0)).max(), "control: the clip cuts"


@EVEN
@pytest.mark.parametrize("name", MODELS)
def test_sums_by_hand_equal_records_one_by_one(name: str) -> None:
    task = task_of(*MODELS[name])
    sums = ClippedSums(task)
    assert sums.by_hand
    compare(task, sums)


@pytest.mark.parametrize("name", ["places, wide", "characters", "twice"])
def test_gradients_too_large_to_keep_are_written_out_twice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_layers, "_MOST", 60)
    task = task_of(*MODELS[name])
    compare(task, ClippedSums(task))


@EVEN
@pytest.mark.parametrize("name", sorted(set(MODELS) - NOT_OPACUS))
def test_opacus_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opacus")
    task = task_of(*MODELS[name])
    each = gradients(task)
    by_hand = ClippedSums(task)([np.arange(task.samples)], (middle(each), inf))
    monkeypatch.setattr(torch_layers, "known", lambda module: False)
    other = ClippedSums(task)
    assert not other.by_hand
    got = other([np.arange(task.samples)], (middle(each), inf))
    assert np.abs(got - by_hand).max() <= NEAR * max(np.abs(each).max(), 1e-3) * np.sqrt(task.samples)


@pytest.mark.parametrize(("between", "by_hand"), [(nn.Tanh, True), (lambda: BareParameter(3), False)], ids=["hand", "opacus"])
def test_images_may_lie_as_they_like(between: Model, by_hand: bool) -> None:
    pytest.importorskip("opacus")

    def model() -> nn.Module:
        return flat(ByPixel(), nn.Conv2d(3, 4, 3), between(), nn.Conv2d(4, 2, (2, 1)))

    task = task_of(model, (3, 6, 5))
    sums = ClippedSums(task)
    assert sums.by_hand == by_hand
    compare(task, sums)
    assert not any(layer._forward_pre_hooks for layer in task.module.modules()), "hooks are gone"


@pytest.mark.parametrize("name", BY_OPACUS)
def test_unknown_layers_go_through_opacus(name: str) -> None:
    pytest.importorskip("opacus")
    task = task_of(*BY_OPACUS[name])
    sums = ClippedSums(task)
    assert not sums.by_hand
    compare(task, sums)
    compare(task, ClippedSums(task))  # the next round: hooks of the last one are gone
    assert not hasattr(next(task.module.parameters()), "grad_sample")
    task.train(task.initial(0), LocalTraining(epochs=1, batch_size=8), np.random.default_rng(0))
    assert not any(getattr(layer, "activations", None) for layer in task.module.modules()), "training is not watched"


@pytest.mark.parametrize("name", BY_OPACUS)
def test_without_opacus_the_layer_and_the_extra_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.grad_sample", None)
    task = task_of(*BY_OPACUS[name])
    layer = {"bare parameter": r"layer 1 \(BareParameter\)", "tied": r"layer out \(shares a parameter with words\)"}[name]
    with pytest.raises(ConfigError, match=rf"{layer} need Opacus: install edgehold\[private\]"):
        ClippedSums(task)
    assert ClippedSums(task_of(*MODELS["cnn"])).by_hand, "known layers need none"


def test_what_not_even_opacus_can_take_apart_is_refused_by_name() -> None:
    pytest.importorskip("opacus")
    task = task_of(Recurrent, (5, 3))
    sums = ClippedSums(task)
    with pytest.raises(ConfigError, match=r"layer gru \(GRU\)"):
        sums([np.arange(4)], (1.0,))


def test_frozen_parameters_stay_at_zero() -> None:
    def half_frozen() -> nn.Module:
        module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        for parameter in (*module[0].parameters(), module[2].bias, module[4].weight):
            parameter.requires_grad_(False)
        return module

    task = task_of(half_frozen, (6,))
    before = [p.requires_grad for p in task.module.parameters()]
    compare(task, ClippedSums(task))
    got = ClippedSums(task)([np.arange(24)], (1.0,))[0]
    places = np.cumsum([0, 30, 5, 20, 4, 12, 3])
    moved = [bool(np.abs(got[a:b]).max() > 0) for a, b in zip(places[:-1], places[1:], strict=True)]
    assert moved == [False, False, True, False, False, True]
    assert [p.requires_grad for p in task.module.parameters()] == before


def test_a_layer_that_takes_no_part_stays_at_zero() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.spare(x)
            found: Tensor = self.used(x)
            return found

    got = ClippedSums(task_of(Spare, (4,)))([np.arange(24)], (1.0,))[0]
    assert np.abs(got[:15]).max() > 0
    assert not got[15:].any()


def test_layers_that_mix_records_or_lose_their_inputs_are_refused() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.line(x.reshape(-1, 4)).reshape(len(x), -1)
            return found

    class Spoiling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            found = self.line(y)
            y.mul_(2.0)
            both: Tensor = found + y
            return both

    with pytest.raises(ConfigError, match="one row per record"):
        ClippedSums(task_of(Mixing, (2, 4)))([np.arange(24)], (1.0,))
    with pytest.raises(ConfigError, match="changed in place"):
        ClippedSums(task_of(Spoiling, (4,)))([np.arange(24)], (1.0,))


@pytest.mark.parametrize("size", [0, 1, BLOCK + 1, 4 * BLOCK + 1, 200])
def test_groups_of_any_size(size: int) -> None:
    """None, one, more than a block, one more than four blocks, far more."""
    task = task_of(*MODELS["mlp"], records=200)
    each = gradients(task)[:size]
    clip = middle(gradients(task))
    got = ClippedSums(task)([np.arange(size)], (clip, inf))
    for row, limit in zip(got, (clip, inf), strict=True):
        assert np.abs(row - clipped(each, limit)).max() <= NEAR * clip * max(size, 1)
    assert not got.any() or size


def test_an_infinite_clip_is_the_plain_sum() -> None:
    task = task_of(*MODELS["cnn"])
    got = ClippedSums(task)([np.arange(task.samples)], (inf, 1e9))
    task.module.zero_grad(set_to_none=False)
    inputs, targets = task.records(np.arange(task.samples))
    (task.loss(task.module(inputs), targets) * task.samples).backward()  # type: ignore[no-untyped-call]
    plain = torch.cat([p.grad.flatten() for p in task.module.parameters() if p.grad is not None]).numpy()
    assert np.abs(got[0] - plain).max() <= NEAR * np.abs(plain).max()
    assert (got[0] == got[1]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("through", ["hand", "opacus"])
def test_a_record_without_a_finite_gradient_is_absent_and_no_other(
    bad: float, through: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if through == "opacus":
        pytest.importorskip("opacus")
        monkeypatch.setattr(torch_layers, "known", lambda module: False)
    task = task_of(*MODELS["cnn"])
    inputs, targets = (part.numpy().copy() for part in task.records(np.arange(24)))
    inputs[5] = bad
    inputs[17, 0, 2, 3] = bad
    spoilt = loaded(replace(task, train_data=(inputs, targets)))
    left = np.array([row for row in range(24) if row not in (5, 17)])
    got = ClippedSums(spoilt)(groups_of(12, 12), (0.5, inf))
    expected = ClippedSums(task)([left[left < 12], left[left >= 12]], (0.5, inf))
    assert np.isfinite(got).all()
    assert (got == expected).all()
    assert not ClippedSums(spoilt)([np.array([5])], (0.5,)).any()


def test_a_huge_gradient_is_clipped_and_not_lost() -> None:
    """Its square is beyond float32."""
    task = task_of(lambda: nn.Linear(3, 2, bias=False), (3,))
    inputs, targets = (part.numpy().copy() for part in task.records(np.arange(24)))
    inputs[0] = (3e25, 0, 0)
    task = loaded(replace(task, train_data=(inputs, targets), loss=lambda o, t: o.sum(1).mean()))
    got = ClippedSums(task)([np.array([0])], (2.0,))[0]
    assert np.linalg.norm(got) == pytest.approx(2.0, rel=1e-4)
    inputs[0] = (1e-30, 0, 0)
    task = loaded(replace(task, train_data=(inputs, targets), loss=lambda o, t: (1e25 * o).sum(1).mean()))
    got = ClippedSums(task)([np.array([0])], (1e-7,))[0]
    assert np.linalg.norm(got) <= 1e-7


def test_what_cancels_between_places_does_not_pass_the_clip() -> None:
    """Two places whose inputs are large and alike and whose gradients are opposite: the gradient is their small difference,
    which products of places lose to rounding.
    """

    def difference(outputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = (outputs[:, 0] - outputs[:, 1]).sum(1).mean()
        return found

    inputs = np.random.default_rng(0).standard_normal((24, 2, 64)).astype(np.float32)
    inputs[:, 1] = inputs[:, 0] + 1e-3 * inputs[:, 1]
    inputs *= 1000.0
    data = (inputs, np.zeros(24))
    task = loaded(TorchTask(lambda: nn.Linear(64, 64, bias=False), data, None, difference))
    # Places times places is less than the weights: where products would pay.
    norms = np.linalg.norm((inputs[:, 0] - inputs[:, 1]).astype(np.float64), axis=1) * 8
    for record in range(24):
        got = ClippedSums(task)([np.array([record])], (1.0,))[0]
        assert norms[record] > 10
        assert np.linalg.norm(got) == pytest.approx(1.0, abs=1e-4)
    words = loaded(TorchTask(
        lambda: nn.Embedding(4, 64), (np.zeros((3, 2), np.int64), np.zeros(3)), None,
        lambda o, t: (1e6 * o[:, 0] - 1e6 * o[:, 1] + o[:, 1]).sum(1).mean(),
    ))  # fmt: skip
    got = ClippedSums(words)([np.arange(3)], (2.0,))[0]
    assert np.linalg.norm(got) == pytest.approx(6.0, abs=1e-3)


class _Weighs:
    """A loss that weighs each record by how many others are in the batch."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, ignore_index=2)


def test_no_record_weighs_another_through_the_loss() -> None:
    """Ignored targets and class weights make a mean depend on who else is in the batch: one record more would scale all."""
    task = task_of(*MODELS["mlp"])
    inputs, targets = (part.numpy().copy() for part in task.records(np.arange(24)))
    for loss, label in ((_Weighs(), 2), (functional.cross_entropy, -100)):
        given = targets.copy()
        given[given == 2] = 1
        given[0] = label
        one = loaded(replace(task, train_data=(inputs, given), loss=loss))
        without = ClippedSums(one)([np.arange(1, 24)], (inf,))[0]
        together = ClippedSums(one)([np.arange(24)], (inf,))[0]
        assert np.abs(together - without).max() <= NEAR * np.abs(without).max(), "an ignored record is an absent one"


def test_a_loss_that_looks_at_values_works_record_by_record() -> None:
    def looking(outputs: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = functional.cross_entropy(outputs, targets) * (2.0 if float(targets.sum()) > 2 else 1.0)
        return found

    task = loaded(replace(task_of(*MODELS["mlp"]), loss=looking))
    sums = ClippedSums(task)
    once, twice = sums([np.arange(24)], (inf,)), sums([np.arange(24)], (inf,))
    rows = np.arange(24)
    alone = sum(sums([rows[i : i + 1]], (inf,)) for i in rows)
    assert np.abs(once - alone).max() <= NEAR * np.abs(once).max() * 5
    assert (once == twice).all()


@pytest.mark.parametrize("name", ["cnn", "characters", "in place"])
def test_nothing_of_a_step_stays_in_memory(name: str) -> None:
    task, seen = task_of(*MODELS[name]), []
    for layer in task.module.modules():
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(weakref.ref(output)))
    ClippedSums(task)(groups_of(12, 12), (1.0, 2.0))
    gc.collect()
    assert len(seen) > 4
    assert not [one for one in seen if one() is not None]


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "places, many", "bag of words", "characters"])
def test_a_record_more_moves_the_sum_by_the_clip_at_most(name: str) -> None:
    """The sensitivity that is charged, in float32, wherever the record stands in its group."""
    task = task_of(*MODELS[name], records=140, seed=3)
    sums = ClippedSums(task)
    rng = np.random.default_rng(1)
    clip = 1e-2  # below every gradient here: all are cut, and each moves the sum by all it may
    worst = 0.0
    sizes: Sequence[int] = (0, 1, 7, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 4 * BLOCK - 1, 4 * BLOCK, 4 * BLOCK + 3)
    for size in sizes:
        rows = rng.permutation(140)[: size + 1]
        for at in {0, size // 2, size}:
            moved = sums([rows], (clip,)) - sums([np.delete(rows, at)], (clip,))
            worst = max(worst, float(np.linalg.norm(moved)))
    assert worst <= clip * (1 + SURCHARGE)
    assert worst > 0.99 * clip, "control: the bound is not far away"
