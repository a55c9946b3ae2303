"""Ten thousand virtual clients in the one-process engine: rounds a second, and the share of a round that torch computes.

Every round draws a hundred of them, and almost every one is met for the first time: its task is made, trained and forgotten.

Time in torch's kernels: `perf` samples the process of a case from the end of its first round to the end of its last. A sample
counts for the kernels when it lies in libtorch_cpu or in code that oneDNN wrote at run time; the interpreter, torch's bindings,
copies by the C library, memory from the system and numpy count against them. The server's evaluation is left out.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import engine
from benchmarks.frame import Options, Row, data_set, load_average, no_data

NAME = "thousands"
SUMMARY = "10,000 virtual clients, 100 per round: rounds a second, share of torch in a CNN"

KERNELS = re.compile(r"libtorch_cpu|\[JIT\]|//anon|jit-\d+")
"""Where `perf` finds the kernels: torch's library, and what oneDNN wrote."""


def rows(options: Options) -> Iterator[Row]:
    """One process per case."""
    yield from _thousands(options)
    yield from _kernels(options)


def _thousands(options: Options) -> Iterator[Row]:
    """Rounds of a hundred among ten thousand."""
    clients, cohort = (300, 10) if options.quick else (10_000, 100)
    rounds = max(options.rounds, 3 if options.quick else 40)
    for workers, target in ((1, None), (2, 10.0)):
        kind = "one process" if workers == 1 else f"{workers} processes"
        work = f"rounds of {cohort} among {clients:,} virtual clients, {kind}"
        if not options.wants(work):
            continue
        load = load_average()
        options.say(f"{work} ...")
        found = engine.play({"clients": clients, "cohort": cohort, "rounds": rounds, "resampled": True, "workers": workers})
        note = f"1 / median of {rounds - 1} rounds; processor {found['processor']:.0f} ms per round in the first process"
        note = f"{note}; {found['memory']:.0f} MiB"
        aim = None if options.quick else target
        yield Row(work, 1000 / found["round"], "1/s", aim, load=load, note=note, at_least=True)


def _kernels(options: Options) -> Iterator[Row]:
    """Share of a round that torch computes."""
    clients, cohort = (100, 5) if options.quick else (10_000, 100)
    work = f"torch kernels, {cohort} of {clients:,} virtual clients, Fashion-MNIST CNN"
    if not options.wants(work):
        return
    if shutil.which("perf") is None or data_set("fashion-mnist") is None:
        options.say(f"{work}: left out; it needs perf, and data: {no_data('fashion-mnist')}")
        return
    load, rounds = load_average(), 3
    options.say(f"{work} ...")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        samples = str(Path(folder) / "perf.data")
        found = engine.play({"clients": clients, "cohort": cohort, "rounds": rounds, "images": True, "samples": samples})
        shares = _shares(samples)
    kernels = sum(share for where, share in shares.items() if KERNELS.search(where))
    others = sorted(((share, where) for where, share in shares.items() if not KERNELS.search(where)), reverse=True)
    note = f"perf, {rounds - 1} rounds of {found['round'] / 1000:.2f} s, one process, {engine.IMAGES} records each, "
    note += "batches of 32; "
    note += ", ".join(f"{where} {share:.1f} %" for share, where in others[:5])
    yield Row(work, kernels, "%", None if options.quick else 85.0, load=load, note=note, at_least=True)


def _shares(samples: str) -> dict[str, float]:
    """Per cent of the samples in each library."""
    command = ["perf", "report", "-i", samples, "--sort", "dso", "--stdio", "-q"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = {}
    for line in told.splitlines():
        if match := re.match(r"\s*([\d.]+)%\s+(.+?)\s*$", line):
            found[match[2]] = found.get(match[2], 0.0) + float(match[1])
    return found
