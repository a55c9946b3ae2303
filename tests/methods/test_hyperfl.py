"""HyperFL: its layout by hand, exact invariants of generator and training, its law on the wire, a run on the digits."""

import copy
import hashlib
from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.fixed_noise import FixedNoise
from torch import nn

from edgehold.attacks.byzantine import gaussian
from edgehold.attacks.eval.data import make_task
from edgehold.attacks.eval.named import Named
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.config import convert
from edgehold.core.contract import Cohort, Payload, Weighted
from edgehold.core.errors import ConfigError, NotFinite, OutsideLaw, WrongShape
from edgehold.core.facts import FACTS
from edgehold.core.hyper import code, generated, initial
from edgehold.core.hyper_layout import Layout
from edgehold.core.plan import parse_plan
from edgehold.core.privacy.events import Gaussian
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining
from edgehold.core.torch_hyper import Hypernetwork, Network
from edgehold.core.torch_personal import CLIP, Personal, Sgd
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, Bytes, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.hyperfl.client import HyperFLClient, private_generator
from edgehold.defenses.hyperfl.state import Local, Order, Settings, State, Training, Update, layout_of
from edgehold.proto.v1.payloads_pb2 import HyperFlTask, HyperFlUpdate, TaskHeader, UpdateHeader
from edgehold.server import engine

NET: dict[str, Any] = {"hidden": [16, 12]}
REPEATABLE = Named("edgehold.attacks.eval.repeatable:make")
SMALL: dict[str, Any] = {"embedding": 5, "hidden": 7, "batch_size": 16, "learning_rate": 0.05, "local_epochs": 2}


def small(index: int = 0, limit: int = 40, **net: Any) -> TorchTask:
    return make_task("digits", index, 5, limit=limit, model="mlp", net=net or NET)


def client() -> HyperFLClient:
    """A device whose draws repeat."""
    return HyperFLClient(draw=lambda: b"test")


def begun(settings: Settings, task: TorchTask, seed: int = 3) -> tuple[Any, State, Order]:
    server = registry.server_side("hyperfl", settings, task.schema, seed)
    state = server.start(Vector.of(task.initial(seed)))
    return server, state, server.open(state, Cohort(1, ("c0",)))


def worked(order: Order, task: TorchTask, seed: int = 0) -> tuple[Local, Local, Update]:
    """Local state before and after a round, and the update."""
    rng = stream(seed, "client")
    before = client().begin(order, task, rng)
    after, update, _ = client().work(order, before, task, rng)
    return before, after, update


def conv(channels: int, side: int, padding: int, fc: int) -> Schema:
    """The paper's networks: convolutions, a linear layer of 128, the head."""
    widths = [16, 32, 64][: 3 if channels == 3 else 2]
    tensors, before = [], channels
    for number, width in enumerate(widths):
        kernel = 3 if number == 2 else 5
        tensors += [Tensor(f"c{number}.weight", (width, before, kernel, kernel)), Tensor(f"c{number}.bias", (width,))]
        before = width
    tensors += [Tensor("fc.weight", (128, fc)), Tensor("fc.bias", (128,))]
    return Schema((*tensors, Tensor("head.weight", (10, 128)), Tensor("head.bias", (10,))))


# The layout.


@pytest.mark.parametrize(
    ("schema", "extractor", "phi", "model"),
    [(conv(3, 32, 0, 576), 106_400, 13_733_920, 107_690), (conv(1, 28, 0, 800), 115_776, 14_943_424, 117_066)],
)
def test_sizes_are_those_of_the_paper(schema: Schema, extractor: int, phi: int, model: int) -> None:
    layout = Layout.of(schema, 64, 128)
    assert (layout.extractor_size, layout.size, schema.size) == (extractor, phi, model)
    assert layout.size == 8320 + 129 * extractor
    assert layout.head_size == 1290
    assert registry.codec("hyperfl", Settings()).body_bytes(schema) == (4 * phi, 4 * phi)
    thin = Layout.of(schema, 64, 128, rank=4)
    wide = [tensor for tensor in schema.tensors[:-2] if 4 * (tensor.size + 128) < 128 * tensor.size]
    narrow = [tensor for tensor in schema.tensors[:-2] if tensor not in wide]
    assert thin.size == 8320 + sum(4 * (t.size + 128) + t.size for t in wide) + sum(129 * t.size for t in narrow)
    assert thin.size < 0.05 * layout.size


def test_a_layout_by_hand() -> None:
    # v of 2, z of 3: W0 6, b0 3. a.weight (2, 2): W 12, b 4; a.bias (2,): W 6, b 2. b.* is the head.
    schema = Schema((Tensor("a.weight", (2, 2)), Tensor("a.bias", (2,)), Tensor("b.weight", (1, 2)), Tensor("b.bias", (1,))))
    layout = Layout.of(schema, 2, 3)
    assert layout.first == ((0, (3, 2)), (6, (3,)))
    assert [outlet.parts for outlet in layout.outlets] == [
        ((9, (4, 3)), (21, (4,))),
        ((25, (2, 3)), (31, (2,))),
    ]
    assert (layout.size, layout.extractor_size, layout.head_size) == (33, 6, 3)
    phi = np.zeros(33, np.float32)
    phi[:9] = [1, 0, 0, 1, -1, -1, 0, 1, 0]  # z = relu(v0, v1 + 1, -v0 - v1)
    phi[9:25] = [1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 10]
    phi[25:33] = [2, 0, 0, 0, 2, 0, 0, 1]
    z = code(layout, Vector.of(phi), np.array([3.0, 4.0]))
    assert z.tolist() == [3, 5, 0]
    assert np.concatenate(list(generated(layout, Vector.of(phi), z))).tolist() == [3, 5, 0, 18, 6, 11]
    # Rank 1 takes 4 + 3 numbers instead of 12 for a.weight, 2 + 3 instead of 6 for a.bias.
    assert [outlet.parts for outlet in Layout.of(schema, 2, 3, 1).outlets] == [
        ((9, (4, 1)), (13, (1, 3)), (16, (4,))),
        ((20, (2, 1)), (22, (1, 3)), (25, (2,))),
    ]
    # Rank 2 would take more than it saves.
    assert [outlet.rank for outlet in Layout.of(schema, 2, 3, 2).outlets] == [0, 0]


def test_adapters_of_the_papers_frozen_networks_have_its_sizes() -> None:
    """ViT: 384-24-384 and a layer norm after each of 12 blocks; ResNet-18: norm, 1 x 1 convolution, norm after each stage."""
    head = (Tensor("head.weight", (10, 384)), Tensor("head.bias", (10,)))
    trunk = (Tensor("backbone.patch.weight", (384, 768)), Tensor("backbone.patch.bias", (384,)))
    vit, resnet = [], []
    for block in range(12):
        shapes = {"down.weight": (24, 384), "down.bias": (24,), "up.weight": (384, 24), "up.bias": (384,)}
        shapes |= {"norm.weight": (384,), "norm.bias": (384,)}
        vit += [Tensor(f"adapters.{block}.{name}", shape) for name, shape in shapes.items()]
    for width in (64, 128, 256, 512):
        norms = [Tensor(f"adapters.{width}.{name}", (width,)) for name in ("a.weight", "a.bias", "b.weight", "b.bias")]
        resnet += [*norms, Tensor(f"adapters.{width}.conv.weight", (width, width, 1, 1))]
    for adapters, extractor, phi in ((vit, 235_296, 30_361_504), (resnet, 352_000, 45_416_320)):
        layout = Layout.of(Schema((*trunk, *adapters, *head)), 64, 128, backbone="backbone")
        assert (layout.extractor_size, layout.size, layout.head_size) == (extractor, phi, 3850)
        assert layout.frozen == trunk


def test_a_backbone_must_be_there_and_leave_something() -> None:
    names = ("backbone.a.weight", "backboned.weight", "head.weight")
    schema = Schema(tuple(Tensor(name, (2, 2)) for name in names))
    assert [one.tensor.name for one in Layout.of(schema, 2, 3, backbone="backbone").outlets] == ["backboned.weight"]
    for wrong, count in (("trunk", 0), ("head", 1), ("backbone.a.weight", 0)):
        with pytest.raises(ConfigError, match=f"backbone = '{wrong}': {count} of the model's tensors lie below it") as found:
            Layout.of(schema, 2, 3, backbone=wrong)
        assert found.value.field == "method.backbone"
    with pytest.raises(ConfigError, match="at least one before that must be left"):
        Layout.of(Schema((schema.tensors[0], schema.tensors[2])), 2, 3, backbone="backbone")


def test_a_model_of_one_layer_has_no_extractor() -> None:
    for schema in (Schema((Tensor("values", (8,)),)), Schema((Tensor("0.weight", (2, 3)), Tensor("0.bias", (2,))))):
        with pytest.raises(ConfigError, match="a single layer"):
            Layout.of(schema, 2, 3)


@pytest.mark.parametrize("rank", [0, 3])
def test_numpy_and_torch_generate_the_same(rank: int) -> None:
    task = small()
    layout = Layout.of(task.schema, 5, 70, rank)
    phi = initial(layout, task.initial(1), 1, 0.3)
    v = np.random.default_rng(0).standard_normal(5)
    ours = np.concatenate(list(generated(layout, Vector.of(phi), code(layout, Vector.of(phi), v))))
    with torch.no_grad():
        theirs = Hypernetwork(layout, phi, dtype=torch.float64)(torch.from_numpy(v))
    assert np.allclose(ours, torch.cat([part.reshape(-1) for part in theirs]), rtol=0, atol=1e-12)
    assert [tuple(part.shape) for part in theirs] == [tensor.shape for tensor in task.schema.tensors[:-2]]


@pytest.mark.parametrize("rank", [0, 4])
def test_first_weights_lie_around_the_first_model_at_the_size_asked_for(rank: int) -> None:
    """Mean of squares over 64 embeddings of 256 x 64 weights; |z|^2 varies by a fifth or so between embeddings."""
    schema = Schema((Tensor("a.weight", (256, 64)), Tensor("a.bias", (256,)), Tensor("b.weight", (2, 256))))
    layout = Layout.of(schema, 64, 128, rank)
    model = np.random.default_rng(0).standard_normal(schema.size).astype(np.float32)
    phi = Vector.of(initial(layout, model, 5, 0.3))
    draws = np.random.default_rng(1).standard_normal((64, 64))
    apart = [np.concatenate(list(generated(layout, phi, code(layout, phi, v)))) - model[: 65 * 256] for v in draws]
    assert abs(float(np.mean(np.square(apart)[:, : 256 * 64])) / (0.3**2 * 2 / 64) - 1) < (0.5 if rank else 0.1)
    assert not np.any(np.asarray(apart)[:, 256 * 64 :]), "a tensor of one dimension starts as it is in the model"


# Generator and gradients.


def test_gradients_of_biases_are_those_of_the_weights_they_generate() -> None:
    """dL/db = dL/dtheta, dL/dW = dL/dtheta z^T; with W = A B, dL/dA = dL/dtheta (B z)^T and dL/dB = A^T dL/dtheta z^T."""
    for rank in (0, 3):
        task = small()
        layout = Layout.of(task.schema, 5, 70, rank)
        module = copy.deepcopy(task.module).double()  # tasks of a process share it
        hyper = Hypernetwork(layout, initial(layout, task.initial(2), 2, 0.3), dtype=torch.float64)
        v = torch.from_numpy(np.random.default_rng(1).standard_normal(5)).requires_grad_()
        first = np.split(task.initial(2)[-layout.head_size :].astype(np.float64), [layout.head[0].size])
        head = [torch.from_numpy(p).view(t.shape) for p, t in zip(first, layout.head, strict=True)]
        assert task.train_data is not None
        inputs, targets = torch.as_tensor(task.train_data[0]).double(), torch.as_tensor(task.train_data[1])
        theta = hyper(v)
        for part in theta:
            part.retain_grad()
        nn.functional.cross_entropy(Network(module, layout)(theta, head, inputs), targets).backward()  # type: ignore[no-untyped-call]
        z, parts = hyper.code(v).detach(), iter(hyper.phi.parts[2:])
        for outlet, part in zip(layout.outlets, theta, strict=True):
            assert part.grad is not None
            wanted, weight = part.grad.reshape(-1), next(parts)
            assert weight.grad is not None
            if outlet.rank:
                other = next(parts)
                assert other.grad is not None
                assert torch.allclose(weight.grad, torch.outer(wanted, other.detach() @ z), rtol=0, atol=1e-12)
                assert torch.allclose(other.grad, torch.outer(weight.detach().T @ wanted, z), rtol=0, atol=1e-12)
            else:
                assert torch.allclose(weight.grad, torch.outer(wanted, z), rtol=0, atol=1e-12)
            bias = next(parts)
            assert bias.grad is not None
            assert torch.allclose(bias.grad, wanted, rtol=0, atol=1e-12)
            assert float(wanted.abs().max()) > 1e-6, "control: there is a gradient"
        start, shape = layout.outlets[0].parts[-1]
        assert torch.equal(hyper.phi.slope[start : start + shape[0]], theta[0].grad.reshape(-1))  # type: ignore[union-attr]


class Odd(nn.Module):
    """A model whose first layer may be frozen, shared or have a parameter of its own."""

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.body.weight.requires_grad_(not frozen)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(x))
        return found


def test_what_is_not_generated_is_named() -> None:
    """The authors' ResNet adapters were silently dropped by a lax load; here the tensor is named."""
    names = [("body.weight", (4, 3)), ("body.bias", (4,)), ("head.weight", (2, 4)), ("head.bias", (2,))]

    def layout(tensors: list[tuple[str, tuple[int, ...]]]) -> Layout:
        return Layout.of(Schema(tuple(Tensor(*one) for one in tensors)), 2, 3)

    Network(Odd(), layout(names))
    for tensors, says in (
        (names[1:], r"parameter body.weight of shape \(4, 3\) would not be generated"),
        ([("bodyweight", (4, 3)), *names[1:]], "parameter body.weight of shape"),
        ([("body.weight", (3, 4)), *names[1:]], r"the hypernetwork makes \(3, 4\)"),
        ([("adapter.weight", (1, 1)), *names], "tensor adapter.weight would be generated"),
    ):
        with pytest.raises(ConfigError, match=says):
            Network(Odd(), layout(tensors))
    with pytest.raises(ConfigError, match=r"parameter body.weight is frozen in the model"):
        Network(Odd(frozen=True), layout(names))


def test_the_model_uses_what_it_is_given_and_nothing_of_its_own() -> None:
    task = small()
    layout = Layout.of(task.schema, 5, 7)
    order = begun(Settings(**SMALL), task)[2]
    model = Personal(task, layout, order.phi.whole(), np.ones(5, np.float32), np.ones(layout.head_size, np.float32))
    weights = model.weights()
    task.evaluate(np.full(task.schema.size, 9, np.float32))  # leaves other numbers in the module
    assert task.train_data is not None
    inputs = torch.as_tensor(task.train_data[0])
    parts = torch.split(torch.from_numpy(weights), [tensor.size for tensor in task.schema.tensors])
    shaped = [part.view(tensor.shape) for part, tensor in zip(parts, task.schema.tensors, strict=True)]
    with torch.no_grad():
        given = Network(task.module, layout)(shaped[:-2], shaped[-2:], inputs)
        own = task.module(inputs)
        task.module.load_state_dict({t.name: p for t, p in zip(task.schema.tensors, shaped, strict=True)})
        assert torch.equal(given, task.module(inputs))
        assert not torch.equal(given, own)


# Training.


def test_training_equals_a_slow_version() -> None:
    """Both steps with torch.optim.SGD, a module per layer and clipping as in the authors' code."""
    task = small()
    settings = Settings(**SMALL, head_epochs=2)
    order = begun(settings, task)[2]
    before, after, update = worked(order, task)
    layout, phi = layout_of(task.schema, settings), torch.from_numpy(order.phi.whole().copy())
    first = nn.Linear(5, 7)
    linears = [nn.Linear(7, outlet.tensor.size) for outlet in layout.outlets]
    with torch.no_grad():
        for linear, ((w, ws), (b, bs)) in zip(
            [first, *linears], [layout.first, *(outlet.parts for outlet in layout.outlets)], strict=True
        ):
            linear.weight.copy_(phi[w : w + ws[0] * ws[1]].view(ws))
            linear.bias.copy_(phi[b : b + bs[0]])
    v, head = (torch.from_numpy(part.copy()).requires_grad_() for part in (before.v, before.head))
    rng = stream(0, "client")
    client().begin(order, task, rng)
    assert task.train_data is not None
    inputs, targets = (torch.as_tensor(np.asarray(part)) for part in task.train_data)

    def theta() -> dict[str, torch.Tensor]:
        z = torch.relu(first(v))
        return {o.tensor.name: one(z).view(o.tensor.shape) for o, one in zip(layout.outlets, linears, strict=True)}

    def epochs(count: int, loss_of: Any, groups: list[list[torch.Tensor]], rate: float, clip: bool) -> None:
        optimisers = [torch.optim.SGD(group, lr=rate, momentum=0.5, weight_decay=5e-4) for group in groups]
        rng.integers(1 << 62)
        for _ in range(count):
            shuffled = rng.permutation(len(inputs))
            for low in range(0, len(inputs), 16):
                rows = shuffled[low : low + 16]
                for optimiser in optimisers:
                    optimiser.zero_grad()
                loss_of(rows).backward()
                for group, optimiser in zip(groups, optimisers, strict=True):
                    if clip:
                        nn.utils.clip_grad_norm_(group, 50.0)
                    optimiser.step()

    def loss(generated: dict[str, torch.Tensor], own: torch.Tensor, rows: Any) -> torch.Tensor:
        size = layout.head[0].size
        named = {layout.head[0].name: own[:size].view(layout.head[0].shape), layout.head[1].name: own[size:]}
        return task.loss(torch.func.functional_call(task.module, {**generated, **named}, (inputs[rows],)), targets[rows])

    fixed = {name: part.detach() for name, part in theta().items()}
    epochs(2, lambda rows: loss(fixed, head, rows), [[head]], 0.1, clip=False)
    shared: list[torch.Tensor] = [p for linear in (first, *linears) for p in linear.parameters()]
    epochs(2, lambda rows: loss(theta(), head.detach(), rows), [shared, [v]], 0.05, clip=True)
    trained = torch.cat([p.detach().reshape(-1) for p in shared])
    assert np.allclose(update.delta.whole(), (trained - phi).numpy(), rtol=0, atol=2e-6)
    assert np.allclose(after.v, v.detach(), rtol=0, atol=2e-6)
    assert np.allclose(after.head, head.detach(), rtol=0, atol=2e-6)
    assert float((trained - phi).abs().max()) > 1e-3, "control: something was learned"


def test_gradients_are_clipped_to_fifty() -> None:
    """A loss a million times as large moves phi and v by rate x 50 in one step, not by a million times as much."""
    plain = small()
    task = replace(plain, loss=lambda outputs, targets: 1e6 * nn.functional.cross_entropy(outputs, targets))
    settings = Settings(**{**SMALL, "local_epochs": 1, "head_epochs": 0, "batch_size": 1000, "weight_decay": 0.0})
    before, after, update = worked(begun(settings, task)[2], task)
    assert float(np.linalg.norm(update.delta.whole())) == pytest.approx(0.05 * CLIP, rel=1e-4)
    assert float(np.linalg.norm(after.v - before.v)) == pytest.approx(0.05 * CLIP, rel=1e-4)
    _, _, free = worked(begun(settings, plain)[2], plain)
    assert float(np.linalg.norm(free.delta.whole())) < 0.05 * CLIP / 2, "control: the plain loss is not clipped"


def test_step_one_moves_the_head_alone_and_step_two_all_but_the_head() -> None:
    task = small()
    order = begun(Settings(**SMALL), task)[2]
    layout = Layout.of(task.schema, 5, 7)
    local = client().begin(order, task, stream(0))
    model, how = Personal(task, layout, order.phi.whole(), local.v, local.head), Sgd(1, 16, 0.1, 0.5, 5e-4)

    def now() -> list[Array]:
        return [model.phi.copy(), model.v.copy(), model.head.copy()]

    start = now()
    assert [one.tobytes() for one in start] == [order.phi.whole().tobytes(), local.v.tobytes(), local.head.tobytes()]
    model.train_head(how, stream(1))
    first = now()
    assert [one.tobytes() == other.tobytes() for one, other in zip(start, first, strict=True)] == [True, True, False]
    model.train_hypernetwork(how, stream(2))
    second = now()
    assert [one.tobytes() == other.tobytes() for one, other in zip(first, second, strict=True)] == [False, False, True]


def test_without_a_rate_the_upload_is_the_download() -> None:
    task = small()
    order = begun(Settings(**{**SMALL, "learning_rate": 0.0}), task)[2]
    before, after, update = worked(order, task)
    assert not np.any(update.delta.whole())
    assert after.v.tobytes() == before.v.tobytes()
    assert after.head.tobytes() != before.head.tobytes(), "control: the head has a rate of its own"
    assert np.any(worked(begun(Settings(**SMALL), task)[2], task)[2].delta.whole())


def test_the_upload_holds_phi_and_nothing_else() -> None:
    task = small()
    settings = Settings(**SMALL)
    order = begun(settings, task)[2]
    _, after, update = worked(order, task)
    sent = registry.codec("hyperfl", settings).encode_update(update)
    assert sent.body.size == 4 * Layout.of(task.schema, 5, 7).size
    assert set(HyperFlUpdate.DESCRIPTOR.fields_by_name) == {"samples"}
    body = bytes(sent.body.read(0, sent.body.size))
    for secret in (after.v, after.head):
        assert secret.tobytes() not in body


def test_with_noise_the_update_is_clipped_noisy_and_charged_and_tells_no_count() -> None:
    task, size = small(), Layout.of(small().schema, 5, 7).size
    plain, noisy = Settings(**SMALL), Settings(**SMALL, noise_multiplier=2.0, noise_clip=0.5)
    half = HyperFLClient(draw=lambda: b"test", noise=FixedNoise(1))
    order = begun(noisy, task)[2]
    rng = stream(0, "client")
    local = half.begin(order, task, rng)
    (charged,) = half.charges(order, local, task)
    # Whatever the records are, two clipped changes are at most 2 x 0.5 apart.
    assert isinstance(charged, Gaussian)
    assert charged.sigma == 1.0
    assert 1.0 <= charged.sensitivity < 1.0 + 1e-6
    after, update, _ = half.work(order, local, task, rng)
    honest = worked(begun(plain, task)[2], task)[2].delta.whole()
    clipped = honest * min(1.0, 0.5 / float(np.linalg.norm(honest)))
    noise = update.delta.whole() - clipped
    # 1,000 numbers and more of deviation 1: six deviations of the estimate are below 0.15 (false alarm 2e-9).
    assert size > 1000
    assert abs(float(noise.std()) - 1.0) < 0.15
    assert abs(float(noise.mean())) < 0.2
    assert update.samples == 1
    assert not half.charges(begun(plain, task)[2], local, task)
    # What stays on the device has no noise.
    assert after.head.tobytes() == worked(begun(plain, task)[2], task)[1].head.tobytes()


# What a device keeps.


def test_embedding_and_head_are_drawn_where_the_server_cannot_look() -> None:
    """The server knows seed, run, round and client, hence the whole stream; devices with the same one differ all the same."""
    task = small()
    order = begun(Settings(**SMALL), task)[2]
    real = registry.client_side("hyperfl")
    one, other = (real.begin(order, task, stream(0)) for _ in range(2))
    assert not set(one.v.tolist()) & set(other.v.tolist())
    assert not set(one.head.tolist()) & set(other.head.tolist())
    same = [client().begin(order, task, stream(0)) for _ in range(2)]
    assert same[0].v.tobytes() == same[1].v.tobytes()
    assert same[0].v.tobytes() != client().begin(order, task, stream(1)).v.tobytes()
    drawn = [private_generator(stream(0), lambda secret=secret: secret).random() for secret in (b"a", b"b", b"a")]  # type: ignore[misc]
    assert drawn[0] == drawn[2] != drawn[1]


def test_first_values_have_their_laws() -> None:
    """2,000 values of v: mean within 5 / sqrt(2000), variance within 5 sqrt(2 / 2000) of 0 and 1: false alarm below 1e-5."""
    task = small()
    order = begun(Settings(embedding=2000, hidden=2), task)[2]
    local = registry.client_side("hyperfl").begin(order, task, stream(0))
    assert abs(float(local.v.mean())) < 5 / sqrt(2000)
    assert abs(float(local.v.var()) - 1) < 5 * sqrt(2 / 2000)
    assert float(np.abs(local.head).max()) <= 1 / sqrt(12)  # the head has 12 inputs
    assert float(np.abs(local.head).max()) > 0.5 / sqrt(12)


def test_what_is_kept_comes_back_and_odd_bytes_do_not() -> None:
    half = registry.client_side("hyperfl")
    kept = half.dump(Local(np.array([1, 2], np.float32), np.array([3, 4, 5], np.float32)))
    assert len(kept) == 4 + 4 * 5
    again = half.load(kept)
    assert (again.v.tolist(), again.head.tolist()) == ([1, 2], [3, 4, 5])
    for wrong in (b"", b"\0\0", kept[:-1], b"\x09\0\0\0" + kept[4:]):
        with pytest.raises(WrongShape, match="local state of"):
            half.load(wrong)


def test_a_device_needs_a_torch_task_with_records_and_the_same_model() -> None:
    task = small()
    order, half = begun(Settings(**SMALL), task)[2], client()
    local = half.begin(order, task, stream(0))
    with pytest.raises(ConfigError, match="SyntheticTask is no TorchTask"):
        half.work(order, local, SyntheticTask(7, 0.5, 3), stream(0))
    with pytest.raises(ConfigError, match="no training records"):
        half.work(order, local, make_task("digits", -1, 5, model="mlp", net=NET), stream(0))
    with pytest.raises(WrongShape, match="this device's model needs"):
        half.work(order, local, small(hidden=[17]), stream(0))
    with pytest.raises(WrongShape, match="this device keeps an embedding of 4"):
        half.work(order, Local(local.v[:4], local.head), task, stream(0))


def test_a_device_with_test_records_judges_itself_before_it_trains() -> None:
    both = replace(small(), test_data=make_task("digits", -1, 5, model="mlp", net=NET).test_data)
    order = begun(Settings(**SMALL), both)[2]
    local = client().begin(order, both, stream(0))
    _, _, facts = client().work(order, local, both, stream(0))
    layout = Layout.of(both.schema, 5, 7)
    weights = Personal(both, layout, order.phi.whole(), local.v, local.head).weights()
    assert facts == {"own_accuracy": both.evaluate(weights)["accuracy"]}
    assert set(facts) <= set(FACTS)
    assert client().work(order, local, small(), stream(0))[2] == {}


class Adapted(nn.Module):
    """A frozen layer, an adapter in the middle of it by order of names, the head."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.ModuleDict({"frozen": nn.Linear(64, 20)})
        self.adapter = nn.Linear(20, 16)
        self.high = nn.ModuleDict({"frozen": nn.Linear(16, 12)})
        self.head = nn.Linear(12, 10)
        self.low.requires_grad_(requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.low["frozen"](x.flatten(1)).relu()
        found: torch.Tensor = self.head(self.high["frozen"](self.adapter(x).relu()).relu())
        return found


def test_behind_a_frozen_backbone_only_the_adapters_are_generated() -> None:
    plain = small()
    task = replace(plain, model=Adapted)
    with pytest.raises(
        ConfigError, match=r"parameter low.frozen.weight is frozen in the model.*name the frozen part as backbone"
    ):
        worked(begun(Settings(**SMALL), task)[2], task)
    settings = Settings(**SMALL, backbone="low")
    server, state, order = begun(settings, task)
    layout = layout_of(task.schema, settings)
    assert [outlet.tensor.name.partition(".")[0] for outlet in layout.outlets] == ["adapter"] * 2 + ["high"] * 2
    before, after, update = worked(order, task)
    assert update.delta.size == layout.size
    assert np.any(update.delta.whole())
    first = task.initial(order.seed)
    weights = Personal(task, layout, order.phi.whole() + update.delta.whole(), after.v, after.head, order.seed).weights()
    frozen = 64 * 20 + 20
    assert weights[:frozen].tobytes() == first[:frozen].tobytes(), "the backbone stands still"
    assert weights[-layout.head_size :].tobytes() == after.head.tobytes()
    ours = server.weights(state, MemorySpace()).whole()
    v = stream(order.seed, "hyperfl", "reference").standard_normal(5, dtype=np.float32)
    theirs = Personal(task, layout, order.phi.whole(), v, first[-layout.head_size :], order.seed).weights()
    assert np.allclose(ours, theirs, rtol=0, atol=1e-6)
    assert before.head.tobytes() != after.head.tobytes()
    codec = registry.codec("hyperfl", settings)
    assert codec.decode_order(codec.encode_order(order), task.schema).training.backbone == "low"
    # A frozen part in the middle of the schema.
    middle = layout_of(task.schema, Settings(**SMALL, backbone="high"))
    assert [outlet.tensor.name.partition(".")[0] for outlet in middle.outlets] == ["low"] * 2 + ["adapter"] * 2
    order = begun(Settings(**SMALL, backbone="high"), replace(task, model=lambda: Adapted().requires_grad_()))[2]
    around = Personal(
        replace(task, model=lambda: Adapted().requires_grad_()), middle, order.phi.whole(), before.v, before.head, order.seed
    ).weights()
    assert around[frozen + 336 : frozen + 336 + 204].tobytes() == first[frozen + 336 : frozen + 336 + 204].tobytes()
    assert around[-layout.head_size :].tobytes() == before.head.tobytes()


# The server.


def test_one_device_is_the_identity_equal_ones_too_and_weights_are_shares() -> None:
    task = small()
    server, state, order = begun(Settings(**SMALL), task)
    update = worked(order, task)[2]
    wanted = (order.phi.whole().astype(np.float64) + update.delta.whole()).astype(np.float32)
    alone, _ = server.close(state, [Weighted("a", 7.0, update)], MemorySpace())
    assert alone.phi.model.whole().tobytes() == wanted.tobytes()
    same, _ = server.close(state, [Weighted(c, w, update) for c, w in (("a", 1.0), ("b", 2.0), ("c", 5.0))], MemorySpace())
    assert np.allclose(same.phi.model.whole(), wanted, rtol=0, atol=1e-7)
    # 30 and 10 records: three quarters and one quarter.
    other = replace(update, delta=Vector.of(np.full(update.delta.size, 2, np.float32)), norm=None)
    zero = replace(update, delta=Vector.of(np.zeros(update.delta.size, np.float32)), norm=None)
    mixed, _ = server.close(state, [Weighted("a", 30.0, other), Weighted("b", 10.0, zero)], MemorySpace())
    assert np.allclose(mixed.phi.model.whole(), order.phi.whole() + 1.5, rtol=0, atol=1e-6)
    assert server.claim(update) == 40.0


def test_weights_are_those_of_a_public_embedding_behind_the_first_head() -> None:
    task = small()
    server, state, order = begun(Settings(**SMALL), task, seed=9)
    weights = server.weights(state, MemorySpace()).whole()
    v = stream(9, "hyperfl", "reference").standard_normal(5, dtype=np.float32)
    head = task.initial(9)[-Layout.of(task.schema, 5, 7).head_size :]
    expected = Personal(task, Layout.of(task.schema, 5, 7), order.phi.whole(), v, head).weights()
    assert np.allclose(weights, expected, rtol=0, atol=1e-6)
    moved, _ = server.close(state, [Weighted("a", 1.0, worked(order, task)[2])], MemorySpace())
    after = server.weights(moved, MemorySpace()).whole()
    assert after[-len(head) :].tobytes() == head.tobytes(), "nobody trains it"
    assert after[: -len(head)].tobytes() != weights[: -len(head)].tobytes()


def test_a_state_without_a_head_is_refused() -> None:
    task = small()
    server, state, _ = begun(Settings(**SMALL), task)
    packed = server.pack(state)
    assert set(packed.blobs) == {"model", "rest"}
    with pytest.raises(ConfigError, match="the rest of the first model is missing"):
        server.unpack(replace(packed, blobs={"model": packed.blobs["model"]}))
    with pytest.raises(WrongShape, match="initial model of 3 values"):
        server.start(Vector.of(np.zeros(3, np.float32)))


def test_a_robust_rule_folds_changes_of_phi() -> None:
    task = small()
    settings = Settings(**SMALL, rule="median", liars=1)
    server, state, order = begun(settings, task)
    size = order.phi.size
    values = [Update(Vector.of(np.full(size, value, np.float32)), 1) for value in (1.0, 2.0, 1e6)]
    after, _ = server.close(state, [Weighted(f"c{i}", 1.0, one) for i, one in enumerate(values)], MemorySpace())
    assert np.allclose(after.phi.model.whole(), order.phi.whole() + 2, rtol=0, atol=1e-6)
    settings.check(3)
    with pytest.raises(ConfigError):
        settings.check(2)
    with pytest.raises(ConfigError, match="rule"):
        Settings(rule="medien").check(3)


# The wire.

SCHEMA = Schema((Tensor("a.weight", (2, 2)), Tensor("a.bias", (2,)), Tensor("b.weight", (1, 2)), Tensor("b.bias", (1,))))
HEADER = UpdateHeader(hyperfl=HyperFlUpdate(samples=5)).SerializeToString()


def asked(body: bytes | None = None, **changed: Any) -> Payload:
    how = {name: getattr(Training(embedding=2, hidden=3), name) for name in Training.__struct_fields__}
    header = TaskHeader(hyperfl=HyperFlTask(**{"seed": 3, **how, **changed})).SerializeToString()
    return Payload(header, Bytes(np.arange(33, dtype="<f4").tobytes() if body is None else body))


def test_law_of_updates() -> None:
    codec = registry.codec("hyperfl", Settings(embedding=2, hidden=3, clip_norm=0.01))
    sound = np.full(33, 0.1, dtype="<f4")
    assert codec.decode_update(Payload(HEADER, Bytes(sound.tobytes())), SCHEMA).samples == 5
    bad = sound.copy()
    bad[30] = np.nan
    for header, body, error, says in (
        (HEADER, sound.tobytes()[:-4], WrongShape, "body of 128 bytes; a hypernetwork of 33 float32 values needs 132"),
        (HEADER, sound.tobytes() + bytes(4), WrongShape, "body of 136 bytes"),
        (HEADER, bad.tobytes(), NotFinite, "value 30 is nan"),
        (HEADER, (100 * sound).tobytes(), OutsideLaw, "norm 57.4456; at most 10 is admitted"),
        (UpdateHeader(hyperfl=HyperFlUpdate()).SerializeToString(), sound.tobytes(), OutsideLaw, "0 samples"),
        (b"", sound.tobytes(), WrongShape, "header for None"),
        (HEADER + b"\x7a\x00", sound.tobytes(), WrongShape, "unknown fields"),
    ):
        with pytest.raises(error, match=says):
            codec.decode_update(Payload(header, Bytes(body)), SCHEMA)


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"seed": 1 << 63}, OutsideLaw, "seed"),
        ({"embedding": 0}, OutsideLaw, "embedding"),
        ({"hidden": 5000}, OutsideLaw, "hidden"),
        ({"hidden": 4}, WrongShape, "body of 132 bytes; a hypernetwork of 42 float32"),
        ({"rank": 1}, WrongShape, "a hypernetwork of 27 float32"),
        ({"learning_rate": float("nan")}, OutsideLaw, "learning_rate"),
        ({"head_learning_rate": -0.1}, OutsideLaw, "head_learning_rate"),
        ({"momentum": 1.0}, OutsideLaw, "momentum"),
        ({"batch_size": 0}, OutsideLaw, "batch_size"),
        ({"body": np.full(33, np.inf, "<f4").tobytes()}, NotFinite, "value 0 is inf"),
        ({"body": b""}, WrongShape, "body of 0 bytes"),
    ],
)
def test_law_of_orders(changed: dict[str, Any], error: type[Exception], says: str) -> None:
    codec = registry.codec("hyperfl")
    sound = codec.decode_order(asked(), SCHEMA)
    assert (sound.phi.size, sound.training.embedding, sound.seed) == (33, 2, 3)
    with pytest.raises(error, match=says):
        codec.decode_order(asked(**changed), SCHEMA)


def test_training_is_what_a_plan_and_an_order_share() -> None:
    assert set(Training.__struct_fields__) <= set(Settings.__struct_fields__)
    assert set(Training.__struct_fields__) | {"seed"} == set(HyperFlTask.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("how", [{"embedding": 0}, {"hidden": 0}, {"rank": -1}, {"momentum": 1}, {"learning_rate": -1}])
def test_impossible_settings_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(how))):
        convert(how, Settings, "plan", "method")


# A run.


def played(**how: Any) -> tuple[engine.Result, Array, float]:
    """Result, phi at the end, and the mean over devices of their own model's accuracy on all test records."""
    how = {"embedding": 8, "hidden": 32, "batch_size": 20, "learning_rate": 0.1, **how}
    method = "\n".join(f"{key} = {value!r}" for key, value in how.items())
    plan, settings = parse_plan(
        '[run]\nname = "h"\nrounds = 6\ntask = "t"\nseed = 1\n[cohort]\nsize = 5\nquorum = 4\nover_select = 1.0\n'
        f'[evaluation]\nevery = 6\n[method]\nname = "hyperfl"\n{method}\n',
        registry.method,
    )
    fleet = engine.VirtualFleet(
        "edgehold.attacks.eval.data:make_task",
        {"dataset": "digits", "model": "mlp", "net": {"hidden": [32]}, "partition": "iid"}, 5,
    )  # fmt: skip
    store, own = engine.Store(), fleet.own_copy()
    result = engine.run(plan, settings, fleet, own, dict.fromkeys(fleet, REPEATABLE), store=store)
    kept = store.kept()
    assert kept is not None
    assert isinstance(own, TorchTask)
    phi = Vector(kept.packed.blobs["model"]).whole()
    layout, found = layout_of(own.schema, settings), []
    for name in fleet:
        state = client().load(store.local(name) or b"")
        found.append(own.evaluate(Personal(own, layout, phi, state.v, state.head).weights())["accuracy"])
    return result, phi, float(np.mean(found))


def test_a_run_on_the_digits_learns_and_repeats() -> None:
    result, phi, own = played()
    assert own > 0.85  # chance is 0.1
    assert result.rounds[-1]["accuracy"] < own - 0.2, "there is no global model, and none is claimed"
    again, same, _ = played()
    assert hashlib.sha256(same.tobytes()).digest() == hashlib.sha256(phi.tobytes()).digest()
    assert again.digest == result.digest
    assert played(learning_rate=0.0, head_learning_rate=0.0)[2] < 0.4, "control: without training nothing is learned"
    assert played(rank=4)[2] > 0.8


def test_rounds_go_on_without_a_device_whose_change_is_no_number() -> None:
    plan, settings = parse_plan(
        '[run]\nname = "h"\nrounds = 1\ntask = "t"\n[cohort]\nsize = 3\nquorum = 2\nover_select = 1.0\n'
        '[evaluation]\nevery = 0\n[method]\nname = "hyperfl"\nembedding = 4\nhidden = 4\nlocal_epochs = 1\n',
        registry.method,
    )
    found = engine.run(plan, settings, {f"c{i}": small(i) for i in range(3)}, adversaries={"c1": gaussian.not_finite()})
    assert found.rejected == {"not_finite": 1}
    assert found.rounds[0]["clients_admitted"] == 2


def test_batches_are_those_of_training() -> None:
    task = small()
    how = LocalTraining(epochs=2, batch_size=16)
    sizes = [len(targets) for _, targets in task.batches(how, stream(1))]
    assert sizes == [16, 16, 8] * 2
    with pytest.raises(ConfigError, match="no training data"):
        next(make_task("digits", -1, 5, model="mlp", net=NET).batches(how, stream(1)))
