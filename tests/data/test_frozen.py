"""Frozen features: random ones, a network from PyTorch as ONNX, who has which records, and files that do not fit."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgehold.client.data import frozen
from edgehold.client.data.onnx_features import Backbone
from edgehold.core.errors import ConfigError
from edgehold.core.tables import Records
from edgehold.core.torch_export import export_backbone


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(144, 12), nn.ReLU(), nn.Linear(12, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, nn.Sequential]:
    path, module = tmp_path_factory.mktemp("onnx") / "backbone.onnx", network()
    return path, export_backbone(module, (64,), path), module


def train(task: Any) -> Records:
    assert isinstance(task.train_data, Records)
    return task.train_data


def test_onnxruntime_agrees_with_torch(exported: tuple[Path, str, nn.Sequential]) -> None:
    path, digest, module = exported
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    task = frozen.make_task(device_index=2, devices=5, backbone=str(path), sha256=digest)
    split = frozen.split_of("digits")
    plain = frozen.make_task(device_index=2, devices=5, width=64)
    assert np.array_equal(train(task).y, train(plain).y), "the backbone does not decide who has what"
    whole = module.eval()[:-1](torch.from_numpy(split.test.x)).detach().numpy()
    assert task.test_data is not None
    assert task.test_data.x.shape == (360, 12)
    assert np.allclose(task.test_data.x, whole, atol=1e-5)
    assert task.schema.tensors[0].shape == (12, 10)
    # More records than run at once, one record, and none.
    features = Backbone.open(path)
    many = np.tile(split.test.x, (2, 1))
    assert np.allclose(features(many)[[0, 359, 719]], whole[[0, 359, 359]], atol=1e-5)
    assert features(many[:1]).shape == (1, 12)
    assert network().train()[5].training, "the module that was exported is not touched"
    named, inner = path.with_name("named.onnx"), nn.Sequential(network())
    assert export_backbone(inner, (64,), named, head="0.8")
    assert np.allclose(Backbone.open(named)(many[:2]), whole[:2], atol=1e-5)


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no part 'fc'; its parts: 0, 1"):
        export_backbone(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), (4,), tmp_path / "x", head="fc")
    with pytest.raises(ConfigError, match=r"does not run: mat1 and mat2 .*; leave out its last part"):
        export_backbone(network(), (64,), tmp_path / "x", head="6")
    with pytest.raises(ConfigError, match="no linear layer"):
        export_backbone(nn.ReLU(), (4,), tmp_path / "x")

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mixed: torch.Tensor = self.head(x - x.mean(0))
            return mixed

    with pytest.raises(ConfigError, match="not the same for one of them alone"):
        export_backbone(Mixing(), (4,), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_fit_are_named(exported: tuple[Path, str, nn.Sequential], tmp_path: Path) -> None:
    path, digest, _ = exported
    with pytest.raises(ConfigError, match=f"content is sha256:{digest}, expected sha256:00"):
        frozen.make_task(backbone=str(path), sha256="00" * 32)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        frozen.make_task(backbone=str(tmp_path / "gone.onnx"))
    (tmp_path / "bad.onnx").write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigError, match="bad.onnx: no network that onnxruntime can run"):
        frozen.make_task(backbone=str(tmp_path / "bad.onnx"))
    with pytest.raises(ConfigError, match="there is no backbone"):
        frozen.make_task(sha256=digest)
    narrow = tmp_path / "narrow.onnx"
    export_backbone(nn.Sequential(nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 2)), (7,), narrow)
    with pytest.raises(ConfigError, match=r"takes records of \[7\], 7 numbers; this data set's have \[64\], 64"):
        frozen.make_task(backbone=str(narrow))


def test_networks_of_other_shapes_are_refused(tmp_path: Path) -> None:
    onnx: Any = pytest.importorskip("onnx")
    helper = onnx.helper

    def made(inputs: list[tuple[str, int, list[Any]]], outputs: list[str], nodes: list[Any]) -> str:
        def told(name: str, kind: int, shape: list[Any] | None) -> Any:
            return helper.make_tensor_value_info(name, kind, shape)

        graph = helper.make_graph(nodes, "g", [told(*one) for one in inputs], [told(one, 1, None) for one in outputs])
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return str(path)

    add = helper.make_node("Add", ["a", "b"], ["y"])
    relu = helper.make_node("Relu", ["a"], ["y"])
    cast = helper.make_node("Cast", ["a"], ["y"], to=1)
    total = helper.make_node("ReduceSum", ["a"], ["y"], keepdims=0)
    for inputs, nodes, says in (
        ([("a", 1, ["n", 64]), ("b", 1, ["n", 64])], [add], r"takes \['a', 'b'\] and gives \['y'\]"),
        ([("a", 1, [3, 64])], [relu], r"has shape \[3, 64\]; only the first axis"),
        ([("a", 1, ["n", "m"])], [relu], "only the first axis"),
        ([("a", 11, ["n", 64])], [cast], r"is a tensor\(double\)"),
        ([("a", 1, ["n", 64])], [total], "float32 features of each are expected"),
    ):
        with pytest.raises(ConfigError, match=says):
            frozen.make_task(backbone=made(inputs, ["y"], nodes))


def test_random_features_are_public_and_trained_on_nothing() -> None:
    features = frozen.RandomFeatures(64, 256, 5)
    records = np.random.default_rng(0).random((400, 64)).astype(np.float32)
    found = features(records)
    assert found.shape == (400, 256)
    assert found.tobytes() == frozen.RandomFeatures(64, 256, 5)(records.reshape(400, 8, 8)).tobytes()
    assert found.tobytes() != frozen.RandomFeatures(64, 256, 6)(records).tobytes()
    assert found.min() == 0
    # Half of x A is negative: 256 columns, each by a fair coin for one record; within 5 x sqrt(1 / (4 x 256)).
    assert abs((found[0] == 0).mean() - 0.5) < 5 * 0.5 / 16
    with pytest.raises(ConfigError, match="width = 0"):
        frozen.RandomFeatures(64, 0, 5)


def test_devices_share_classes_and_no_record() -> None:
    seen: set[bytes] = set()
    for index in range(6):
        task = frozen.make_task(device_index=index, devices=6, per_class=3, held_per_class=2, width=32)
        assert task.held_data is not None
        for part, each in ((train(task), 3), (task.held_data, 2)):
            kinds, counts = np.unique(part.y, return_counts=True)
            assert kinds.tolist() == sorted((index + step) % 10 for step in range(4))
            assert set(counts.tolist()) == {each}
            rows = {row.tobytes() for row in part.x}
            assert not rows & seen
            seen |= rows
    server = frozen.make_task(devices=6, width=32)
    assert (server.train_data, server.held_data, server.samples) == (None, None, 0)
    assert server.evaluate(server.initial(1)) == {"accuracy": pytest.approx(float((server.test_data.y == 0).mean()))}  # type: ignore[union-attr]
    assert not server.initial(1).any()
    assert np.unique(train(frozen.make_task(device_index=0, devices=2, classes_per_device=0)).y).tolist() == list(range(10))


def test_impossible_deals_are_named() -> None:
    with pytest.raises(ConfigError, match=r"class 0 has \d+ records; 4 devices need 160 of them"):
        frozen.make_task(device_index=0, devices=10, per_class=30)
    with pytest.raises(ConfigError, match="device_index = 3; allowed: 0 to 2"):
        frozen.make_task(device_index=3, devices=3)
    with pytest.raises(ConfigError, match="classes_per_device = 11; allowed: 1 to 10"):
        frozen.make_task(device_index=0, devices=3, classes_per_device=11)
    with pytest.raises(ConfigError, match="per_class = 0"):
        frozen.make_task(device_index=0, devices=3, per_class=0)
