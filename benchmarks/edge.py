"""What a small device pays for taking part: bytes installed and resident, seconds per record; and the engine on such methods.

`edgehold[device]` is installed with pip, as a wheel, into an environment of its own; its interpreter runs the daemon. Rows on
UNSW-NB15 need it where `frame.data_set` looks for it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks import fleet
from benchmarks.frame import ROOT, Options, Row, data_set, load_average, no_data
from edgehold.attacks.testbed import Federation

NAME = "edge"
SUMMARY = "Devices without PyTorch: bytes installed, memory, scoring; FedPCA and ADMM in one process"

MIB = 1 << 20
STARTS = 5


def rows(options: Options) -> Iterator[Row]:
    """Installs first; everything else runs there."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
        options.say("installing edgehold[device] ...")
        python, size = install(Path(folder) / "device")
        yield Row(
            "installed, edgehold[device]", size / MIB, "MiB", 250e6 / MIB, note="site-packages, without pip; target 250 MB"
        )
        yield from _imports(python, options)
        yield from _idle(Path(folder) / "idle", python)
        yield from _scoring(python)
        flows = data_set("unsw-nb15")
        if flows is not None:
            yield from _training(Path(folder) / "training", python, flows)
            yield from _subspace(flows.parent, options)
        else:
            options.say(f"rows on UNSW-NB15 left out: {no_data('unsw-nb15')}")
        yield from _consensus(options)


def install(place: Path) -> tuple[Path, int]:
    """Interpreter of a new environment with `edgehold[device]`, and the bytes of its packages."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, stdout=subprocess.DEVNULL)
    python = place / "bin" / "python"
    source = place / "source"
    # From a copy: building a wheel leaves files beside what it builds from.
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "*.so", "tests", "docs", "*-output", "__pycache__"))
    command = [
        str(python), "-m", "pip", "install", "--no-input", "--quiet", "--disable-pip-version-check",
        "-c", str(ROOT / "constraints.txt"), f"{source}[device]",
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    packages = next(place.glob("lib/python*/site-packages"))
    shutil.rmtree(source)
    own = ("pip", "setuptools")  # what every environment has
    size = sum(
        file.stat().st_size
        for file in packages.rglob("*")
        if file.is_file() and not file.relative_to(packages).parts[0].startswith(own)
    )
    return python, size


def _imports(python: Path, options: Options) -> Iterator[Row]:
    load, seconds = load_average(), []
    for _ in range(1 if options.quick else STARTS):
        began = time.monotonic()
        subprocess.run([str(python), "-c", "import edgehold.client.daemon"], check=True, cwd="/", env=bare())
        seconds.append(time.monotonic() - began)
    yield Row("import of the daemon", median(seconds), "s", None, load=load, note=f"a process each, median of {len(seconds)}")


def _idle(folder: Path, python: Path) -> Iterator[Row]:
    load = load_average()
    with fleet.federation(folder, 1000) as bed:
        bed.start_server()
        fleet.enrol(bed, ["device-0"], 1000)
        fleet.start(bed, ["device-0"], 1, python)
        bed.wait_connected(1)
        time.sleep(1.0)
        found = fleet.memory(fleet.pid(bed.clients["process-0"]))
        yield Row("idle client", found["now"] / MIB, "MiB", 120e6 / MIB, load=load, note="resident, connected; target 120 MB")


_SCORE = """
import sys, time
import numpy as np
from edgehold.core.anomaly import Detector, Reading, schema_of
schema = schema_of(39, 2)
rng = np.random.default_rng(0)
parts = {"mean": np.zeros(39), "width": np.ones(39), "subspace": np.linalg.qr(rng.standard_normal((39, 2)))[0],
         "threshold": np.ones(1), "reading": Reading("log", 5.0, 0).values()}
found, x = Detector.of(schema, schema.flatten(parts)), rng.standard_normal((200_000, 39)).astype(np.float32)
found.scores(x)
best = []
for _ in range(5):
    began = time.process_time()
    found.scores(x)
    best.append((time.process_time() - began) / len(x) * 1e6)
print(sorted(best)[2])
"""


def _scoring(python: Path) -> Iterator[Row]:
    load = load_average()
    environment = bare() | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([str(python), "-c", _SCORE], check=True, cwd="/", env=environment, capture_output=True, text=True)
    micros = float(done.stdout)
    note = f"39 columns, 2 components, 200,000 records, median of 5; {1e6 / micros:,.0f} records a second and core"
    yield Row("scoring a record", micros, "us", 5.0, load=load, note=note)


ANOMALY = "edgehold.client.data.anomaly:make_task"
DEVICES = 3
_PLAN = f"""
[run]
name = "bench"
rounds = 12
task = "traffic"
[cohort]
size = {DEVICES}
quorum = {DEVICES}
over_select = 1.0
[evaluation]
every = 0
[method]
name = "fedpca"
subspace_rounds = 10
"""


def _training(folder: Path, python: Path, flows: Path) -> Iterator[Row]:
    """The largest of three daemons, each of which reads the whole file and keeps its third of the normal records."""
    load = load_average()
    options = {"dataset": "unsw-nb15", "path": str(flows), "devices": DEVICES}
    with Federation(folder, tasks={"traffic": (ANOMALY, {**options, "device_index": -1})}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"device-{index}", {"traffic": (ANOMALY, {**options, "device_index": index})})
            bed.clients[f"device-{index}"].command[0] = str(python)
            bed.start_client(f"device-{index}")
        bed.wait_connected(DEVICES)
        info = bed.run(_PLAN)
        if info.state != "finished":
            raise RuntimeError(f"the run is {info.state}: {info.error}")
        peak = max(fleet.memory(fleet.pid(process))["peak"] for process in bed.clients.values())
        note = f"peak resident, the largest of {DEVICES} daemons, reading the file included; target 250 MB"
        yield Row("client that learns with FedPCA on UNSW-NB15", peak / MIB, "MiB", 250e6 / MIB, load=load, note=note)


def _subspace(data: Path, options: Options) -> Iterator[Row]:
    from edgehold.attacks.eval.reproductions import fedpca

    load = load_average()
    options.say("FedPCA in one process ...")
    found = fedpca.play({"dataset": "unsw-nb15", "way": "speed", "rounds": fedpca.ROUNDS, "seed": 0}, data)
    note = (
        f"{fedpca.FAST_CLIENTS} clients, wall time of {found['rounds']:.0f} rounds and one to standardise, data loaded before"
    )
    yield Row(f"FedPCA to {fedpca.FAST_RATIO} of the best loss, UNSW-NB15", found["seconds"], "s", 5.0, load=load, note=note)


def _consensus(options: Options) -> Iterator[Row]:
    from edgehold.attacks.eval.reproductions import noise_robust_admm as admm
    from edgehold.attacks.eval.reproductions.noise_robust_admm_tables import DEVICES, FEW, ROUNDS

    for work, asked, rounds, target in (
        ("ADMM, 500 rounds of 4 of 100 clients, 128 weights", FEW, ROUNDS, 10.0),
        ("ADMM, 500 rounds of all 100 clients, 128 weights", DEVICES, ROUNDS, None),
    ):
        load, began = load_average(), time.monotonic()
        options.say(f"{work} ...")
        rounds = 5 if options.quick else rounds
        cell = {"kind": "authors", "form": "rerce", "asked": asked, "variance": 1e-2, "rounds": rounds, "seed": 0}
        admm.play(cell, None)
        note = "one process, data made and solutions read included"
        yield Row(work, time.monotonic() - began, "s", target, load=load, note=note)


def bare() -> dict[str, str]:
    """The environment without what would lead a Python to other packages."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
