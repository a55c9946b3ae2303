"""HideNseek: pruning without data, worked by hand, its law on the wire, its invariants, a run on the digits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgehold.attacks.eval.data import make_task
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.config import convert
from edgehold.core.contract import Cohort, Payload, Weighted
from edgehold.core.errors import ConfigError, OutsideLaw, RejectedUpdate, WrongShape
from edgehold.core.facts import FACTS
from edgehold.core.plan import parse_plan
from edgehold.core.rng import stream
from edgehold.core.torch_signs import SignTraining, train_signs
from edgehold.core.torch_synflow import Network, prune, upper
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, Bytes, MemorySpace, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.hidenseek.packing import mask_and_counts_bytes, pack_bits, read, unpack_bits, write
from edgehold.defenses.hidenseek.server import in_reach, voted
from edgehold.defenses.hidenseek.state import (
    Order,
    Settings,
    State,
    Training,
    Update,
    drawn,
    kept_weights,
    signs_of,
    weights_of,
)
from edgehold.defenses.layers import layers_of
from edgehold.defenses.packing import packed_bytes
from edgehold.proto.v1.payloads_pb2 import HideNseekTask, HideNseekUpdate, TaskHeader, UpdateHeader
from edgehold.server import engine

NET: dict[str, Any] = {"hidden": [16], "bias": False}


def small(index: int = 0, **how: Any) -> TorchTask:
    return make_task("digits", index, 5, limit=40, model="mlp", net=how or NET)


def task_of(module: nn.Module, shape: tuple[int, ...]) -> TorchTask:
    """A task with one record of noise."""
    inputs = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    data = (inputs, np.array([0, 1]))
    return TorchTask(lambda: module, data, data, nn.functional.cross_entropy)


def chain(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def begun(settings: Settings, task: TorchTask, seed: int = 3) -> tuple[Any, State]:
    server = registry.server_side("hidenseek", settings, task.schema, seed)
    return server, server.start(Vector.of(registry.first_weights("hidenseek", settings, task, seed)))


def votes(*rows: list[int]) -> list[Weighted[Update]]:
    return [Weighted(f"c{i}", float(i + 1), Update(Vector.of(pack_bits(np.array(r, bool))))) for i, r in enumerate(rows)]


# Saliency.


def test_saliency_by_hand() -> None:
    # Two inputs of 1, weights |1 2; 3 4| then |5 6|: R = 5 (1 + 2) + 6 (3 + 4) = 57.
    network = Network(task_of(chain(2, 2, 1), (2,)))
    for signs in ([1, 1, 1, 1, 1, 1], [-1, 1, -1, 1, 1, -1]):  # signs do not matter
        scores = network.scores(np.array([1, 2, 3, 4, 5, 6]) * np.array(signs))
        # w dR/dw: 1 x 5, 2 x 5, 3 x 6, 4 x 6; 5 x 3, 6 x 7.
        assert scores.tolist() == [5, 10, 18, 24, 15, 42]


def test_saliencies_of_every_layer_add_up_to_the_output() -> None:
    task = task_of(chain(7, 9, 8, 3), (7,))
    weights = np.random.default_rng(1).standard_normal(task.schema.size)
    scores = Network(task).scores(weights)
    layers = layers_of(task.schema, "HideNseek")
    sums = [scores[layer.place].sum() for layer in layers]
    assert np.allclose(sums, sums[0], rtol=1e-9, atol=0)
    value = np.ones(7)
    for layer in layers:
        value = np.abs(weights[layer.place]).reshape(-1, layer.fan_in) @ value
    assert np.isclose(sums[0], value.sum(), rtol=1e-9)


def test_neither_data_nor_norms_nor_dropout_change_what_is_pruned() -> None:
    def module(norm: bool) -> nn.Sequential:
        found: list[nn.Module] = [nn.Conv2d(1, 4, 3, padding=1, bias=False)]
        if norm:
            found += [nn.GroupNorm(2, 4, affine=False), nn.Dropout(0.5)]
        return nn.Sequential(*found, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3, bias=False))

    first = Network(task_of(module(False), (1, 8, 8)))
    other = Network(
        replace(task_of(module(True), (1, 8, 8)), train_data=(np.zeros((3, 1, 8, 8), np.float32), np.zeros(3, int)))
    )
    weights = np.random.default_rng(2).standard_normal(4 * 9 + 64 * 3)
    assert (prune(first, weights, 60, 5, []) == prune(other, weights, 60, 5, [])).all()


def test_deep_networks_do_not_overflow() -> None:
    task = task_of(chain(64, *[256] * 40, 10), (64,))
    scores = Network(task).scores(np.full(task.schema.size, 1.0))  # R = 64 x 256^40 x 10, beyond float32
    assert np.isfinite(scores).all()
    assert (scores > 1e90).all()
    with pytest.raises(ConfigError, match="overflows even float64"):
        Network(task).scores(np.full(task.schema.size, 1e30))


@pytest.mark.parametrize(
    ("module", "shape", "says"),
    [
        (nn.Sequential(nn.Linear(3, 2)), (3,), "parameter 0.bias of a Linear cannot be masked"),
        (nn.Sequential(nn.Linear(3, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 2, bias=False)), (3,), "layer 1 is a Sigmoid"),
        (
            nn.Sequential(nn.Conv1d(2, 2, 1, bias=False), nn.BatchNorm1d(2, track_running_stats=False)),
            (2, 3),
            "1.weight of a Bat",
        ),
    ],
)
def test_layers_that_cannot_be_pruned_are_named(module: nn.Module, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Network(task_of(module, shape))


def test_records_of_tokens_have_no_saliency() -> None:
    data = (np.zeros((2, 3), dtype=np.int64), np.array([0, 1]))
    with pytest.raises(ConfigError, match="records are torch.int64"):
        Network(TorchTask(lambda: chain(3, 2), data, None, nn.functional.cross_entropy))
    with pytest.raises(ConfigError, match="no records"):
        Network(TorchTask(lambda: chain(3, 2), None, None, nn.functional.cross_entropy))


# Pruning.


def test_the_upper_scores_stay_and_equals_go_by_place() -> None:
    scores = np.array([1.0, 5.0, 5.0, 5.0, 2.0])
    assert upper(scores, 2, []).tolist() == [False, True, True, False, False]
    # The last two places keep one of their own, the first keeps one.
    assert upper(scores, 3, [(slice(0, 1), 1), (slice(3, 5), 1)]).tolist() == [True, True, False, True, False]


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("keep", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("prune_", ["synflow", "random"])
def test_as_many_weights_are_left_as_asked_for(steps: int, keep: float, prune_: Any) -> None:
    task = small()
    settings = Settings(keep=keep, prune_steps=steps, prune=prune_, allow_broken=True)
    first = registry.first_weights("hidenseek", settings, task, 5)
    assert np.count_nonzero(first) == kept_weights(keep, task.schema) == round(keep * task.schema.size)
    assert first.tobytes() == registry.first_weights("hidenseek", settings, small(3), 5).tobytes()  # other data, same network


def test_weights_keep_their_size_and_activations_their_variance() -> None:
    """On what is left |w| is the drawn one over the root of the layer's share; a function of seed and mask alone."""
    task = small()
    layers = layers_of(task.schema, "HideNseek")
    first = registry.first_weights("hidenseek", Settings(keep=0.3), task, 9)
    mask = first != 0
    assert first.tobytes() == weights_of(9, layers, mask).tobytes()
    for number, layer in enumerate(layers):
        left = mask[layer.place]
        before = drawn(9, number, layer.edges, layer.fan_in)
        assert np.allclose(first[layer.place][left], before[left] / np.sqrt(left.mean()), rtol=1e-6)
        assert abs(float((before**2).mean()) * layer.fan_in / 2 - 1) < 0.2


def test_a_floor_keeps_every_layer_and_more_than_there_is_cannot_be_reserved() -> None:
    task, keep = small(0, hidden=[64, 64], bias=False), 0.05
    layers = layers_of(task.schema, "HideNseek")

    def shares(**how: Any) -> list[float]:
        first = registry.first_weights("hidenseek", Settings(keep=keep, allow_broken=True, **how), task, 1)
        return [float((first[layer.place] != 0).mean()) for layer in layers]

    assert min(shares()) < 0.03
    assert min(shares(floor=0.03)) >= 0.03
    with pytest.raises(ConfigError, match=r"floor = 0.1 reserves \d+ weights, but keep = 0.05 leaves"):
        registry.first_weights("hidenseek", Settings(keep=keep, floor=0.1), task, 1)


def test_a_broken_network_is_refused_by_the_name_of_its_layer() -> None:
    task = make_task("digits", -1, 5, model="mlp", net={"hidden": [128, 128], "bias": False})
    for seed in range(3):
        with pytest.raises(ConfigError, match=r"leaves \d+ of 16384 weights of layer 2.weight, which has 128 outputs") as found:
            registry.first_weights("hidenseek", Settings(keep=0.05), task, seed)
        assert found.value.field == "method.keep"
    registry.first_weights("hidenseek", Settings(keep=0.05, prune_steps=100), task, 0)
    registry.first_weights("hidenseek", Settings(keep=0.05, allow_broken=True), task, 0)
    network = Network(task_of(chain(2, 2, 1), (2,)))
    cut = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])  # unit 0 is fed but not read, unit 1 read but not fed
    places = [("first", slice(0, 4), 2), ("second", slice(4, 6), 1)]
    with pytest.raises(ConfigError, match="no path through layer first"):
        network.check(cut, places)
    with pytest.raises(ConfigError, match="leaves 0 of 2 weights of layer second, which has 1 outputs"):
        network.check(np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0]), places)
    network.check(np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]), places)


def test_other_first_weights_are_refused() -> None:
    task, settings = small(), Settings(keep=0.5)
    server, _ = begun(settings, task)
    first = registry.first_weights("hidenseek", settings, task, 3)
    doubled, denser = first * 2, np.where(first == 0, np.float32(1), first)
    for wrong in (task.initial(3), doubled, denser, registry.first_weights("hidenseek", settings, task, 4)):
        with pytest.raises(ConfigError, match="no network that HideNseek pruned from seed 3") as found:
            server.start(Vector.of(np.asarray(wrong, np.float32)))
        assert found.value.field == "model.file"
    with pytest.raises(ConfigError, match="SyntheticTask is no TorchTask"):
        registry.first_weights("hidenseek", settings, SyntheticTask(7, 0.5, 3), 1)
    with pytest.raises(ConfigError, match=r"tensor b of shape \[3\] cannot be used: HideNseek takes weights"):
        registry.server_side("hidenseek", settings, Schema((Tensor("b", (3,)),)), 1)


# Votes.


def test_votes_by_hand() -> None:
    # Four weights, three devices. Votes for the own sign: 3, 2, 1, 0. Means 1, 1/3, -1/3, -1; weights 2 and 3 turn.
    schema = Schema((Tensor("a", (2, 4)),))
    server = registry.server_side("hidenseek", Settings(keep=0.5, liars=1), schema, 0)
    mask = np.array([1, 0, 1, 1, 0, 0, 1, 0], dtype=bool)
    base = weights_of(0, layers_of(schema, "HideNseek"), mask)
    state = server.start(Vector.of(base))
    order = server.open(state, Cohort(1, ("c0",)))
    assert order.mean_signs().tolist() == [1, 1, 1, 1]
    after, facts = server.close(state, votes([1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]), MemorySpace())
    order = server.open(after, Cohort(2, ("c0",)))
    assert (order.counts.tolist(), order.voters) == ([3, 2, 1, 0], 3)
    assert np.allclose(order.mean_signs(), [1, 1 / 3, -1 / 3, -1])
    assert server.weights(after, MemorySpace()).whole().tolist() == (base * np.array([1, 0, 1, -1, 0, 0, -1, 0])).tolist()
    # One liar could turn the two that are one vote apart, not the unanimous ones.
    assert facts == {"signs_turned": 0.5, "signs_contested": 0.5}
    assert set(facts) <= set(FACTS)
    # Nobody answers: the votes before stay.
    assert server.close(after, [], MemorySpace()) == (after, {})
    hard = registry.server_side("hidenseek", Settings(keep=0.5, between="majority"), schema, 0)
    assert hard.open(after, Cohort(2, ("c0",))).mean_signs().tolist() == [1, 1, -1, -1]
    switched = registry.server_side("hidenseek", Settings(keep=0.5, values="mask"), schema, 0)
    assert switched.weights(after, MemorySpace()).whole().tolist() == (base * np.array([1, 0, 1, 0, 0, 0, 0, 0])).tolist()


def test_an_even_vote_keeps_the_sign() -> None:
    assert signs_of(np.array([0, 1, 2, 3, 4], np.uint16), 4).tolist() == [False, False, True, True, True]
    assert in_reach(np.array([0, 1, 2, 3, 4], np.uint16), 4, 1).tolist() == [False, True, True, True, False]


def test_one_device_and_equal_devices_and_any_order() -> None:
    task = small()
    server, state = begun(Settings(keep=0.4), task)
    kept = kept_weights(0.4, task.schema)
    rng = np.random.default_rng(0)
    rows = [rng.random(kept) < 0.5 for _ in range(5)]
    lists = [row.astype(int).tolist() for row in rows]
    alone, _ = server.close(state, votes(lists[0]), MemorySpace())
    mean = server.open(alone, Cohort(2, ())).mean_signs()
    assert mean.tolist() == np.where(rows[0], 1.0, -1.0).tolist()
    same, _ = server.close(state, votes(*[lists[0]] * 4), MemorySpace())
    assert server.open(same, Cohort(2, ())).mean_signs().tolist() == mean.tolist()
    one, _ = server.close(state, votes(*lists), MemorySpace())
    other, _ = server.close(state, votes(*lists[::-1]), MemorySpace())
    assert one.model.whole().tobytes() == other.model.whole().tobytes()
    signs = server.open(one, Cohort(2, ())).mean_signs()
    assert np.abs(signs).max() <= 1
    assert np.allclose(5 * (signs + 1) / 2, np.round(5 * (signs + 1) / 2), atol=1e-6)


def test_sizes_never_change_and_the_pruned_stay_pruned() -> None:
    task, settings = small(), Settings(keep=0.3, local_epochs=2, start_size=0.01)
    server, state = begun(settings, task)
    base = server.weights(state, MemorySpace()).whole()
    client = registry.client_side("hidenseek")
    for number in range(1, 4):
        order = server.open(state, Cohort(number, ("c0",)))
        _, update, _ = client.work(order, None, task, stream(1, number))
        state, _ = server.close(state, [Weighted("c0", 1.0, update)], MemorySpace())
        now = server.weights(state, MemorySpace()).whole()
        assert np.abs(now).tobytes() == np.abs(base).tobytes()
    assert (now != base).any(), "control: something was learned"


def test_without_training_the_votes_come_back() -> None:
    task = small()
    server, state = begun(Settings(keep=0.5, local_epochs=0), task)
    kept = kept_weights(0.5, task.schema)
    client = registry.client_side("hidenseek")
    _, update, _ = client.work(server.open(state, Cohort(1, ())), None, task, stream(0))
    assert unpack_bits(update.bits.blob, 0, kept, "signs").all()
    rng = np.random.default_rng(1)
    rows = [(rng.random(kept) < 0.5).astype(int).tolist() for _ in range(2)]  # even votes among them
    state, _ = server.close(state, votes(*rows), MemorySpace())
    order = server.open(state, Cohort(2, ()))
    _, update, _ = client.work(order, None, task, stream(0))
    assert (unpack_bits(update.bits.blob, 0, kept, "signs") == signs_of(order.counts, 2)).all()


def test_turning_all_inputs_of_a_unit_changes_the_network() -> None:
    """ReLU is no odd function: guards against a sign convention that would not matter."""
    task = make_task("digits", -1, 5, model="mlp", net=NET)
    _, state = begun(Settings(keep=0.5), task)
    layers = layers_of(task.schema, "HideNseek")
    mask = read(state.model.blob, task.schema.size, kept_weights(0.5, task.schema), 0)[0]
    base = weights_of(3, layers, mask)
    turned = base.copy()
    turned[:64] *= -1
    assert task.evaluate(base)["loss"] != task.evaluate(turned)["loss"]
    signs = np.ones(int(mask.sum()), bool)
    signs[: int(mask[:64].sum())] = False
    assert np.array_equal(voted(base, mask, signs, False), turned)


def test_training_equals_a_slow_version() -> None:
    """One batch after the other, scores of every weight, Adam as in torch.optim."""
    task = small()
    layers = layers_of(task.schema, "HideNseek")
    mask = registry.first_weights("hidenseek", Settings(keep=0.5), task, 2) != 0
    base, left = weights_of(2, layers, mask), np.flatnonzero(mask)
    start = np.where(np.arange(len(left)) % 3 == 0, -0.002, 0.003).astype(np.float32)
    got = train_signs(task, base, left, start, SignTraining(2, 16, 0.01), stream(4, "train"))
    rng = stream(4, "train")
    rng.integers(1 << 62)  # what train_by seeds torch with
    score = torch.from_numpy(start.copy()).requires_grad_()
    adam = torch.optim.Adam([score], lr=0.01)
    fixed = torch.from_numpy(base)
    data = task.train_data
    assert data is not None
    inputs, targets = (torch.as_tensor(np.asarray(part)) for part in data)
    module, shapes = task.module, [tuple(t.shape) for t in task.schema.tensors]
    for _ in range(2):
        order = rng.permutation(len(inputs))
        for lo in range(0, len(inputs), 16):
            rows = order[lo : lo + 16]
            full = torch.zeros_like(fixed)
            signs = torch.where(score < 0, -1.0, 1.0).detach()
            full[left] = fixed[left] * (signs + score - score.detach())  # straight through
            parts = torch.split(full, [int(np.prod(shape)) for shape in shapes])
            named = {t.name: part.view(shape) for t, part, shape in zip(task.schema.tensors, parts, shapes, strict=True)}
            loss = task.loss(torch.func.functional_call(module, named, (inputs[rows],)), targets[rows])
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            with torch.no_grad():
                score.clamp_(-1, 1)
    assert np.allclose(got, score.detach().numpy(), rtol=0, atol=1e-5)
    assert np.abs(got - start).max() > 0.01


# The wire.

SEVENTEEN = Schema((Tensor("net.weight", (17, 1)),))
TEN = Settings(keep=0.6)
HEADER = UpdateHeader(hidenseek=HideNseekUpdate()).SerializeToString()


def sought(**changed: Any) -> Payload:
    how = {"seed": 3, "round": 2, "kept": 10, "voters": 3, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.01}
    task = HideNseekTask(**{**how, "start_size": 0.1, "values": "signs", **changed})
    mask = np.zeros(17, bool)
    mask[3:13] = True
    body = b"".join(part.tobytes() for part in write(mask, np.arange(10, dtype=np.uint16) % 4, 3))
    return Payload(TaskHeader(hidenseek=task).SerializeToString(), Bytes(body))


def test_sizes_on_the_wire() -> None:
    """ceil(K / 8) up; mask and counts of ceil(log2(M + 1)) bits down. The page's example: 1,616 up, 6,464 of counts down."""
    schema = Schema((Tensor("a", (128, 64)), Tensor("b", (128, 128)), Tensor("c", (10, 128))))
    codec = registry.codec("hidenseek", Settings(keep=0.5))
    assert codec.body_bytes(schema) == (1616, 1616)
    assert mask_and_counts_bytes(25_856, 12_928, 10) == 25_856 // 8 + 6464
    assert mask_and_counts_bytes(25_856, 12_928, 0) == 25_856 // 8
    assert [packed_bytes(10, voters.bit_length()) for voters in (1, 2, 3, 4, 7, 8)] == [2, 3, 3, 4, 4, 5]


@pytest.mark.parametrize("kept", [1, 7, 8, 9, 1000, 300_001])
@pytest.mark.parametrize("voters", [0, 1, 2, 10, 255, 256, 65_535])
def test_masks_and_counts_come_back(kept: int, voters: int) -> None:
    rng = np.random.default_rng(kept)
    mask = np.zeros(kept + 5, bool)
    mask[rng.permutation(kept + 5)[:kept]] = True
    counts = rng.integers(0, voters + 1, kept if voters else 0).astype(np.uint16)
    body = b"".join(part.tobytes() for part in write(mask, counts, voters))
    assert len(body) == mask_and_counts_bytes(kept + 5, kept, voters)
    again, found = read(Bytes(body), kept + 5, kept, voters)
    assert (again == mask).all()
    assert found.tolist() == counts.tolist()


def test_law_of_updates() -> None:
    codec = registry.codec("hidenseek", TEN)
    sound = bytes([0b10110101, 0b01])
    assert codec.decode_update(Payload(HEADER, Bytes(sound)), SEVENTEEN).bits.whole().tolist() == [0b10110101, 0b01]
    cases: list[tuple[bytes, bytes, type[RejectedUpdate], str]] = [
        (HEADER, bytes([0b10110101, 0b101]), WrongShape, "fill up the last byte of the signs"),
        (HEADER, bytes([0b10110101, 0b10000000]), WrongShape, "fill up the last byte"),
        (HEADER, sound[:-1], WrongShape, "signs of 1 bytes; 10 weights left need 2"),
        (HEADER, sound + b"\0", WrongShape, "signs of 3 bytes"),
        (HEADER, b"", WrongShape, "signs of 0 bytes"),
        (b"", sound, WrongShape, "header for None"),
        (UpdateHeader().SerializeToString() + b"\x0a\x00", sound, WrongShape, "header for fedavg"),
        (HEADER + b"\x7a\x00", sound, WrongShape, "unknown fields"),
    ]
    for header, body, error, says in cases:
        with pytest.raises(error, match=says):
            codec.decode_update(Payload(header, Bytes(body)), SEVENTEEN)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"round": 0}, "round 0"),
        ({"seed": 1 << 63}, "seed"),
        ({"kept": 0}, "0 weights left; allowed: 1 to 17"),
        ({"kept": 18}, "18 weights left"),
        ({"kept": 9}, "the mask leaves 10 weights; 9 were announced"),
        ({"voters": 2}, "weight 3 of those left has 3 votes; there are 2 voters"),
        ({"voters": 1 << 16}, "65536 voters; allowed"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"start_size": 0.0}, "start_size"),
        ({"start_size": 1.5}, "start_size"),
        ({"values": "weights"}, "values"),
    ],
)
def test_law_of_orders(changed: dict[str, Any], says: str) -> None:
    codec = registry.codec("hidenseek")
    sound = codec.decode_order(sought(), SEVENTEEN)
    assert (sound.voters, sound.counts.tolist()) == (3, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])
    with pytest.raises((OutsideLaw, WrongShape), match=says):
        codec.decode_order(sought(**changed), SEVENTEEN)


def test_bodies_of_orders_are_exact() -> None:
    codec, payload = registry.codec("hidenseek"), sought()
    body = bytes(payload.body.read(0, payload.body.size))
    assert len(body) == 3 + 3
    for wrong, says in (
        (body[:-1], "5 bytes; 17 weights, 10 of them left, and 3 voters need 6"),
        (body + b"\0", "7 bytes"),
        (body[:2] + bytes([body[2] | 0x80]) + body[3:], "fill up the last byte of the mask"),
        (body[:-1] + bytes([body[-1] | 0x80]), "fill up the last byte are not zero"),
    ):
        with pytest.raises(WrongShape, match=says):
            codec.decode_order(Payload(payload.header, Bytes(wrong)), SEVENTEEN)


# Plans and devices.


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.01}, "keep"),
        ({"prune_steps": 0}, "prune_steps"),
        ({"floor": -0.1}, "floor"),
        ({"prune": "magnitude"}, "prune"),
        ({"between": "median"}, "between"),
        ({"start_size": 0}, "start_size"),
    ],
)
def test_impossible_settings_are_refused(how: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        convert(how, Settings, "plan", "method")


def test_liars_must_be_fewer_than_half() -> None:
    Settings(liars=2).check(5)
    with pytest.raises(ConfigError, match=r"liars = 2 of 4 votes.*at least 5"):
        Settings(liars=2).check(4)
    with pytest.raises(ConfigError, match="65536 votes per round"):
        Settings().check(1 << 16)


def test_a_device_needs_a_torch_task_with_records_and_the_same_model() -> None:
    task = small()
    server, state = begun(Settings(), task)
    order, client = server.open(state, Cohort(1, ())), registry.client_side("hidenseek")
    with pytest.raises(ConfigError, match="SyntheticTask is no TorchTask"):
        client.work(order, None, SyntheticTask(7, 0.5, 3), stream(0))
    with pytest.raises(ConfigError, match="no training records"):
        client.work(order, None, make_task("digits", -1, 5, model="mlp", net=NET), stream(0))
    with pytest.raises(WrongShape, match="this device's model has"):
        client.work(order, None, small(0, hidden=[17], bias=False), stream(0))
    with pytest.raises(WrongShape, match="keeps none"):
        client.load(b"x")


def played(**how: Any) -> engine.Result:
    method = "\n".join(f"{key} = {value!r}" for key, value in how.items())
    plan, settings = parse_plan(
        '[run]\nname = "h"\nrounds = 6\ntask = "t"\nseed = 1\n[cohort]\nsize = 6\nquorum = 6\nover_select = 1.0\n'
        f'[evaluation]\nevery = 6\n[method]\nname = "hidenseek"\n{method}\n',
        registry.method,
    )
    fleet = engine.VirtualFleet(
        "edgehold.attacks.eval.data:make_task",
        {"dataset": "digits", "model": "mlp", "net": {"hidden": [64], "bias": False}, "partition": "iid"},
        6,
    )
    return engine.run(plan, settings, fleet, fleet.own_copy())


def test_a_run_on_the_digits_learns() -> None:
    found = played(keep=0.5, liars=1)
    assert found.rounds[-1]["accuracy"] > 0.85  # chance is 0.1
    assert {"signs_turned", "signs_contested"} <= set(found.rounds[-1])
    model: Array = found.model.whole()
    assert np.count_nonzero(model) == round(0.5 * len(model))
    untrained = played(keep=0.5, local_epochs=0)
    assert untrained.rounds[-1]["accuracy"] < 0.4, "control: without training nothing is learned"


def test_rounds_go_on_without_a_device_whose_signs_break_the_law() -> None:
    """A device with a bit too many is refused, counted absent, and the others' votes count."""

    class Loose:
        def __init__(self, honest: Any) -> None:
            self._honest = honest

        def __getattr__(self, name: str) -> Any:
            return getattr(self._honest, name)

        def work(self, order: Order, local: Any, task: Any, rng: Any) -> Any:
            local, update, facts = self._honest.work(order, local, task, rng)
            return local, Update(Vector.of(np.append(update.bits.whole(), np.uint8(1)))), facts

    plan, settings = parse_plan(
        '[run]\nname = "h"\nrounds = 1\ntask = "t"\n[cohort]\nsize = 3\nquorum = 2\nover_select = 1.0\n'
        '[evaluation]\nevery = 0\n[method]\nname = "hidenseek"\nlocal_epochs = 1\n',
        registry.method,
    )
    tasks = {f"c{i}": small(i) for i in range(3)}
    found = engine.run(plan, settings, tasks, adversaries={"c1": lambda honest, client: Loose(honest)})
    assert found.rejected == {"wrong_shape": 1}
    assert found.rounds[0]["clients_admitted"] == 2


def test_training_is_what_a_plan_and_an_order_share() -> None:
    assert set(Training.__struct_fields__) <= set(Settings.__struct_fields__)
    assert set(Training.__struct_fields__) <= set(HideNseekTask.DESCRIPTOR.fields_by_name)
