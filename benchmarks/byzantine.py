"""What Byzantine attacks cost a round, and with `--peer` how much harm they do beside ByzFL's on the same updates.

Every number comes from a process of its own, in processor seconds with one BLAS thread; the product's own threads are counted.
Sixteen honest updates and four liars who know all of them; late in a training: what clients have in common is a tenth of what
sets them apart. Harm: distance of the rule's result from the honest mean, both lies through our own rule.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.frame import ROOT, Options, Row, load_average, measured_alone
from edgehold.core.vectors import Array

NAME = "byzantine"
SUMMARY = "Byzantine attacks at 1.1 million values: processor seconds; --peer: time and harm against ByzFL"
DOCS = ROOT / "docs" / "attacks-byzantine.md"
"""Where `--write-docs` puts the table."""

VALUES, HONEST, LIARS = 1_100_000, 16, 4
RULE = "nnm+trimmed_mean"
PEER_S = 400.0
"""Seconds that one lie of ByzFL may take."""
LIMIT_S = 2.0
"""Processor seconds that an optimised attack on `RULE` may take."""
CASES = (
    ("ipm_optimised", RULE), ("alie_optimised", RULE), ("ipm_optimised", "nnm+krum"), ("alie_optimised", "trimmed_mean"),
    ("alie_optimised", "geometric_median"), ("rule_aware", RULE), ("rule_aware", "krum"), ("fang_krum", "krum"),
    ("fang_trimmed", "trimmed_mean"), ("min_max", ""), ("min_sum", ""), ("alie", ""), ("ipm", ""), ("mimic", ""),
)  # fmt: skip
PEERS = {"ipm_optimised": "ipm", "alie_optimised": "alie"}


def rows(options: Options) -> Iterator[Row]:
    """A row per attack; three for those that ByzFL has."""
    values = 4096 if options.quick else VALUES
    for attack, rule in CASES:
        work = f"{attack}{f' on {rule}' if rule else ''}"
        if not options.wants(work):
            continue
        peer = PEERS.get(attack, "") if options.peer and rule == RULE else ""
        load = load_average()
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            found = ours(attack, rule, values, folder if peer else "")
            target = LIMIT_S if rule == RULE and attack in PEERS and not options.quick else None
            note = f"processor; n = {HONEST + LIARS}, f = {LIARS}, {values:,} values; harm {found['harm']:.4g}"
            yield Row(work, found["seconds"], "s", target, found["pass"], load, note + "; limit: mean and deviation")
            if peer:
                other = theirs(peer, Path(folder), options)
                seconds, harm = other["seconds"], other["harm"]
                times = f"ByzFL {seconds:.3g} s: {seconds / found['seconds']:.0f} times more"
                yield Row(f"share of ByzFL's time, {work}", 100 * found["seconds"] / seconds, "%", None, None, load, times)
                share = 100 * harm / found["harm"]
                told = f"ByzFL {harm:.5g}, ours {found['harm']:.5g}"
                yield Row(f"ByzFL's harm as a share of ours, {work}", share, "%", 100.01, None, load, told)


def ours(attack: str, rule: str, values: int, folder: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    return measured_alone([sys.executable, "-m", "benchmarks.byzantine", attack, rule, str(values), folder])


def theirs(kind: str, folder: Path, options: Options) -> dict[str, float]:
    """ByzFL's lie about the updates that `ours` left in `folder`: processor seconds, and its harm through our rule."""
    honest, lie = folder / "x.npy", folder / "lie.npy"
    asked = (kind, honest, lie, LIARS)
    found = peers.measured(peers.BYZFL, "byzantine_peer.py", asked, options, PEER_S, peers.LARGEST_BYTES)
    return found | {"harm": harm_of(np.load(honest), np.load(lie), RULE)}


def harm_of(honest: Array, lie: Array, rule: str) -> float:
    """Distance of the rule's result from the mean of the honest updates, (h, d) float32, when every liar sends `lie`."""
    from edgehold.core.vectors import MemorySpace, Vector
    from edgehold.defenses.baselines.rules import Round, VectorRows, recipe

    vectors = [Vector.of(row) for row in [*honest, *[lie.astype(np.float32)] * LIARS]]
    sink = MemorySpace().sink(honest.shape[1], "<f8")
    recipe(rule or "average").aggregate(VectorRows(vectors), Round(LIARS if rule else 0), sink)
    return float(np.linalg.norm(sink.finish().whole() - honest.mean(axis=0, dtype=np.float64)))


def updates(values: int) -> Array:
    """(HONEST, values) float32."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal(values, dtype=np.float32)
    return np.asarray(rng.standard_normal((HONEST, values), dtype=np.float32) + np.float32(0.1) * common)


def measure(name: str, rule: str, values: int, folder: str) -> dict[str, float]:
    """Processor seconds of one lie and of one pass for mean and deviation (medians of three), and the lie's harm.

    folder: where the honest updates are left for a peer; empty: nowhere.
    """
    from edgehold.attacks.byzantine.registry import attack_of
    from edgehold.attacks.byzantine.rule import ServerRule
    from edgehold.attacks.byzantine.sight import Sight, moments

    x = updates(values)
    others = {f"client-{i:02}": row for i, row in enumerate(x)}
    own = {f"liar-{i}": x[i] for i in range(LIARS)}
    known = ServerRule(rule, LIARS) if rule else None
    options: dict[str, Any] = {"warm_up": 1} if name == "mimic" else {}
    seconds, passes, lie = [], [], x[0]
    for _ in range(3):
        rng = np.random.default_rng(1)
        seen = Sight(own, others, np.zeros(values, np.float32), HONEST + LIARS, LIARS, rng, {}, known)
        began = time.process_time()
        lie = attack_of(name, options).lie(seen)["liar-0"]
        seconds.append(time.process_time() - began)
        began = time.process_time()
        moments(others)
        passes.append(time.process_time() - began)
    if folder:
        np.save(Path(folder) / "x.npy", x)
    return {"seconds": median(seconds), "pass": median(passes), "harm": harm_of(x, lie, rule)}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])))
