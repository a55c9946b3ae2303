"""The certificate that comes with a graph: how it compares with what the task itself computes, on real records.

Nothing of the records stands in it: counts, differences and the task's own metrics.
"""

import time
from importlib.metadata import version

import msgspec
import numpy as np

from edgehold.core.errors import ModelRefused
from edgehold.core.handover import Check
from edgehold.core.network import Network, decided
from edgehold.core.onnx_run import Graph
from edgehold.core.rng import stream
from edgehold.core.vectors import Array

TOLERANCE = 1e-4
"""Largest difference allowed of an output of a float32 graph, times the largest output where that is above 1."""
RECORDS = 1000


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds on the exporting machine, one thread: of one record alone (median and 95th of 100), and of one among 256."""

    one_median_ms: float
    one_p95_ms: float
    among_256_ms: float


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """records: real ones that were compared; 0 where the task has no test data, and then `drawn` ones were.

    max_abs, mean_abs: of the difference of outputs; largest: the largest output. same_decision: share of the records with the
    same arg-max (or the same side of the threshold); None where numbers are predicted. before, after: the task's metrics with
    its own arithmetic and with the graph, on `judged` records, none of which calibrated an int8 graph.
    bytes, size_ratio: of the model's file, and to the float32 graph.
    """

    records: int
    drawn: int
    reference: str
    runtime: str
    max_abs: float
    mean_abs: float
    largest: float
    same_decision: float | None
    within: bool
    tolerance: float
    judged: int
    before: dict[str, float]
    after: dict[str, float]
    calibrated: int
    latency: Latency
    bytes: int
    float_bytes: int
    size_ratio: float


def certify(
    network: Network, graph: bytes, records: int = RECORDS, calibrated: int = 0, stored: int | None = None
) -> Parity:  # fmt: skip
    """Compare a graph with the task it comes from. calibrated: so many of the last records made an int8 graph; stored: bytes
    of the file from which a device makes the graph, where it is not the graph itself.

    `ModelRefused` when a float32 graph does not give what the task gives.
    """
    run = Graph(graph, "the exported graph")
    real = network.records[: len(network.records) - calibrated]
    compared = real[:records] if len(real) else drawn(run, RECORDS)
    # One pass over everything that is judged; what is compared comes first in it.
    wanted = real if network.judge is not None and len(real) else compared
    expected, found = network.reference(wanted), run(wanted)
    if expected.shape != found.shape or not np.isfinite(found).all():
        raise ModelRefused(
            f"the exported graph gives {list(found.shape)}, the task {list(expected.shape)}, or not all outputs are finite; "
            "this model cannot be handed over"
        )
    one, other = (np.asarray(part[: len(compared)], dtype=np.float64) for part in (expected, found))
    apart = np.abs(one - other)
    largest = float(np.abs(one).max(initial=0.0))
    allowed = TOLERANCE * max(1.0, largest)
    sides = [decided(part, network.classes, network.threshold) for part in (one, other)]
    same = None if sides[0] is None or sides[1] is None else float((sides[0] == sides[1]).mean())
    before, after = ({}, {}) if network.judge is None else (dict(network.judge(part)) for part in (expected, found))
    size = len(graph) if stored is None else stored
    within = float(apart.max(initial=0.0)) <= allowed and same in (None, 1.0)
    parity = Parity(
        records=len(compared) if len(real) else 0, drawn=0 if len(real) else len(compared), reference=_reference(network),
        runtime=f"onnxruntime {version('onnxruntime')}",
        max_abs=float(apart.max(initial=0.0)), mean_abs=float(apart.mean()) if apart.size else 0.0, largest=largest,
        same_decision=same, within=within, tolerance=allowed, judged=len(wanted) if before else 0, before=before, after=after,
        calibrated=calibrated, latency=_latency(run, compared), bytes=size, float_bytes=len(network.onnx),
        size_ratio=round(size / len(network.onnx), 4),
    )  # fmt: skip
    if not calibrated and parity.max_abs > allowed:
        raise ModelRefused(
            f"the graph is off by {parity.max_abs:.3g} at most on {len(compared)} records, and {allowed:.3g} is allowed; it is "
            "not handed over"
        )
    return parity


def check(network: Network, run: Graph, loose: bool = False, seed: int = 0, records: int = 8) -> tuple[Check, tuple[int, ...]]:
    """What a device compares its own outputs with before it takes a model, and the shape of the outputs of one record.

    loose: for int8, where processors round sums of products differently: a tenth of the outputs' range, else 1e-3 of it.
    Detectors take columns of any size; their check spans what the first real records span, in round powers of two.
    """
    low, high = 0.0, 1.0
    if len(network.records):
        widest = float(np.abs(network.records[:RECORDS]).max(initial=1.0))
        high = float(2 ** np.ceil(np.log2(max(1.0, widest)))) if run.dtype != "int64" else widest + 1
    made = Check(seed, records, low, high, ((0.0,),), 1.0)
    port = run.takes
    outputs = run(made.inputs(port))
    rows = outputs.reshape(len(outputs), -1).astype(np.float64)
    span = max(1.0, float(np.ptp(rows)) if rows.size else 1.0)
    tolerance = (0.1 if loose else 1e-3) * span
    told = tuple(tuple(float(value) for value in row) for row in rows)
    return msgspec.structs.replace(made, outputs=told, tolerance=tolerance), outputs.shape[1:]


def drawn(run: Graph, count: int, seed: int = 0) -> Array:
    """Records nobody has: uniform numbers, or zeros and ones where integers are taken."""
    rng, shape = stream(seed, "parity", "records"), (count, *run.shape)
    return rng.integers(0, 2, shape) if run.dtype == "int64" else rng.random(shape).astype(run.dtype)


def _reference(network: Network) -> str:
    return f"torch {version('torch')}" if network.library == "torch" else f"numpy {version('numpy')}"


def _latency(run: Graph, records: Array) -> Latency:
    records = np.resize(records, (256, *records.shape[1:]))
    run(records[:1])
    singly = sorted(_timed(run, records[at : at + 1]) for at in range(100))
    together = min(_timed(run, records) for _ in range(3))
    return Latency(round(singly[50], 4), round(singly[94], 4), round(together / 256, 4))


def _timed(run: Graph, records: Array) -> float:
    before = time.perf_counter()
    run(records)
    return 1000 * (time.perf_counter() - before)
