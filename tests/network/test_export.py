"""From a run over mutual TLS to a device that only runs the model: exported, checked, deployed, and the same as PyTorch."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests.support import small_device, three_devices
from tests.support.normal_records import COLUMNS
from tests.support.normal_records import options as flow_options
from tests.support.three_devices import DEVICES, ENTRY

from edgehold.attacks.testbed import Federation
from edgehold.client import identity, received
from edgehold.client.data import frozen, tasks
from edgehold.client.data.anomaly import make_task as flows
from edgehold.client.keep import Keep
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array
from edgehold.defenses import registry
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2
from edgehold.server.app import main

FLOWS = "edgehold.client.data.anomaly:make_task"
NET = {"hidden": [24], "bias": False}
PRIVATE = """name = "dp_ef_sgd"
clip = 0.1
ceiling = 0.3
noise_multiplier = 3.0
bins = 3
batch_size = 30
learning_rate = 4.0
delta = 1e-6"""
FLOW_PLAN = """
[run]
name = "flows"
rounds = 6
task = "flows"
seed = 11
[cohort]
size = 3
quorum = 3
over_select = 1.0
[evaluation]
every = 6
[method]
name = "fedpca"
subspace_rounds = 3
"""


HEADS = "edgehold.client.data.frozen:make_task"
HEAD_PLAN = three_devices.plan("heads", 'name = "bristle"').replace('task = "digits"', 'task = "heads"')


def head_options(folder: Path, index: int) -> dict[str, Any]:
    """Three classes round three corners, as a file: such a device has no scikit-learn either."""
    path = folder / "corners.csv"
    if not path.exists():
        rng = np.random.default_rng(3)
        rows = [(*(rng.normal(0, 0.4, 4) + np.eye(4)[kind]), f"c{kind}") for kind in range(3) for _ in range(120)]
        path.write_text("a,b,c,d,kind\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    data = {"label": "kind", "classes": ["c0", "c1", "c2"], "numbers": list("abcd"), "test_share": 0.3}
    own = {"device_index": index, "devices": DEVICES, "classes_per_device": 0, "width": 12}
    return {"dataset": "table", "path": str(path), "data": data, **own}


def options(index: int, **more: Any) -> dict[str, Any]:
    return three_devices.options(index, net=NET, **more)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Three devices and finished runs: dense, a vote, a private one, a hypernetwork; one of FedPCA and one of Bristle."""
    folder = tmp_path_factory.mktemp("export")
    own = {**dict.fromkeys(("digits", "patients"), (ENTRY, options(-1))), "flows": (FLOWS, flow_options(folder, -1))}
    own["heads"] = (HEADS, head_options(folder, -1))
    budgets = {"budgets.digits": {"max_epsilon": 1000.0, "delta": 1e-5}}
    with Federation(folder / "bed", tasks=own, server=budgets) as found:
        found.start_server()
        for index in range(DEVICES):
            mine = {
                **dict.fromkeys(("digits", "patients"), (ENTRY, options(index))),
                "flows": (FLOWS, flow_options(folder, index)),
            }
            mine["heads"] = (HEADS, head_options(folder, index))
            found.add_client(f"dev-{index}", mine, budgets={"patients": (1000.0, 1e-5)})
            found.start_client(f"dev-{index}")
        found.wait_connected(DEVICES)
        for name, method in {
            "dense": 'name = "fedavg"', "vote": 'name = "frl"\nlocal_epochs = 1', "private": PRIVATE,
            "central": 'name = "dp_fedavg"\nnoise_multiplier = 5.0\nquantile = 0.0\ndelta = 1e-6',
            "own": 'name = "hyperfl"\nembedding = 6\nhidden = 20\nlocal_epochs = 1',
        }.items():  # fmt: skip
            text = three_devices.plan(name, method)
            info = found.run(text.replace('task = "digits"', 'task = "patients"') if name == "private" else text)
            assert info.state == "finished", info
        for text in (FLOW_PLAN, HEAD_PLAN):
            info = found.run(text)
            assert info.state == "finished", info
        yield found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of a device without PyTorch and without `onnx`."""
    return small_device.make(tmp_path_factory.mktemp("device") / "venv")


def exported(bed: Federation, run: str, *more: str) -> dict[str, Any]:
    """What `fl-server export` said."""
    done = CliRunner().invoke(main, ["export", run, "--home", str(bed.home), "--json", *more])
    assert done.exit_code == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def client(python: Path | str, bed: Federation, *words: object, given: str = "") -> tuple[int, str, str]:
    """A command of dev-0: exit code, standard output, standard error."""
    command = [str(python), "-m", "edgehold.client", *map(str, words), "--home", str(bed.folder / "dev-0")]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def records(task: TorchTask) -> Array:
    assert task.test is not None
    return np.asarray(task.test[0])


def digits() -> TorchTask:
    return tasks.make_task(**options(-1))


def test_a_dense_model_on_a_device_without_torch(bed: Federation, python: Path, tmp_path: Path) -> None:
    said = exported(bed, "dense", "--out", str(tmp_path / "model"))
    parity, manifest = said["parity"], said["manifest"]
    assert (parity["within"], parity["same_decision"], parity["records"]) == (True, 1.0, 360)
    assert parity["max_abs"] <= 1e-4
    assert (manifest["federation"], manifest["run"], manifest["round"], manifest["method"]) == ("demo", "dense", 2, "fedavg")
    assert manifest["privacy"] is None
    info = bed.info("dense")
    assert manifest["plan_sha256"] == info.plan_digest.hex()
    assert manifest["weights_sha256"] == info.model_digest.hex(), "FedAvg's state is the dense model itself"
    assert parity["before"]["accuracy"] == pytest.approx(dict(info.latest.facts)["accuracy"])
    task = digits()
    np.save(tmp_path / "x.npy", records(task))
    code, _, complaint = client(python, bed, "deploy", tmp_path / "model")
    assert code == 0, complaint
    code, out, complaint = client(python, bed, "infer", "deployed:digits", tmp_path / "x.npy", "--scores")
    assert code == 0, complaint
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["record"] for line in lines] == list(range(1, 361))
    reply = CliRunner().invoke(main, ["models", "dense", "--out", str(tmp_path / "m.safetensors"), "--home", str(bed.home)])
    assert reply.exit_code == 0
    weights = np.frombuffer((tmp_path / "m.safetensors").read_bytes()[-4 * task.schema.size :], dtype="<f4")
    task.load(weights)
    wanted = task.module.eval()(task.test[0]).detach().numpy() if task.test else np.zeros(0)
    assert np.abs(np.array([line["outputs"] for line in lines]) - wanted).max() < 1e-4
    assert [line["class"] for line in lines] == [str(one) for one in wanted.argmax(1)]
    assert "360 records, 0 bad rows skipped" in complaint


def test_records_in_every_form(bed: Federation, python: Path, tmp_path: Path) -> None:
    exported(bed, "dense", "--out", str(tmp_path / "model"))
    x = records(digits())[:3]
    np.save(tmp_path / "x.npy", x.reshape(3, 8, 8))
    _, wanted, _ = client(python, bed, "infer", tmp_path / "model", tmp_path / "x.npy")
    assert len(wanted.splitlines()) == 3
    flat = "".join(json.dumps(row.tolist()) + "\n" for row in x)
    nested = "".join(json.dumps(row.reshape(8, 8).tolist()) + "\n" for row in x)
    csv = ",".join(f"p{at}" for at in range(64)) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in x)
    for given in (flat, nested, csv):
        code, out, complaint = client(python, bed, "infer", tmp_path / "model", given=given)
        assert (code, out) == (0, wanted), complaint
    code, out, complaint = client(python, bed, "infer", tmp_path / "model", given=flat + "[1, 2]\n")
    assert code == 1
    assert "row 4 has 2 numbers; expected 64" in complaint
    code, out, complaint = client(python, bed, "infer", tmp_path / "model", "--skip-bad", given=flat + "[1, 2]\n[null]\n")
    assert (code, out) == (0, wanted)
    assert "3 records, 2 bad rows skipped" in complaint


def test_nothing_of_a_wrong_folder_is_run(bed: Federation, python: Path, tmp_path: Path) -> None:
    exported(bed, "dense", "--out", str(tmp_path / "model"))
    data = (tmp_path / "model" / "model.onnx").read_bytes()
    (tmp_path / "model" / "model.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for words in (("infer", tmp_path / "model"), ("deploy", tmp_path / "model"), ("detect", tmp_path / "model")):
        code, out, complaint = client(python, bed, *words, given="[0]\n")
        assert (code, out) == (1, "")
        assert "[model_refused]" in complaint
    stranger = tmp_path / "stranger"
    with Federation(stranger / "bed", name="demo") as other:
        shutil.copytree(other.home / "identity", stranger / "identity")
    exported(bed, "dense", "--out", str(tmp_path / "again"))
    from edgehold.core import keys
    from edgehold.core.manifest import signing_input

    key = keys.signing_key(keys.load_version(stranger / "identity", ["signing.key"], [])["signing.key"], "key")
    data = (tmp_path / "again" / "manifest.json").read_bytes()
    (tmp_path / "again" / "manifest.sig").write_bytes(key.sign(signing_input("handover v1", [data])))
    code, out, complaint = client(python, bed, "infer", tmp_path / "again", given="[0]\n")
    assert (code, out) == (1, "")
    assert "[bad_signature]" in complaint, "the server of another federation of the same name"


def test_a_vote_on_a_device(bed: Federation, python: Path, tmp_path: Path) -> None:
    graph = exported(bed, "vote", "--out", str(tmp_path / "onnx"))
    said = exported(bed, "vote", "--format", "vote", "--out", str(tmp_path / "vote"))
    assert said["parity"]["max_abs"] == graph["parity"]["max_abs"], "bits and ids give the weights themselves, to the last bit"
    assert said["parity"]["max_abs"] < 1e-6, "PyTorch and ONNX Runtime may add in another order, and no more"
    count = digits().schema.size
    assert (tmp_path / "vote" / "model.vote").stat().st_size <= count / 8 + 4096
    np.save(tmp_path / "x.npy", records(digits()))
    found = [client(python, bed, "infer", tmp_path / name, tmp_path / "x.npy", "--scores") for name in ("onnx", "vote")]
    assert found[0][0] == 0, found[0][2]
    assert found[0][1] == found[1][1]
    done = CliRunner().invoke(
        main, ["export", "dense", "--format", "vote", "--home", str(bed.home), "--out", str(tmp_path / "no")]
    )
    assert done.exit_code == 1
    assert "method 'fedavg' trains weights" in done.stderr
    assert not (tmp_path / "no").exists()


def test_int8_and_rollback(bed: Federation, python: Path, tmp_path: Path) -> None:
    said = exported(bed, "vote", "--int8", "--out", str(tmp_path / "int8"))
    assert said["manifest"]["numbers"] == "int8"
    assert 0 < said["parity"]["calibrated"] < said["parity"]["judged"]
    exported(bed, "vote", "--out", str(tmp_path / "float"))
    for name in ("float", "int8"):
        assert client(python, bed, "deploy", tmp_path / name, "--allow-older")[0] == 0
    assert "onnx int8" in client(python, bed, "deployed")[1]
    code, _, complaint = client(python, bed, "rollback", "--task", "digits")
    assert code == 0, complaint
    assert "onnx float32" in client(python, bed, "deployed")[1]
    exported(bed, "vote", "--round", "1", "--out", str(tmp_path / "old"))
    code, _, complaint = client(python, bed, "deploy", tmp_path / "old")
    assert code == 1
    assert "[downgrade]" in complaint
    assert "onnx float32" in client(python, bed, "deployed")[1]


def test_what_privacy_cost_goes_along(bed: Federation, tmp_path: Path) -> None:
    for run in ("private", "central"):
        said = exported(bed, run, "--out", str(tmp_path / run))["manifest"]["privacy"]
        assert said["epsilon"] == dict(bed.info(run).latest.facts)["epsilon_worst"] > 0
        assert said["delta"] == 1e-6, "the plan's, not the default"


def test_own_models_of_a_hypernetwork(bed: Federation, tmp_path: Path) -> None:
    said = exported(bed, "own", "--out", str(tmp_path / "phi"))
    assert said["manifest"]["kind"] == "hypernetwork"
    code, _, complaint = client(sys.executable, bed, "deploy", tmp_path / "phi")
    assert code == 1
    assert "fl-client personal" in complaint
    models = []
    for device in range(2):
        home, out = bed.folder / f"dev-{device}", tmp_path / f"own-{device}"
        words = ["personal", str(tmp_path / "phi"), "--task", "digits", "--out", str(out), "--home", str(home)]
        done = subprocess.run([sys.executable, "-m", "edgehold.client", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        model = received.opened(out, identity.load(home / "identity"))
        received.self_check(model)
        assert model.manifest.signer == f"device:dev-{device}"
        parity = json.loads(model.bundle.files["parity.json"])
        assert parity["within"]
        # The head is the one that this device keeps, to the bit, and the rest what phi generates.
        keep = Keep(home / "keep.db")
        local = registry.client_side("hyperfl").load(keep.local("own", 3) or b"")
        keep.close()
        assert local.head.astype("<f4").tobytes() in model.bundle.model
        models.append(model)
    x = records(digits())[:50]
    assert not np.allclose(models[0].graph(x), models[1].graph(x)), "each device has its own"
    assert client(sys.executable, bed, "deploy", tmp_path / "own-0", "--allow-older")[0] == 0
    code, _, complaint = client(sys.executable, bed, "deploy", tmp_path / "own-1", "--allow-older")
    assert code == 1, "another device's own model is nobody's here"
    assert "[bad_signature]" in complaint


def test_own_heads_behind_a_frozen_network(bed: Federation, python: Path, tmp_path: Path) -> None:
    """Where neither PyTorch nor `onnx` is installed."""
    said = exported(bed, "heads", "--out", str(tmp_path / "mean"))
    assert said["parity"]["before"]["accuracy"] == pytest.approx(dict(bed.info("heads").latest.facts)["accuracy"])
    code, _, complaint = client(python, bed, "personal", tmp_path / "mean", "--task", "heads", "--out", tmp_path / "own")
    assert code == 0, complaint
    home = bed.folder / "dev-0"
    model = received.opened(tmp_path / "own", identity.load(home / "identity"))
    keep = Keep(home / "keep.db")
    kept = registry.client_side("bristle").load(keep.local("heads", 3) or b"").kept
    keep.close()
    task = frozen.make_task(**head_options(bed.folder.parent, -1))
    assert task.test_data is not None
    network = task.network(kept.reshape(-1)) if task.network else None
    assert network is not None
    raw = network.records
    assert np.abs(model.graph(raw) - task.test_data.x @ kept).max() < 1e-4
    mean = received.opened(tmp_path / "mean", identity.load(home / "identity"))
    assert not np.allclose(model.graph(raw), mean.graph(raw)), "its own head, not the mean of all"
    assert client(python, bed, "deploy", tmp_path / "own")[0] == 0
    code, _, complaint = client(python, bed, "personal", tmp_path / "mean", "--task", "digits", "--out", tmp_path / "no")
    assert code == 1
    assert "[" in complaint.splitlines()[-1]


def test_a_detector_on_a_live_stream(bed: Federation, python: Path, tmp_path: Path) -> None:
    said = exported(bed, "flows", "--out", str(tmp_path / "model"))
    assert said["manifest"]["kind"] == "detector"
    assert said["manifest"]["columns"] == list(COLUMNS)
    assert said["parity"]["before"] == said["parity"]["after"]
    done = CliRunner().invoke(main, ["models", "flows", "--out", str(tmp_path / "m.safetensors"), "--home", str(bed.home)])
    assert done.exit_code == 0, done.stderr
    test = flows(**flow_options(tmp_path, -1)).test_data
    assert test is not None
    given = (
        "kind," + ",".join(COLUMNS) + "\n" + "".join("x," + ",".join(f"{v!r}" for v in row.tolist()) + "\n" for row in test.x)
    )
    assert client(python, bed, "deploy", tmp_path / "model")[0] == 0
    columns = ("--columns", ",".join(COLUMNS))
    plain = client(python, bed, "detect", tmp_path / "m.safetensors", *columns, given=given)
    assert plain[0] == 0, plain[2]
    assert '"alarm": true' in plain[1]
    for model in (tmp_path / "model", "deployed:flows"):
        found = client(python, bed, "detect", model, *columns, given=given)
        assert (found[0], found[1]) == (0, plain[1]), found[2]
    assert client(python, bed, "infer", "deployed:flows", given=given)[1].count('"alarm": true') == plain[1].count(
        '"alarm": true'
    )
    code, _, complaint = client(python, bed, "detect", "deployed:flows", "--columns", "b,a,c,d,e,f", given=given)
    assert code == 1
    assert "'b' at place 1, expected 'a'" in complaint


def test_what_single_clients_said_stays_where_it_is(bed: Federation) -> None:
    """FedPCA remembers what each client said last; only the model leaves."""

    async def blobs(stub: Stub) -> set[str]:
        request = admin_pb2.GetStateRequest(run="flows")
        parts = [part async for part in stub.stream("GetState", request, admin_pb2.GetStateResponse)]
        assert sum(len(part.data) for part in parts) == sum(blob.size for blob in parts[0].blobs)
        return {blob.name for blob in parts[0].blobs}

    assert bed.ask(blobs) == {"model"}


@pytest.mark.parametrize(
    ("words", "what"),
    [(("nobody",), "nobody"), (("dense", "--round", "9"), "no committed round 9"), (("own", "--int8"), "drop --int8")],
)
def test_what_cannot_be_exported(bed: Federation, tmp_path: Path, words: tuple[str, ...], what: str) -> None:
    done = CliRunner().invoke(main, ["export", *words, "--home", str(bed.home), "--out", str(tmp_path / "no")])
    assert done.exit_code == 1
    assert what in done.stderr
    assert not (tmp_path / "no").exists()
    assert not done.stderr.startswith("Traceback")
