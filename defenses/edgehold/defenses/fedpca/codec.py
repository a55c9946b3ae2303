"""FedPCA on the wire: a protobuf header, then the numbers of the phase. Decoding enforces the law on both sides.

Law of a basis: the schema's size, finite values, and columns that are orthonormal within `ORTHONORMAL`; in FedPE, where they
need not be, a norm of at most `norm_limit`. Law of moments: finite values below `VALUE_LIMIT`, squares that such sums can have.
Law of a histogram: counts that add up to the claimed records. Means finite, widths above 0, settings within `Training`.
"""

import numpy as np

from edgehold.core.anomaly import Reading, shape_of
from edgehold.core.contract import Payload
from edgehold.core.errors import ConfigError, NotFinite, NotOrthonormal, OutsideLaw, WrongShape
from edgehold.core.vectors import Array, FloatArray, Schema, Vector, finite_norm
from edgehold.defenses.fedpca.state import (
    ORTHONORMAL,
    PHASES,
    VALUE_LIMIT,
    Basis,
    Histogram,
    Moments,
    Order,
    Settings,
    Training,
    Update,
    norm_limit,
)
from edgehold.defenses.fedpca.subspace import error
from edgehold.defenses.payloads import answer_in, round_of, samples_of, seed_of, task_in, training_of
from edgehold.proto.v1.payloads_pb2 import FedPcaTask, FedPcaUpdate, TaskHeader, UpdateHeader


class FedPcaCodec:
    """settings: the plan's; None on a device, which decodes orders only."""

    kind = "fedpca/1"

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings

    def encode_order(self, order: Order) -> Payload:
        """Header with settings and reading; body: means, widths and basis, those that there are."""
        how = {name: getattr(order.training, name) for name in Training.__struct_fields__}
        reading = order.reading
        task = FedPcaTask(
            seed=order.seed, round=order.round, phase=order.phase, bins=order.bins, statistics=order.mean is not None,
            curve=reading.curve, clip=reading.clip, columns=reading.columns, **how,
        )  # fmt: skip
        parts = [part.reshape(-1) for part in (order.mean, order.width, order.basis) if part is not None]
        body = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
        return Payload(TaskHeader(fedpca=task).SerializeToString(deterministic=True), Vector.of(body.astype("<f4")).blob)

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks."""
        task = task_in(payload, "fedpca")
        task, (d, k) = task, shape_of(schema)
        training, seed, number, phase = training_of(task, Training), seed_of(task), round_of(task), _phase(task.phase)
        if not 8 <= task.bins <= 65_536:
            raise OutsideLaw(f"{task.bins} bins; allowed: 8 to 65536")
        if task.columns >> 48:
            raise OutsideLaw(f"a digest of the columns of {task.columns.bit_length()} bits; it has at most 48")
        try:
            reading = Reading(task.curve, task.clip, task.columns)
        except ConfigError as wrong:
            raise OutsideLaw(wrong.message) from None
        if task.statistics != {"standardise": False, "threshold": True}.get(phase, task.statistics):
            raise OutsideLaw(f"an order to {phase} {'with' if task.statistics else 'without'} means and widths")
        sizes = [d, d] * task.statistics + [d * k] * (phase != "standardise")
        values = _floats(payload, sum(sizes), f"{phase}: {d} columns, {k} components")
        mean, width = (values[:d], values[d : 2 * d]) if task.statistics else (None, None)
        if width is not None and not (width > 0).all():
            at = int(np.flatnonzero(~(width > 0))[0])
            raise OutsideLaw(f"width {width[at]} of column {at}; every width must be above 0")
        basis = None
        if phase != "standardise":
            basis = _basis(values[-d * k :].reshape(d, k), training.mode)
        return Order(seed, number, phase, training, reading, task.bins, mean, width, basis)

    def encode_update(self, update: Update) -> Payload:
        """Header with the claimed records; body: sums and squares, or the basis, or the counts."""
        match update:
            case Moments():
                phase, body = "standardise", np.concatenate([update.sums, update.squares]).astype("<f8")
            case Basis():
                phase, body = "subspace", update.basis.astype("<f4")
            case Histogram():
                phase, body = "threshold", update.counts.astype("<u4")
        fresh = isinstance(update, Basis) and update.fresh
        header = UpdateHeader(fedpca=FedPcaUpdate(phase=phase, samples=update.samples, fresh=fresh))
        return Payload(header.SerializeToString(deterministic=True), Vector.of(body).blob)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """16 d, 4 d k or 4 per bin, by phase."""
        assert self._settings is not None, "a device decodes no updates"
        d, k = shape_of(schema)
        sizes = (16 * d, 4 * d * k, 4 * self._settings.bins)
        return min(sizes), max(sizes)

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks."""
        assert self._settings is not None, "a device decodes no updates"
        answer = answer_in(payload, "fedpca")
        said, (d, k) = answer, shape_of(schema)
        phase, samples = _phase(said.phase), samples_of(said)
        if said.fresh and phase != "subspace":
            raise OutsideLaw(f"an answer to {phase} that says it is fresh; only a basis can be")
        if phase == "standardise":
            return _moments(samples, _numbers(payload, "<f8", 2 * d, f"sums and squares of {d} columns"))
        if phase == "threshold":
            counts = _numbers(payload, "<u4", self._settings.bins, f"a histogram of {self._settings.bins} bins")
            if int(counts.sum(dtype=np.uint64)) != samples:
                raise OutsideLaw(f"counts that add up to {int(counts.sum(dtype=np.uint64))}; {samples} records are claimed")
            return Histogram(samples, counts)
        values = _floats(payload, d * k, f"a basis of {d} x {k}").reshape(d, k)
        return Basis(samples, said.fresh, _basis(values, self._settings.mode))


def _phase(name: str) -> str:
    if name not in PHASES:
        raise OutsideLaw(f"phase {name[:40]!r}; allowed: {', '.join(PHASES)}")
    return name


def _numbers(payload: Payload, dtype: str, count: int, what: str) -> Array:
    needed = count * np.dtype(dtype).itemsize
    if payload.body.size != needed:
        raise WrongShape(f"body of {payload.body.size} bytes; {what} takes {needed}")
    return Vector(payload.body, dtype).whole()


def _floats(payload: Payload, count: int, what: str) -> FloatArray:
    values = _numbers(payload, "<f4", count, what)
    finite_norm(Vector(payload.body))
    return values


def _basis(values: FloatArray, mode: str) -> FloatArray:
    wide = values.astype(np.float64)
    if mode == "fedpe":
        norm, limit = float(np.linalg.norm(wide)), norm_limit(values.shape[1])
        if norm > limit:
            raise OutsideLaw(f"a basis of norm {norm:.6g}; at most {limit:.6g} is admitted")
        return values
    off = error(wide)
    if not off <= ORTHONORMAL:
        raise NotOrthonormal(
            f"columns whose products differ from those of orthonormal ones by {off:.3g}; at most {ORTHONORMAL:g}"
        )
    return values


def _moments(samples: int, values: Array) -> Moments:
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise NotFinite(f"value {at} is {values[at]}; every value must be finite")
    if np.abs(values).max() > VALUE_LIMIT:
        raise OutsideLaw(f"a sum of {np.abs(values).max():.6g}; at most {VALUE_LIMIT:g} is admitted")
    sums, squares = values[: len(values) // 2], values[len(values) // 2 :]
    # (sum x)^2 <= n sum x^2 for any n numbers; the last digits of either may be lost.
    short = squares * (1 + 1e-9) < sums * sums / samples
    if short.any():
        at = int(np.flatnonzero(short)[0])
        raise OutsideLaw(f"column {at}: no {samples} numbers add up to {sums[at]:.6g} with squares of {squares[at]:.6g}")
    return Moments(samples, sums, squares)


def codec(settings: Settings | None = None) -> FedPcaCodec:
    """The codec."""
    return FedPcaCodec(settings)
