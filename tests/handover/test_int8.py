"""Eight bits: how much smaller, what it costs, and that the certificate judges on records that calibrated nothing."""

from dataclasses import replace

import numpy as np
import pytest

from edgehold.client.data import tasks
from edgehold.core import handing, onnx_graphs, onnx_int8, onnx_parity
from edgehold.core.errors import ConfigError
from edgehold.core.network import Network
from edgehold.core.onnx_run import Graph
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining
from edgehold.core.vectors import Array


@pytest.fixture(scope="module")
def network() -> Network:
    """A network of two layers that knows its digits."""
    task = tasks.make_task("digits", device_index=0, net={"hidden": [256]})
    how = LocalTraining(epochs=12, learning_rate=0.1, momentum=0.9)
    return handing.network_of(task, task.train(task.initial(0), how, stream(0, "test")))


def test_a_quarter_of_the_size_and_as_good(network: Network) -> None:
    graph = onnx_int8.quantised(network.onnx, network.records[-64:])
    found = onnx_parity.certify(network, graph, calibrated=64)
    assert found.size_ratio == round(len(graph) / len(network.onnx), 4) <= 0.30
    assert found.before["accuracy"] > 0.9
    assert abs(found.before["accuracy"] - found.after["accuracy"]) <= 0.01
    assert (found.calibrated, found.judged, found.records) == (64, len(network.records) - 64, len(network.records) - 64)
    assert found.max_abs > 0, "no float32 graph under another name"
    again = onnx_int8.quantised(network.onnx, network.records[-64:])
    assert again == graph, "the same bytes each time"


def test_short_names_change_nothing_but_the_size() -> None:
    """Input, output, and what each operator reads stay as they are; a name that is short already is nobody else's."""
    import onnx
    from onnx import helper

    build = onnx_graphs.Builder()
    one = build.node("Abs", onnx_graphs.INPUT)
    two = build.node("Add", one, build.constant("0", np.array([1, 2], np.float32)))
    build.node("Sub", two, one)
    graph = build.finish(np.float32, (2,), np.float32, (2,))
    model = onnx.load_from_string(graph)
    onnx_graphs.shortened(model)
    x = np.array([[-3.0, 4.0]], np.float32)
    assert Graph(model.SerializeToString(), "t")(x).tolist() == [[1.0, 2.0]] == Graph(graph, "t")(x).tolist()
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    assert names == {"records", "scores", "0", "1", "2"}
    assert len(model.SerializeToString()) < len(graph)
    loop = onnx.load_from_string(graph)
    loop.graph.node[0].attribute.append(helper.make_attribute("body", loop.graph))
    before = loop.SerializeToString(deterministic=True)
    onnx_graphs.shortened(loop)
    assert loop.SerializeToString(deterministic=True) == before


def test_records_that_calibrate_are_not_judged(network: Network) -> None:
    """Or a graph would be judged on what it was made for."""
    seen: list[int] = []

    def judge(outputs: Array) -> dict[str, float]:
        seen.append(len(outputs))
        return {}

    onnx_parity.certify(replace(network, judge=judge), network.onnx, calibrated=100)
    assert seen == [len(network.records) - 100] * 2


def test_without_real_records_nothing_is_calibrated(network: Network) -> None:
    with pytest.raises(ConfigError, match="needs real records"):
        onnx_int8.quantised(network.onnx, network.records[:0])


def test_a_graph_of_which_nothing_can_be_quantised() -> None:
    build = onnx_graphs.Builder()
    build.node("Abs")
    graph = build.finish(np.float32, (2,), np.float32, (2,))
    with pytest.raises(ConfigError, match="could be quantised|cannot quantise"):
        onnx_int8.quantised(graph, np.ones((4, 2), np.float32))


def test_the_check_of_int8_is_looser_than_that_of_float32(network: Network) -> None:
    run = Graph(network.onnx, "test")
    tight, loose = (onnx_parity.check(network, run, loose=one)[0].tolerance for one in (False, True))
    assert loose == pytest.approx(100 * tight)
