"""A folder that was handed over counts only as it was signed: every byte of it, by the right key, for this federation."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support import handed
from tests.support.handed import Parties

from edgehold.client import received
from edgehold.core import handover
from edgehold.core.errors import BadSignature, ConfigError, FlError, IdentityError, ModelRefused, SelfCheckFailed
from edgehold.core.handover import Check, Port
from edgehold.core.manifest import signing_input
from edgehold.core.onnx_run import Graph


@pytest.fixture
def parties() -> Parties:
    return Parties()


def signed(folder: Path, data: bytes, key: Ed25519PrivateKey) -> None:
    """Put other bytes into the manifest, with a good signature."""
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sig").write_bytes(key.sign(signing_input("handover v1", [data])))


def test_what_was_written_is_read(tmp_path: Path, parties: Parties) -> None:
    written = handed.bundle(tmp_path / "model", parties.server)
    read = received.opened(tmp_path / "model", parties.credentials)
    assert read.bundle == written
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "manifest.json", "manifest.sig", "model.onnx", "parity.json"
    ]  # fmt: skip
    # 2 x against 1: 0.6 is above, 0.4 below.
    outputs = read.graph(np.array([[0.6, 9.0], [0.4, 9.0]]))
    assert outputs.tolist() == [[pytest.approx(1.2), 1.0], [pytest.approx(0.8), 1.0]]
    assert received.labelled(read, read.decided(outputs)) == ["low", "high"]
    assert received.self_check(read) == 0.0


def test_a_device_takes_its_own_models_too(tmp_path: Path, parties: Parties) -> None:
    handed.bundle(tmp_path / "own", parties.device, signer=f"device:{handed.DEVICE}")
    assert received.opened(tmp_path / "own", parties.credentials).manifest.signer == "device:device-1"
    handed.bundle(tmp_path / "posing", parties.device)
    with pytest.raises(BadSignature, match="names 'server' as signer, but the signature is that of 'device:device-1'"):
        received.proved(tmp_path / "posing", parties.credentials)


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sig", "model.onnx", "parity.json"])
def test_every_byte_counts(tmp_path: Path, parties: Parties, name: str) -> None:
    handed.bundle(tmp_path / "model", parties.server)
    path = tmp_path / "model" / name
    data = path.read_bytes()
    for at in {0, len(data) // 2, len(data) - 1}:
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises((BadSignature, ModelRefused)):
            received.proved(tmp_path / "model", parties.credentials)
    for other in (data[:-1], data + b"\0"):
        path.write_bytes(other)
        with pytest.raises((BadSignature, ModelRefused)):
            received.proved(tmp_path / "model", parties.credentials)
    path.unlink()
    with pytest.raises(ModelRefused, match=f"{name}: cannot be read"):
        received.proved(tmp_path / "model", parties.credentials)


def test_another_key_and_another_federation(tmp_path: Path, parties: Parties) -> None:
    handed.bundle(tmp_path / "stranger", Ed25519PrivateKey.generate())
    with pytest.raises(BadSignature, match="is not signed by server or device:device-1"):
        received.proved(tmp_path / "stranger", parties.credentials)
    handed.bundle(tmp_path / "other", parties.server, federation="elsewhere")
    with pytest.raises(IdentityError, match="federation 'elsewhere'; this device is of 'lab'"):
        received.proved(tmp_path / "other", parties.credentials)


def test_a_signature_for_something_else_is_none_here(tmp_path: Path, parties: Parties) -> None:
    """What the same key signed under another label, such as a task, must not pass."""
    handed.bundle(tmp_path / "model", parties.server)
    data = (tmp_path / "model" / "manifest.json").read_bytes()
    (tmp_path / "model" / "manifest.sig").write_bytes(parties.server.sign(signing_input("task v1", [data])))
    with pytest.raises(BadSignature):
        received.proved(tmp_path / "model", parties.credentials)


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "a/b.onnx", ".hidden", ""])
def test_a_signed_manifest_reaches_no_other_folder(tmp_path: Path, parties: Parties, name: str) -> None:
    written = handed.bundle(tmp_path / "model", parties.server)
    (tmp_path / "outside.onnx").write_bytes(written.model)
    said = msgspec.json.decode(written.data)
    said["files"][name] = said["files"]["model.onnx"]
    signed(tmp_path / "model", msgspec.json.encode(said), parties.server)
    with pytest.raises(ModelRefused, match="no name of a file handed over"):
        received.proved(tmp_path / "model", parties.credentials)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"version": 2}, "no manifest of version 1"), ({"more": 1}, "unknown field"), ({"round": 0}, "manifest of version"),
        ({"files": {}}, "no model.onnx"), ({"task": "../up"}, "no manifest of version 1"),
        ({"input": {"name": "x", "type": "float32", "shape": [2]}}, "the graph has 'records'"),
        ({"input": {"name": "records", "type": "float32", "shape": [3]}}, r"the graph takes \[2\]"),
        ({"kind": "hypernetwork", "form": "hypernetwork"}, "no model.phi"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit(tmp_path: Path, parties: Parties, change: dict[str, object], what: str) -> None:
    written = handed.bundle(tmp_path / "model", parties.server)
    signed(tmp_path / "model", msgspec.json.encode(msgspec.json.decode(written.data) | change), parties.server)
    with pytest.raises(ModelRefused, match=what):
        received.opened(tmp_path / "model", parties.credentials)


def test_outputs_that_are_not_those_of_the_exporter(tmp_path: Path, parties: Parties) -> None:
    handed.bundle(tmp_path / "model", parties.server, off=0.5)
    model = received.opened(tmp_path / "model", parties.credentials)
    with pytest.raises(SelfCheckFailed, match=r"off by 0.5; at most 0.00"):
        received.self_check(model)


def test_inputs_of_the_check_are_the_same_everywhere() -> None:
    check = Check(7, 2, 0.0, 4.0, ((0.0,),), 1.0)
    drawn = check.inputs(Port("records", "float32", (2,)))
    assert drawn.dtype == np.float32
    assert drawn.tolist() == check.inputs(Port("records", "float32", (2,))).tolist()
    assert set(check.inputs(Port("records", "int64", (50,))).reshape(-1).tolist()) == {0, 1, 2, 3}
    assert handover.differ(check, np.zeros((2, 1))) == float("inf"), "as many rows as the manifest has"
    assert handover.differ(check, np.array([[np.nan]])) == float("inf")
    assert handover.differ(check, np.array([[0.25]])) == 0.25


def test_an_existing_folder_is_never_overwritten(tmp_path: Path, parties: Parties) -> None:
    handed.bundle(tmp_path / "model", parties.server)
    with pytest.raises(ModelRefused, match="exists already"):
        handed.bundle(tmp_path / "model", parties.server, factor=3.0)
    # Half a folder of a killed process is in nobody's way, and nothing of it stays.
    (tmp_path / ".next.part").mkdir()
    (tmp_path / ".next.part" / "junk").write_bytes(b"?")
    handed.bundle(tmp_path / "next", parties.server)
    assert not (tmp_path / "next" / "junk").exists()
    assert not (tmp_path / ".next.part").exists()


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08\x0a"])
def test_bytes_that_are_no_graph(data: bytes) -> None:
    with pytest.raises(ConfigError, match="no network that onnxruntime can run"):
        Graph(data, "test")


def test_records_of_another_shape() -> None:
    graph = Graph(handed.scaled(1.0, inputs=4), "test")
    assert graph(np.ones((3, 2, 2))).shape == (3, 2), "four numbers in any shape"
    assert graph(np.ones((0, 4))).shape == (0, 2)
    with pytest.raises(FlError, match=r"takes records of \[4\], 4 numbers; found \[5\], 5 numbers"):
        graph(np.ones((3, 5)))
