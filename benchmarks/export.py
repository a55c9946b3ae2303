"""What a device is handed: how near the graph is to PyTorch, how small it is, how soon it gives its first answer.

A federation of real processes trains each model, `fl-server export` hands it over, and one of its devices runs it. Images are
Fashion-MNIST, flows UNSW-NB15 (EDGEHOLD_DATA names a folder that has both); with --quick, digits and no flows.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.frame import ROOT, Options, Row, data_set, load_average, no_data
from edgehold.attacks.testbed import Federation
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Schema
from edgehold.server.desk import handing
from edgehold.server.desk.handing import Wish
from edgehold.server.rounds.evaluator import load_task

NAME = "export"
SUMMARY = "Models handed to devices: parity with PyTorch, int8, bytes of votes, seconds to a first inference"
DOCS = ROOT / "docs" / "devices.md"
"""Where `--write-docs` puts the table."""

DEVICES, RECORDS, STARTS = 2, 1000, 7
IMAGES, FLOWS = "edgehold.client.data.tasks:make_task", "edgehold.client.data.anomaly:make_task"
HEADS = "edgehold.client.data.frozen:make_task"


@dataclass(frozen=True, slots=True)
class Case:
    """One model. entry, options: of its task, but for the device; method: the body of [method]; rounds: to play."""

    name: str
    entry: str
    options: dict[str, Any]
    method: str
    rounds: int = 3
    vote: bool = False
    int8: bool = True


def cases(options: Options) -> list[Case]:
    """What is measured."""
    own = 'name = "{}"\nlocal_epochs = 1'
    if options.quick:
        net = {"hidden": [16], "bias": False}
        return [Case("mlp, FedAvg", IMAGES, {"dataset": "digits", "net": net}, own.format("fedavg"), 1),
                Case("mlp, FRL", IMAGES, {"dataset": "digits", "net": net}, own.format("frl"), 1, True)]  # fmt: skip
    fashion, unsw = data_set("fashion-mnist"), data_set("unsw-nb15")
    if fashion is None or unsw is None:
        raise ConfigError(f"{no_data('fashion-mnist', 'unsw-nb15')}; --quick needs neither")
    images = {"dataset": "fashion-mnist", "path": str(fashion), "limit": 3000}
    bare = {**images, "model": "lenet", "net": {"bias": False}}
    flows = {"dataset": "unsw-nb15", "path": str(unsw)}
    heads = {"dataset": "fashion-mnist", "path": str(fashion), "per_class": 50, "classes_per_device": 0}
    return [
        Case("small-cnn, FedAvg", IMAGES, {**images, "model": "small-cnn"}, own.format("fedavg"), 5),
        Case("lenet, FedAvg", IMAGES, {**images, "model": "lenet"}, own.format("fedavg")),
        Case("resnet, FedAvg", IMAGES, {**images, "model": "resnet"}, own.format("fedavg"), 5),
        Case("lenet, FRL", IMAGES, bare, own.format("frl"), vote=True),
        Case("lenet, HideNseek", IMAGES, bare, own.format("hidenseek"), vote=True, int8=False),
        Case("lenet, HideNseek, a mask", IMAGES, bare, own.format("hidenseek") + '\nvalues = "mask"', 1, True, False),
        Case("head, Bristle", HEADS, heads, 'name = "bristle"', int8=False),
        Case("39 columns, FedPCA", FLOWS, flows, 'name = "fedpca"\nsubspace_rounds = 4', 7, int8=False),
    ]


def rows(options: Options) -> Iterator[Row]:
    """Each case: parity, then int8, then the vote, then starts."""
    wanted = [case for case in cases(options) if options.wants(case.name)]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as place:
        folder = Path(place)
        own = {f"t{n}": (case.entry, {**case.options, "device_index": -1}) for n, case in enumerate(wanted)}
        with Federation(folder / "bed", tasks=own) as bed:
            bed.start_server()
            for index in range(DEVICES):
                given = {
                    f"t{n}": (case.entry, {**case.options, "device_index": index, "devices": DEVICES})
                    for n, case in enumerate(wanted)
                }
                bed.add_client(f"device-{index}", given)
                bed.start_client(f"device-{index}")
            bed.wait_connected(DEVICES)
            for number, case in enumerate(wanted):
                options.say(f"{case.name}: training ...")
                info = bed.run(_plan(case, number))
                if info.state != "finished":
                    raise RuntimeError(f"{case.name} is {info.state}: {info.error}")
            # What follows is about models that are there: nobody trains beside it.
            bed.stop(list(bed.clients))
            for number, case in enumerate(wanted):
                yield from _measured(case, number, bed, folder, None if options.quick else 1.0)


def _plan(case: Case, number: int) -> str:
    return (
        f'[run]\nname = "r{number}"\nrounds = {case.rounds}\ntask = "t{number}"\nseed = 5\n[cohort]\nsize = {DEVICES}\n'
        f"quorum = {DEVICES}\nover_select = 1.0\njoin_deadline_s = 120.0\nround_deadline_s = 600.0\n[evaluation]\nevery = 0\n"
        f"[method]\n{case.method}\n"
    )


def _measured(case: Case, number: int, bed: Federation, folder: Path, target: float | None) -> Iterator[Row]:
    """target: None where rows say nothing."""

    def export(form: str = "onnx", int8: bool = False) -> tuple[Path, dict[str, Any]]:
        wish = Wish(f"r{number}", form=form, int8=int8, records=RECORDS)
        out, bundle = handing.export(bed.home, wish, folder / f"{number}-{form}-{int8}")
        return out, {**json.loads(bundle.files["parity.json"]), "folder": len(b"".join(bundle.files.values()))}

    load = load_average()
    out, parity = export()
    metric = next(iter(parity["before"]))
    note = (
        f"largest difference of an output from {parity['reference']} on {parity['records']} real records, mean "
        f"{parity['mean_abs']:.2g}; same decision on {parity['same_decision']:.2%}; {metric} {parity['before'][metric]:.4f} "
        f"and {parity['after'][metric]:.4f} on {parity['judged']}; {parity['bytes']:,} bytes"
    )
    # Scores of flows are squared distances of any size: there the bound is relative.
    bound = 1e-4 * (max(1.0, parity["largest"]) if case.entry == FLOWS else 1.0)
    yield Row(f"{case.name}: parity", 1e6 * parity["max_abs"], "e-6", target and 1e6 * bound, None, load, note)
    if case.int8:
        _, small = export(int8=True)
        yield Row(f"{case.name}: int8, share of the bytes", small["size_ratio"], "", target and 0.30, None, load,
                  f"{small['bytes']:,} bytes; one record {small['latency']['one_median_ms']:.2g} ms")  # fmt: skip
        lost = 100 * (small["before"][metric] - small["after"][metric])
        note = f"{metric} {small['before'][metric]:.4f} and {small['after'][metric]:.4f} on {small['judged']} records, "
        note += f"{small['calibrated']} others calibrated; same decision on {small['same_decision']:.2%}"
        yield Row(f"{case.name}: int8, points lost", lost, "", target, None, load, note)
    if case.vote:
        entry, more = case.entry, {**case.options, "device_index": -1}
        schema: Schema = load_task(entry, more).schema
        vote, found = export("vote")
        fixed = schema.size / 8 + 4096
        note = f"n = {schema.size:,} weights; n / 8 + 4,096 bytes are {fixed / 1e3:.1f} kB"
        note += f"; outputs off by {found['max_abs']:.2g}"
        yield Row(f"{case.name}: vote", found["bytes"] / 1e3, "kB", target and fixed / 1e3, None, load, note)
        yield _first(f"{case.name}: vote", bed, vote, folder, target)
    note = (
        f"95th percentile {parity['latency']['one_p95_ms']:.2g} ms; among 256 {parity['latency']['among_256_ms']:.2g} ms each"
    )
    yield Row(f"{case.name}: one record", parity["latency"]["one_median_ms"], "ms", None, None, load, note)
    yield _first(case.name, bed, out, folder, target)


def _first(name: str, bed: Federation, model: Path, folder: Path, target: float | None) -> Row:
    """A process from its start to its end, with one record: interpreter, identity, signature, digests, graph, output."""
    said = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    np.save(folder / "one.npy", np.zeros((1, *said["input"]["shape"]), said["input"]["type"]))
    command = [sys.executable, "-m", "edgehold.client", "infer", str(model), str(folder / "one.npy"), "--home"]
    load, took = load_average(), []
    for _ in range(STARTS):
        began = time.perf_counter()
        done = subprocess.run([*command, str(bed.folder / "device-0")], capture_output=True, text=True, check=False)
        took.append(time.perf_counter() - began)
        if done.returncode or len(done.stdout.splitlines()) != 1:
            raise RuntimeError(f"{name}: {done.stderr}")
    note = f"fl-client infer as a process, to its end; median of {STARTS}, slowest {max(took):.2f} s"
    return Row(f"{name}: first inference", median(took), "s", target and 2.0, None, load, note)
