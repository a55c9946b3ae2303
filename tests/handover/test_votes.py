"""A network as a seed and one bit per weight: the device draws the same weights, bit for bit, and damaged files say so."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.support import handed
from tests.support.handed import Parties

from edgehold.client import received
from edgehold.client.data import tasks
from edgehold.core import handing, handover, onnx_graphs, vote_file, vote_guess
from edgehold.core.errors import ConfigError, ModelRefused
from edgehold.core.onnx_run import Graph
from edgehold.core.onnx_splice import spliced, without
from edgehold.core.plan import parse_plan
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import FloatArray, MemorySpace
from edgehold.defenses import registry
from edgehold.server import engine

NET = {"hidden": [24], "bias": False}
PLAN = """
[run]
name = "votes"
rounds = 1
task = "digits"
seed = 11
[cohort]
size = 2
quorum = 2
[method]
name = "{name}"
local_epochs = 1
{more}
"""
KINDS = [
    ("frl", ""), ("frl", "keep = 0.3"), ("frl", "signed = true"), ("hidenseek", ""), ("hidenseek", 'values = "mask"'),
    ("hidenseek", "keep = 0.2"),
]  # fmt: skip


class Trained:
    """One round with two devices: state, dense weights, graph."""

    def __init__(self, name: str, more: str) -> None:
        plan, settings = parse_plan(PLAN.format(name=name, more=more), registry.method)
        self.task: TorchTask = tasks.make_task("digits", device_index=-1, devices=2, net=NET)
        devices = {f"dev-{at}": tasks.make_task("digits", device_index=at, devices=2, net=NET) for at in range(2)}
        store = engine.Store()
        engine.run(plan, settings, devices, self.task, store=store)
        kept = store.kept()
        assert kept is not None
        side = registry.server_side(name, settings, self.task.schema, 11)
        state = side.unpack(kept.packed)
        self.name, self.method = name, registry.vote(name)
        self.weights: FloatArray = np.array(side.weights(state, MemorySpace()).whole())
        self.left = self.method.left(state, settings, self.task.schema)
        self.network = handing.network_of(self.task, self.weights)
        bare = onnx_graphs.skeleton(self.network.onnx, {one.name: one.shape for one in self.task.schema.tensors})
        assert bare is not None
        self.bare = bare

    def vote(self, seed: int = 11, weights: FloatArray | None = None) -> vote_file.Vote:
        values = self.weights if weights is None else weights
        return vote_file.of(self.name, seed, self.task.schema, self.left, values, self.bare, self.method.draw)


@pytest.fixture(scope="module")
def trained() -> Any:
    made: dict[tuple[str, str], Trained] = {}

    def get(name: str, more: str = "") -> Trained:
        if (name, more) not in made:
            made[name, more] = Trained(name, more)
        return made[name, more]

    return get


@pytest.mark.parametrize(("name", "more"), KINDS)
def test_the_device_draws_the_same_weights(trained: Any, name: str, more: str) -> None:
    found = trained(name, more)
    data = vote_file.encode(found.vote(), found.method.draw)
    vote = vote_file.decode(data, lambda method: found.method.draw)
    assert vote.weights(found.method.draw).tobytes() == found.weights.astype("<f4").tobytes()
    assert 0 < vote.used.mean() < 1
    x = found.network.records
    assert np.array_equal(Graph(vote.onnx(found.method.draw), "t")(x), Graph(found.network.onnx, "t")(x))
    assert (vote.turned is not None) == (name == "hidenseek" and "mask" not in more)
    assert len(data) <= found.task.schema.size / 8 + 4096


def test_weights_that_no_seed_draws_are_refused(trained: Any) -> None:
    found = trained("frl")
    with pytest.raises(ModelRefused, match="are not those that seed 12 draws for frl"):
        found.vote(seed=12, weights=np.where(np.arange(len(found.weights)) < 9, found.weights * 2, found.weights))
    moved = found.weights.copy()
    moved[np.flatnonzero(moved)[0]] *= np.float32(1.0000001)
    with pytest.raises(ModelRefused, match="hand the model over as onnx"):
        found.vote(weights=moved)


def test_only_votes_are_handed_over_as_votes() -> None:
    for name in registry.names():
        if name in registry.VOTED:
            assert registry.vote(name).draw
        else:
            with pytest.raises(ConfigError, match=f"method '{name}' trains weights"):
                registry.vote(name)


def test_damaged_files(trained: Any) -> None:
    found = trained("frl")
    data = vote_file.encode(found.vote(), found.method.draw)
    head = 12 + int.from_bytes(data[8:12], "little")
    header = msgspec.json.decode(data[12:head])

    def changed(**more: Any) -> bytes:
        text = msgspec.json.encode(header | more)
        return data[:8] + len(text).to_bytes(4, "little") + text + data[head:]

    layer = [header["layers"][0][0], [1 << 20, 1 << 20], 1]
    for wrong, what in [
        (b"", "no vote file"), (b"EDGEVOTX" + data[8:], "no vote file"), (data[:20], "no vote file"),
        (data[:-1], "need"), (data + b"\0", "its header describes"), (changed(turns=True), "need"),
        (changed(layers=[layer]), "allowed: 1 to"), (changed(layers=[]), "0 weights"), (changed(more=1), "does not parse"),
        (changed(graph_bytes=3), "cut short"), (data[:head] + b"\xff" + data[head + 1 :], "its graph is damaged"),
    ]:  # fmt: skip
        with pytest.raises(ModelRefused, match=what):
            vote_file.decode(wrong, lambda method: found.method.draw)


def ones(seed: int, number: int, layer: vote_file.Layer) -> FloatArray:
    """Draws that say nothing about what is used."""
    return np.ones(layer.edges, np.float32)


def drawn_as(draw: vote_file.Draw) -> Callable[[str], vote_file.Draw]:
    return lambda method: draw


def test_what_is_used_is_guessed_by_size_and_errors_are_told() -> None:
    """Two outputs of 4,000 inputs, pruned at 1 and at 2, three places the other way: 8 bytes of thresholds and a few more."""
    rng, layer = np.random.default_rng(0), vote_file.Layer("w", (2, 4000), 4000)
    drawn = rng.standard_normal((2, 4000)).astype(np.float32)
    used = np.abs(drawn) >= np.array([[1.0], [2.0]])
    for place in ((0, 7), (1, 5), (1, 3999)):
        used[place] = ~used[place]

    def draw(seed: int, number: int, layer: vote_file.Layer) -> FloatArray:
        return drawn.reshape(-1)

    vote = vote_file.Vote(vote_file.Header("any", 0, (layer,), False, 1), b"", used.reshape(-1), None)
    data = vote_file.encode(vote, draw)
    head = 12 + int.from_bytes(data[8:12], "little")
    header = msgspec.json.decode(data[12:head], type=vote_file.Header)
    assert len(data) - head - header.graph_bytes == 8 + header.errors_bytes
    assert header.errors_bytes < 40
    assert np.array_equal(vote_file.decode(data, drawn_as(draw)).used, vote.used)
    levels = vote_guess.thresholds([drawn], vote.used)
    assert np.flatnonzero(vote_guess.guessed([drawn], levels) != vote.used).tolist() == [7, 4005, 7999]
    for wrong, what in ((data[:-1], "need"), (data + b"x", "describes"), (data[:-9] + bytes(9), "damaged|cut short")):
        with pytest.raises(ModelRefused, match=what):
            vote_file.decode(wrong, drawn_as(draw))
    more = msgspec.json.encode(msgspec.structs.replace(header, layers=(vote_file.Layer("w", (2, 4), 8),)))
    with pytest.raises(ModelRefused, match="inflates to more than 1"):
        vote_file.decode(data[:8] + len(more).to_bytes(4, "little") + more + data[head:], drawn_as(ones))


def test_a_vote_on_signs_takes_less_than_a_bit_per_weight() -> None:
    """Pruned as SynFlow does, by the size of a weight times what row and column carry; half of the signs turned."""
    rng, draw = np.random.default_rng(1), registry.vote("hidenseek").draw
    outputs, inputs = 300, 1000
    layer = vote_file.Layer("w", (outputs, inputs), outputs * inputs // 2)
    drawn = draw(7, 0, layer).reshape(outputs, inputs)
    scores = np.abs(drawn) * rng.uniform(0.5, 2.0, (outputs, 1)) * rng.uniform(0.9, 1.1, inputs)
    used = (scores > np.median(scores)).reshape(-1)
    turned = rng.random(int(used.sum())) < 0.5
    header = vote_file.Header("hidenseek", 7, (layer,), True, 1)
    data = vote_file.encode(vote_file.Vote(header, b"", used, turned), draw)
    assert len(data) <= outputs * inputs / 8
    found = vote_file.decode(data, drawn_as(draw))
    assert np.array_equal(found.used, used)
    assert found.turned is not None
    assert np.array_equal(found.turned, turned)


def test_a_row_of_which_nothing_is_used_has_no_threshold() -> None:
    drawn = np.array([[3.0, -1.0, 2.0], [5.0, 6.0, -7.0]], np.float32)
    levels = vote_guess.thresholds([drawn], np.array([True, False, True, False, False, False]))
    assert levels.tolist() == [2.0, np.inf]
    assert vote_guess.guessed([drawn], levels).tolist() == [True, False, True, False, False, False]


def test_fill_bits_must_be_zero() -> None:
    """Three weights leave five bits of the last byte."""
    layer = vote_file.Layer("w", (1, 3), 3)
    header = vote_file.Header("frl", 1, (layer,), False, 1)
    data = vote_file.encode(vote_file.Vote(header, b"graph", np.array([True, False, True]), None), ones)
    assert data[-1] == 0b101
    assert vote_file.decode(data, drawn_as(ones)).used.tolist() == [True, False, True]
    with pytest.raises(ModelRefused, match="fill up the last byte"):
        vote_file.decode(data[:-1] + bytes([0b1101]), drawn_as(ones))


def test_a_graph_that_inflates_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    header = vote_file.Header("frl", 1, (vote_file.Layer("w", (1, 8), 8),), False, 1)
    data = vote_file.encode(vote_file.Vote(header, bytes(100_000), np.ones(8, bool), None), ones)
    assert len(data) < 1000
    monkeypatch.setattr(vote_file, "GRAPH_LIMIT", 99_999)
    with pytest.raises(ModelRefused, match="inflates to more than 99999"):
        vote_file.decode(data, drawn_as(ones))


def test_turned_signs_by_hand() -> None:
    """Four weights drawn as 1, -2, 3, -4; the second is off, the third turned."""
    layer = vote_file.Layer("w", (2, 2), 4)
    header = vote_file.Header("any", 0, (layer,), True, 1)
    vote = vote_file.Vote(header, b"", np.array([True, False, True, True]), np.array([False, True, False]))
    drawn = np.array([1, -2, 3, -4], np.float32)
    assert vote.weights(lambda seed, number, layer: drawn).tolist() == [1, 0, -3, -4]


def test_weights_are_spliced_where_the_graph_misses_them() -> None:
    """Against what the `onnx` package makes of the same bytes, with names and sizes that take more than one byte each."""
    import onnx
    from onnx import numpy_helper

    graph, name = handed.scaled(3.0, inputs=300), "m" * 200
    values = np.arange(600, dtype=np.float32).reshape(300, 2)
    model = onnx.load_from_string(spliced(graph, [(name, (300, 2), values)]))
    found = {one.name: one for one in model.graph.initializer}
    assert set(found) == {"matrix", "offset", name}
    assert np.array_equal(numpy_helper.to_array(found[name]), values)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]


def test_a_weight_is_taken_out_and_another_put_in() -> None:
    """Against what the `onnx` package reads; a graph cut anywhere, or with no such weight, is refused."""
    import onnx
    from onnx import numpy_helper

    graph = handed.scaled(3.0)
    bare = without(graph, "matrix")
    assert [one.name for one in onnx.load_from_string(bare).graph.initializer] == ["offset"]
    values = np.array([[7, 0], [0, 0]], np.float32)
    again = onnx.load_from_string(spliced(bare, [("matrix", (2, 2), values)]))
    assert {one.name: numpy_helper.to_array(one).tolist() for one in again.graph.initializer}["matrix"] == values.tolist()
    assert Graph(again.SerializeToString(), "t")(np.ones((1, 2))).tolist() == [[7.0, 1.0]]
    for name in ("nothing", "matri", ""):
        with pytest.raises(ModelRefused, match="0 weights called"):
            without(graph, name)
    with pytest.raises(ModelRefused, match="2 weights called"):
        without(_twice(graph), "matrix")
    for end in range(1, len(graph)):
        try:
            without(graph[:end], "matrix")
        except ModelRefused:
            continue
        # What is whole up to here is a message of its own, such as one without the last fields.
        onnx.ModelProto.FromString(graph[:end])


def _twice(graph: bytes) -> bytes:
    """The graph with all its weights in it a second time."""
    import onnx

    model = onnx.load_from_string(graph)
    model.graph.initializer.extend(list(model.graph.initializer))
    return bytes(model.SerializeToString())


def test_a_device_expands_a_vote(trained: Any, tmp_path: Any) -> None:
    found, parties = trained("frl"), Parties()
    manifest = handed.described(handed.plain(method="frl", classes=found.network.classes), found.network.onnx)
    manifest = msgspec.structs.replace(manifest, form="vote")
    files = {"model.vote": vote_file.encode(found.vote(), found.method.draw), "parity.json": b"{}"}
    handover.write(tmp_path / "model", manifest, files, parties.server)
    model = received.opened(tmp_path / "model", parties.credentials)
    assert received.self_check(model) == 0.0
    assert np.array_equal(model.graph(found.network.records), Graph(found.network.onnx, "t")(found.network.records))
    handover.write(tmp_path / "other", msgspec.structs.replace(manifest, method="hidenseek"), files, parties.server)
    with pytest.raises(ModelRefused, match="the vote is one of 'frl'; its manifest says 'hidenseek'"):
        received.opened(tmp_path / "other", parties.credentials)
