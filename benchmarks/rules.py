"""What robust rules cost: processor seconds, passes over the updates, memory, and ByzFL's share beside it.

Every number comes from a process of its own. A pass is one float32 sum over all n x d numbers, measured between the calls,
so that a busy machine slows both. One BLAS thread; the product's own threads are counted, being processor time.
With `--peer`, ByzFL is measured right after, on the same numbers, with one thread, in an environment of its own that is made
on first use (about 1.5 GB in ~/.cache/edgehold).
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.frame import ROOT, Options, Row, load_average, measured_alone
from benchmarks.rules_peer import resident
from edgehold.core.vectors import Array, Vector, blocks

NAME = "rules"
SUMMARY = "Robust rules at 1.1 million values: processor seconds, passes, memory; --peer: against ByzFL"
DOCS = ROOT / "docs" / "rules.md"
"""Where `--write-docs` puts the table."""

VALUES = 1_100_000
PEER_S = 300.0
"""Seconds that one measurement of ByzFL may take."""
SHAPES = ((20, 4), (50, 10), (100, 20))


@dataclass(frozen=True, slots=True)
class Case:
    """passes, memory (MiB beyond the input), seconds, less (times less processor than the peer): targets, None for none.

    peer: ByzFL's name of it, empty when it has none or fails. Behind bucketing a quarter of the liars is asked for.
    """

    rule: str
    n: int
    f: int
    peer: str = ""
    passes: float | None = None
    memory: float | None = None
    seconds: float | None = None
    less: float | None = None


def cases() -> list[Case]:
    """All that is measured."""
    found = []
    for (n, f), passes in zip(SHAPES, (5.0, 8.0, 8.0), strict=True):
        for rule, peer in (("median", "Median"), ("trimmed_mean", "TrMean"), ("meamed", "Meamed")):
            found.append(Case(rule, n, f, peer, passes, 100.0, None, 15.0))
    for rule, peer in (("krum", "Krum"), ("multi_krum", "MultiKrum"), ("geometric_median", "GeometricMedian"), ("caf", "CAF")):
        found.append(Case(rule, 100, 20, peer, None, 60.0, None, 6.0))
    found.append(Case("nnm", 20, 4, "NNM", less=25.0))
    found.append(Case("nnm", 50, 10, "NNM", less=40.0))
    found.append(Case("nnm", 100, 20, memory=1024.0, seconds=1.5))
    found.append(Case("mda", 100, 20, memory=60.0, seconds=1.0))
    found += [Case("average", 100, 0, "Average"), Case("monna", 100, 20, "MoNNA", memory=60.0)]
    found += [Case("centred_clipping", 100, 20, "CenteredClipping", memory=60.0), Case("dnc", 100, 20, memory=60.0)]
    found += [Case("bulyan", 100, 20), Case("smea", 20, 4), Case("nnm+trimmed_mean", 50, 10, "NNM+TrMean")]
    found += [Case("arc+trimmed_mean", 50, 10, "ARC+TrMean"), Case("bucketing+median", 100, 20), Case("nnm+krum", 100, 20)]
    return found


def rows(options: Options) -> Iterator[Row]:
    """Three or four rows per case."""
    values, few = (4096, Case("", 0, 0)) if options.quick else (VALUES, None)
    for case in cases():
        work = f"{case.rule}, n = {case.n}, f = {case.f}"
        if not options.wants(work):
            continue
        load = load_average()
        found = ours(case, values)
        one = found["pass"]
        wanted = few or case  # tiny rows have no targets
        target = wanted.passes * one if wanted.passes is not None else wanted.seconds
        note = f"processor; limit: one pass over {case.n} x {values:,} values"
        yield Row(work, found["seconds"], "s", target, one, load, note)
        yield Row(f"memory, {work}", found["memory"], "MiB", wanted.memory, None, load, "growth beyond the updates")
        if options.peer and case.peer:
            peer = theirs(case, values, options)
            share = 100 * found["seconds"] / peer["seconds"]
            note = f"ByzFL {peer['seconds']:.3g} s, {peer['memory']:.0f} MiB: {100 / share:.1f} times less"
            if wanted.less is not None:
                note += f", wanted {wanted.less:g}"
            yield Row(f"share of ByzFL, {work}", share, "%", 100 / wanted.less if wanted.less else None, None, load, note)


def ours(case: Case, values: int, out: str = "") -> dict[str, float]:
    """`measure` in a process of its own. out: where the rule's result is left (npy)."""
    return measured_alone([sys.executable, "-m", "benchmarks.rules", json.dumps(asdict(case)), str(values), out])


def theirs(case: Case, values: int, options: Options, out: str = "") -> dict[str, float]:
    """ByzFL's seconds and memory for the same; `ConfigError` when it cannot be installed or fails."""
    asked = (case.peer, case.n, case.f, values, 2, *([out] if out else []))
    return peers.measured(peers.BYZFL, "rules_peer.py", asked, options, PEER_S, peers.LARGEST_BYTES)


class _Discard:
    def write(self, values: Array) -> None:
        """Nothing is kept: what the result costs is the caller's."""

    def finish(self) -> Vector:
        raise AssertionError("nobody reads what is thrown away")


def _case(case: Case, x: Array) -> Callable[[], Any]:
    from edgehold.defenses.baselines.rules import Round, VectorRows, presteps, recipe
    from edgehold.defenses.baselines.rules.cloud import Basis, Cloud
    from edgehold.defenses.baselines.rules.rows import MixedRows

    updates = VectorRows([Vector.of(row) for row in x])
    if case.rule == "nnm":  # every mixed update written out, as ByzFL's does; recipes never need that

        def mixed() -> Array:
            out = np.empty_like(x)
            points = MixedRows(updates, presteps.nnm(Cloud(Basis(updates), np.ones(case.n)), case.f).shares[:, :-1])
            for lo, hi in blocks(x.shape[1]):
                points.write(lo, hi, [row[lo:hi] for row in out])
            return out

        return mixed
    names = [f"client-{i:03}" for i in range(case.n)]
    options: dict[str, dict[str, float | str]] = {"centred_clipping": {"radius": 100.0}, "monna": {"trusted": names[0]}}
    f = case.f // 4 if "bucketing" in case.rule else case.f
    made = recipe(case.rule, options.get(case.rule, {}))
    return lambda: made.aggregate(updates, Round(f, (), names), _Discard())


def result(case: Case, x: Array) -> Array:
    """What a rule makes of the rows of `x`, (n, d) float32: (d,) float64."""
    from edgehold.core.vectors import MemorySpace
    from edgehold.defenses.baselines.rules import Round, VectorRows, recipe

    sink = MemorySpace().sink(x.shape[1], "<f8")
    recipe(case.rule).aggregate(VectorRows([Vector.of(row) for row in x]), Round(case.f), sink)
    return np.asarray(sink.finish().whole())


def measure(case: Case, values: int, out: str = "") -> dict[str, float]:
    """Processor seconds per call and per pass (medians), and growth of resident memory in MiB over one call."""
    x = np.random.default_rng(0).standard_normal((case.n, values), dtype=np.float32)
    call = _case(case, x)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    call()
    memory = (resident("VmHWM") - before) / 1024
    seconds, passes = [], []
    for _ in range(5):
        passes += [_processor(x.sum) for _ in range(3)]
        seconds.append(_processor(call))
    if out:
        np.save(out, result(case, x))
    return {"seconds": median(seconds), "pass": median(passes), "memory": memory}


def _processor(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])), int(sys.argv[2]), *sys.argv[3:])))
