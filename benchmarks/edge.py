"""What a small device pays for taking part: bytes installed and resident.

`edgehold[device]` is installed with pip, as a wheel, into an environment of its own; its interpreter runs the daemon.
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
from benchmarks.frame import ROOT, Options, Row, load_average

NAME = "edge"
SUMMARY = "Devices without PyTorch: bytes installed, memory at rest"

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


def bare() -> dict[str, str]:
    """The environment without what would lead a Python to other packages."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
