"""Every kind of model as a graph gives what the task itself gives, and a graph that does not is never certified."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgehold.client.data import frozen, kernel, linear, tasks
from edgehold.client.models import make_model
from edgehold.core import handing, onnx_graphs, onnx_parity, table_networks, torch_export
from edgehold.core.anomaly import NEVER, Detector, Reading, schema_of
from edgehold.core.errors import ConfigError, ModelRefused
from edgehold.core.network import Network, decided
from edgehold.core.onnx_run import Graph
from edgehold.core.rng import stream
from edgehold.core.tables import Records, TableTask
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, Schema, Tensor

MODELS: list[tuple[str, tuple[int, ...], int, dict[str, Any]]] = [
    ("logistic", (12,), 3, {}),
    ("mlp", (4, 5), 7, {"hidden": [9]}),
    ("lenet", (1, 12, 12), 4, {}),
    ("small-cnn", (1, 28, 28), 10, {}),
    ("resnet", (3, 16, 16), 5, {}),
    ("conv8", (1, 16, 16), 2, {"bias": False}),
    ("char-gru", (6,), 11, {"hidden": 7}),
    ("bag-of-words", (9,), 2, {"buckets": 40, "embedding": 5}),
]


def task_for(name: str, shape: tuple[int, ...], outputs: int, options: dict[str, Any], count: int = 40) -> TorchTask:
    """Random records; symbols where the model takes those."""
    rng = np.random.default_rng(5)
    words = {"char-gru": outputs, "bag-of-words": options.get("buckets", 0)}.get(name, 0)
    x = rng.integers(0, words, (count, *shape)) if words else rng.random((count, *shape), dtype=np.float32)
    y = rng.integers(0, outputs, (count, *shape) if name == "char-gru" else count)
    last = torch.nn.functional.cross_entropy
    metric = {"accuracy": lambda o, t: float((o.argmax(-1) == t).double().mean())}
    return TorchTask(lambda: make_model(name, shape, outputs, **options), None, (x, y), last, metric)


def certified(network: Network) -> onnx_parity.Parity:
    """The certificate of a network's own graph; every decision must be the same."""
    found = onnx_parity.certify(network, network.onnx)
    assert found.within, found
    assert found.max_abs <= 1e-4 * max(1.0, found.largest)
    assert found.before == pytest.approx(found.after)
    return found


@pytest.mark.parametrize(("name", "shape", "outputs", "options"), MODELS)
def test_models_of_pytorch(name: str, shape: tuple[int, ...], outputs: int, options: dict[str, Any]) -> None:
    task = task_for(name, shape, outputs, options)
    network = handing.network_of(task, task.initial(3))
    found = certified(network)
    assert (found.records, found.same_decision) == (40, 1.0)
    assert set(found.before) == {"accuracy"}
    assert network.classes == tuple(map(str, range(outputs)))
    run = Graph(network.onnx, "test")
    assert run.shape == shape
    assert run(network.records[:1]).shape == run(network.records[:3])[:1].shape, "the number of records is free"
    assert onnx_graphs.facts(network.onnx)[0] >= 18


def test_nothing_of_the_exporting_machine_is_in_a_graph() -> None:
    task = task_for("mlp", (4,), 3, {})
    graph = handing.network_of(task, task.initial(0)).onnx
    assert not re.findall(rb"[^\s\"']*\.py\b|/home|/tmp|site-packages", graph)
    assert str(Path(__file__).parents[2]).encode() not in graph


def test_weights_are_those_that_were_asked_for() -> None:
    """Not those that the task happened to hold, and not those of a model it trains on afterwards."""
    task = task_for("logistic", (2,), 2, {"bias": False})
    weights = np.array([1, 0, 0, 1], np.float32)
    network = handing.network_of(task, weights)
    task.load(np.zeros(4, np.float32))
    x = np.array([[3.0, -2.0]], np.float32)
    assert Graph(network.onnx, "test")(x).tolist() == network.reference(x).tolist() == [[3.0, -2.0]]


def test_a_network_that_cannot_be_exported_says_so() -> None:
    class Branches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.layer(x)
            return found if bool(found.sum() > 0) else -found

    data = (np.ones((4, 2), np.float32), np.zeros(4, np.int64))
    task = TorchTask(Branches, None, data, torch.nn.functional.cross_entropy)
    with pytest.raises(ConfigError, match="PyTorch cannot export this network"):
        handing.network_of(task, task.initial(0))


def test_a_task_that_cannot_say_what_its_model_is() -> None:
    task = TableTask(Schema((Tensor("w", (2,)),)), None, None, lambda seed: np.zeros(2, np.float32), lambda w, r: {})
    with pytest.raises(ConfigError, match="give `TableTask` a `network`"):
        handing.network_of(task, np.zeros(2, np.float32))


@pytest.mark.parametrize("curve", ["log", "none"])
@pytest.mark.parametrize("clip", [0.0, 3.0])
def test_detectors(curve: str, clip: float) -> None:
    rng = stream(1, "test", curve)
    schema, d, k = schema_of(5, 2), 5, 2
    parts = {
        "mean": rng.normal(size=d), "width": rng.uniform(0.5, 2, d), "subspace": rng.normal(size=(d, k)),
        "threshold": np.array([4.0]), "reading": Reading(curve, clip, 0).values(),
    }  # fmt: skip
    # Columns as they come: bytes and packets, zeros, negative ones, beyond what float32 holds exactly.
    x = np.concatenate([rng.normal(0, 1e7, (50, d)), rng.normal(size=(50, d)), np.zeros((1, d)), [[123456789.0] * d]])
    test = Records(x, np.arange(len(x)) % 2)
    flat = schema.flatten({name: values.astype(np.float32) for name, values in parts.items()})
    network = table_networks.detector(schema, test, tuple("abcde"), flat)
    found = certified(network)
    assert found.max_abs <= 1e-9 * max(1.0, found.largest), "float64 throughout"
    assert network.threshold == 4.0
    scores = Detector.of(schema, flat).scores(x)
    decision = decided(Graph(network.onnx, "test")(x), (), 4.0)
    assert decision is not None
    assert decision.tolist() == (scores > 4.0).tolist()
    assert set(decision.tolist()) == {True, False}
    parts["threshold"] = np.array([NEVER])
    with pytest.raises(ConfigError, match="no threshold yet"):
        table_networks.detector(schema, test, (), schema.flatten({n: v.astype(np.float32) for n, v in parts.items()}))


def test_linear_models_and_their_columns() -> None:
    rng, weights = np.random.default_rng(2), np.array([1, -1, 0.5, -0.2], np.float32)
    x = np.hstack([rng.random((30, 3), np.float32), np.ones((30, 1), np.float32)])
    test = Records(x, rng.integers(0, 2, 30), ("a", "b", "c", "intercept"), ("no", "yes"))
    network = table_networks.linear(test, weights)
    assert certified(network).before["accuracy"] == linear.accuracy(weights, test)["accuracy"]
    assert network.columns == ("a", "b", "c", "intercept")
    number = table_networks.linear(replace(test, y=rng.random(30, np.float32), classes=()), weights)
    assert certified(number).same_decision is None
    assert set(certified(number).before) == {"loss"}


def head_weights(task: TableTask) -> Array:
    return stream(3, "test", "head").standard_normal(task.schema.size, dtype=np.float32)


def test_a_head_behind_random_features() -> None:
    task = frozen.make_task("digits", width=40)
    weights = head_weights(task)
    network = handing.network_of(task, weights)
    found = certified(network)
    assert found.records > 300
    assert network.records.shape[1:] == (64,), "the device gives records, not features"
    assert found.before == pytest.approx(task.evaluate(weights))


def test_a_head_behind_a_backbone_of_onnx(tmp_path: Path) -> None:
    module = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 8, 8)), torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Linear(6, 2)
    )
    digest = torch_export.export_backbone(module, (64,), tmp_path / "backbone.onnx")
    task = frozen.make_task("digits", backbone=str(tmp_path / "backbone.onnx"), sha256=digest)
    weights = head_weights(task)
    network = handing.network_of(task, weights)
    assert certified(network).before == pytest.approx(task.evaluate(weights))
    assert Graph(network.onnx, "test").input == "records"


@pytest.mark.parametrize("kind", ["fourier", "nystrom"])
@pytest.mark.parametrize("positive", [(), ("3", "5")])
def test_heads_over_public_features(tmp_path: Path, kind: str, positive: tuple[str, ...]) -> None:
    more: dict[str, Any] = {}
    if kind == "nystrom":
        np.save(tmp_path / "marks.npy", np.random.default_rng(0).random((32, 64)))
        more["landmarks"] = str(tmp_path / "marks.npy")
    task = kernel.make_task("digits", features=kind, count=32, gamma=0.05, positive=positive, **more)
    weights = head_weights(task)
    network = handing.network_of(task, weights)
    found = certified(network)
    assert found.max_abs < 1e-9, "float64 throughout"
    assert found.before["accuracy"] == pytest.approx(task.evaluate(weights)["accuracy"])
    assert network.classes == (("rest", "3+5") if positive else tuple(map(str, range(10))))


def test_a_graph_that_gives_something_else_is_never_certified() -> None:
    task = task_for("mlp", (4,), 3, {})
    network = handing.network_of(task, task.initial(0))
    other = handing.network_of(task, task.initial(0) + np.float32(2e-4))
    with pytest.raises(ModelRefused, match="not handed over"):
        onnx_parity.certify(network, other.onnx)
    with pytest.raises(ModelRefused, match="gives"):
        onnx_parity.certify(
            network, handing.network_of(task_for("mlp", (4,), 2, {}), task_for("mlp", (4,), 2, {}).initial(0)).onnx
        )


def test_a_certificate_says_what_it_stands_on() -> None:
    task = task_for("mlp", (4,), 3, {})
    network = handing.network_of(task, task.initial(0))
    found = onnx_parity.certify(network, network.onnx, records=10)
    assert (found.records, found.drawn, found.judged) == (10, 0, 40)
    bare = onnx_parity.certify(replace(network, records=network.records[:0], judge=None), network.onnx)
    assert (bare.records, bare.drawn, bare.judged, bare.before) == (0, onnx_parity.RECORDS, 0, {})
    assert found.reference.startswith("torch ")
    # By hand: outputs (0, 2) against (0.5, 2): off by 0.5 at most, a quarter on average.
    spoilt = replace(network, reference=lambda records: network.reference(records) + np.float32(0.5), judge=None)
    with pytest.raises(ModelRefused, match="off by 0.5"):
        onnx_parity.certify(spoilt, network.onnx)


def test_decisions_by_hand() -> None:
    one = np.array([[0.5], [-0.5], [0.0]])
    assert decided(one, ("no", "yes"), None).tolist() == [1, 0, 0]  # type: ignore[union-attr]
    assert decided(one, (), 0.4).tolist() == [True, False, False]  # type: ignore[union-attr]
    assert decided(np.array([[1.0, 3.0, 2.0]]), ("a", "b", "c"), None).tolist() == [1]  # type: ignore[union-attr]
    assert decided(np.array([[[1.0, 3.0], [4.0, 0.0]]]), ("a", "b"), None).tolist() == [[1, 0]]  # type: ignore[union-attr]
    assert decided(one, (), None) is None


def test_data_sets_hand_their_class_names_over() -> None:
    task = tasks.make_task("digits", device_index=-1, model="logistic")
    assert handing.network_of(task, task.initial(0)).classes == tuple(map(str, range(10)))
