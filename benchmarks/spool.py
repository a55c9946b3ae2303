"""Any number of clients: rules over sealed files on disk, their speed beside that of reading the same files, and their memory.

Every rule runs in a process of its own, with one BLAS thread and the product's threads on all cores. Right after it, in the
same process, the same reads are made without the rule, and BLAS multiplies blocks of the same shape, so that a busy machine
slows all of them. Shares are of processor seconds of all threads: what others do on the machine changes them little.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fleet import many_files
from benchmarks.frame import ROOT, Options, Row, load_average, measured_alone
from benchmarks.rules_peer import resident
from edgehold.core.vectors import Array, FloatArray, Vector, blocks
from edgehold.defenses.baselines.rules import Round, VectorRows, recipe
from edgehold.defenses.baselines.rules.gram import PIECE
from edgehold.defenses.baselines.rules.ordering import in_order
from edgehold.defenses.baselines.rules.rows import held
from edgehold.server.store.spool import SealedFile

NAME = "spool"
SUMMARY = "Rules over 1,000 spooled updates: memory, speed beside reading them; --shape N D"
DOCS = ROOT / "docs" / "rules.md"
"""Where `--write-docs` puts the table."""

SHAPE, QUICK = (1000, 2_000_000), (20, 150_000)
GRAMS = {"median": 0, "trimmed_mean": 0, "geometric_median": 1, "krum": 1, "nnm+trimmed_mean": 1}
"""Rules, and how many Gram products each takes."""
MIXES = {"nnm+trimmed_mean": 1}
MEMORY_MIB, READ_PERCENT, PRODUCTS = 2048.0, 50.0, 1.5
_KEY = bytes(32)
_DRAWN = 1 << 22


def rows(options: Options) -> Iterator[Row]:
    """Three or four rows per rule."""
    n, d = options.shape or (QUICK if options.quick else SHAPE)
    wanted = {rule: f"{rule}, {n:,} x {d:,}" for rule in GRAMS}
    wanted = {rule: work for rule, work in wanted.items() if options.wants(work)}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
        stack.enter_context(many_files(n + 256))
        options.say(f"spooling {n:,} x {d:,} values, {4e-9 * n * d:.1f} GB ...")
        spooled(Path(folder), n, d)
        for rule, work in wanted.items():
            load = load_average()
            found = measured_alone([sys.executable, "-m", "benchmarks.spool", folder, rule, str(n), str(d)])
            yield from _rows(work, rule, found, load, quick=options.quick)


def _rows(work: str, rule: str, found: dict[str, float], load: float, quick: bool) -> Iterator[Row]:
    note = f"wall; limit: reading and unsealing alone; plain memory {found['memory_rate']:.3g} GB/s"
    yield Row(work, found["rate"], "GB/s", None, found["read_rate"], load, note)
    note = f"peak of the process; {found['before']:.0f} MiB before the rule"
    yield Row(f"memory, {work}", found["peak"], "MiB", MEMORY_MIB, None, load, note)
    spent = f"{found['processor']:.3g} s of processor, {found['reading']:.3g} s of it to read once"
    if GRAMS[rule] == 0:
        target = None if quick else READ_PERCENT
        share = 100 * found["reading"] / found["processor"]
        yield Row(f"share of reading, {work}", share, "%", target, None, load, spent, at_least=True)
        return
    target = None if quick else PRODUCTS
    passes = found["processor"] - found["reading"] * found["passes"]
    note = f"{spent}, {found['passes']:.0f} times; BLAS: product {found['product']:.3g} s"
    if rule in MIXES:
        note += f", mix {found['mix']:.3g} s"
    least = found["product"] + MIXES.get(rule, 0) * found["mix"]
    yield Row(f"arithmetic beside BLAS, {work}", passes / least, "x", target, None, load, note)


def spooled(folder: Path, n: int, d: int) -> list[SealedFile]:
    """n sealed files of d float32 values in `folder`, each cut from one supply of normal numbers at places of its own."""
    rng = np.random.default_rng(0)
    supply = rng.standard_normal(_DRAWN, dtype=np.float32)
    files = []
    for client in range(n):
        file = _sealed(folder, client)
        for lo, hi in blocks(d, 1 << 18):
            at = int(rng.integers(_DRAWN - (hi - lo)))
            file.append(supply[at : at + hi - lo].view(np.uint8).data)
        files.append(file)
        file.close()
    return files


def _sealed(folder: Path, client: int) -> SealedFile:
    return SealedFile(folder / f"{client:06}", _KEY, str(client).encode())


class _Counted(VectorRows):
    """Remembers how many values each read was of; threads append."""

    def __init__(self, vectors: Sequence[Vector]) -> None:
        super().__init__(vectors)
        self.reads: list[int] = []

    def views(self, lo: int, hi: int) -> Sequence[FloatArray]:
        self.reads.append(self.n * (hi - lo))
        return super().views(lo, hi)

    def row(self, index: int, lo: int, hi: int) -> FloatArray:
        self.reads.append(hi - lo)
        return super().row(index, lo, hi)


class _Discard:
    def write(self, values: Array) -> None:
        """What the result costs is the caller's."""

    def finish(self) -> Vector:
        raise AssertionError("nobody reads what is thrown away")


def measure(folder: Path, rule: str, n: int, d: int) -> dict[str, float]:
    """One rule. Rates in GB/s of updates by the clock, memory in MiB, the rest in processor seconds of all threads."""
    updates = _Counted([Vector(_sealed(folder, client)) for client in range(n)])
    names = [f"client-{client:06}" for client in range(n)]
    before = resident("VmRSS") / 1024
    wall, processor = _clocked(lambda: recipe(rule).aggregate(updates, Round((n - 3) // 5, (), names), _Discard()))
    peak, passes = resident("VmHWM") / 1024, sum(updates.reads) / (n * d)

    spans = list(blocks(d, held(updates)))  # all of it: of a part, less or more would lie in the page cache than for the rule

    def read(span: tuple[int, int]) -> Array:
        updates.views(*span)
        return np.empty(0)

    read_wall, reading = _clocked(lambda: in_order(spans, read, lambda _: None))
    block = np.random.default_rng(1).standard_normal((n, PIECE), dtype=np.float32)
    shares = np.full((n, n), 1 / n, dtype=np.float32)
    pieces = d / PIECE
    product = min(_clocked(lambda: block @ block.T)[1] for _ in range(5))
    mix = min(_clocked(lambda: shares @ block)[1] for _ in range(5))
    flat = np.ones(1 << 26, dtype=np.float32)
    parts = list(blocks(len(flat), 1 << 20))
    memory_wall = min(
        _clocked(lambda: in_order(parts, lambda s: np.array([flat[s[0] : s[1]].sum()]), lambda _: None))[0] for _ in range(3)
    )
    return {
        "rate": 4e-9 * n * d / wall,
        "read_rate": 4e-9 * n * d / read_wall,
        "memory_rate": 1e-9 * flat.nbytes / memory_wall,
        "processor": processor,
        "reading": reading,
        "passes": passes,
        "product": product * pieces,
        "mix": mix * pieces,
        "before": before,
        "peak": peak,
    }


def _clocked(call: Callable[[], Any]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
