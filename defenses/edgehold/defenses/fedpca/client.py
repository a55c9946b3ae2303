"""FedPCA on the device: sums of its columns, then its own basis near everybody's, then how its normal records score."""

import weakref

import numpy as np

from edgehold.core.anomaly import Detector, Doubles, orthonormal, shape_of
from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.tables import Records, TableTask, table_of, train_records
from edgehold.core.task import Task
from edgehold.core.vectors import FloatArray
from edgehold.defenses.fedpca import subspace
from edgehold.defenses.fedpca.state import Basis, Histogram, Local, Moments, Order, Update, edges

_NAME = "FedPCA"


class FedPcaClient:
    """Keeps basis and dual between rounds. What it remembers beside them (S of a task) can be worked out again."""

    def __init__(self) -> None:
        self._moments: weakref.WeakKeyDictionary[TableTask, tuple[bytes, Doubles, float]] = weakref.WeakKeyDictionary()

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> Local:
        """Nothing yet."""
        return Local()

    def work(self, order: Order, local: Local, task: Task, rng: np.random.Generator) -> tuple[Local, Update, Facts]:
        """The answer to the order's phase.

        `ConfigError` when the task is no table of records, lacks the records that the phase needs, has a value that is not
        finite (column and row are named) or other columns than the model; or when means and widths were lost.
        """
        table = table_of(task, _NAME)
        if order.phase == "standardise":
            return local, _sums(order, _checked(order, table, train_records(task, _NAME))), {}
        if order.phase == "threshold":
            if table.held_data is None:
                raise ConfigError(
                    f"{_NAME}: this task holds no records back, and only those show where alarms begin; set held_share above 0",
                    field="held_share",
                )
            return local, _scored(order, _checked(order, table, table.held_data.checked("held-out records"))), {}
        return self._fitted(order, local, table, _checked(order, table, train_records(task, _NAME)))

    def _fitted(self, order: Order, local: Local, table: TableTask, records: Records) -> tuple[Local, Update, Facts]:
        assert order.basis is not None
        mean, width = (local.mean, local.width) if order.mean is None else (order.mean, order.width)
        if mean is None or width is None:
            raise ConfigError(
                "this device no longer has the run's means and widths, and this order does not bring them; it can take part "
                "again once the threshold is looked for, or in the next run"
            )
        s, step = self._moment(order, table, records, mean, width)
        how, z = order.training, order.basis.astype(np.float64)
        rho, eta = how.rho, how.learning_rate or step
        fresh = local.basis is None or local.dual is None or local.basis.shape != z.shape
        y, t, own = np.zeros_like(z), np.zeros((z.shape[1], z.shape[1])), z
        if not fresh:
            assert local.basis is not None and local.dual is not None  # noqa: PT018 - told apart above
            own = local.basis.astype(np.float64)
            y = local.dual + own - z
            if local.constraint is not None and local.constraint.shape == t.shape:
                t = local.constraint + rho * subspace.excess(own)
        start = z if how.mode == "fedpg" else own
        if how.mode == "fedpe":
            u = subspace.fedpe(s, start, z, y, t, rho, eta, how.local_steps)
        else:
            # What travelled in float32 is orthonormal to 1e-7 only.
            u = subspace.fedpg(s, orthonormal(start)[0], z, y, rho, eta, how.local_steps)
        # Steps that blew up give infinities here; the law refuses them at the other end, where it is counted.
        with np.errstate(over="ignore", invalid="ignore"):
            basis = u.astype(np.float32)
        kept = Local(mean, width, basis, y, t if how.mode == "fedpe" else None)
        return kept, Basis(len(records), fresh, basis), {}

    def _moment(
        self, order: Order, table: TableTask, records: Records, mean: FloatArray, width: FloatArray
    ) -> tuple[Doubles, float]:
        """S of the device's standard records and the step for it: one pass over the records for each means and widths."""
        key = order.reading.values().tobytes() + mean.tobytes() + width.tobytes() + np.float64(order.training.rho).tobytes()
        known = self._moments.get(table)
        if known is None or known[0] != key:
            s = subspace.second_moment(order.reading.standard(records.x, mean, width))
            known = self._moments[table] = (key, s, subspace.step_size(s, order.training.rho))
        return known[1], known[2]

    def dump(self, local: Local) -> bytes:
        """d, k and whether there is a T in 4 bytes each, then the arrays; little-endian. Nothing before the first basis."""
        if local.basis is None or local.dual is None or local.mean is None or local.width is None:
            return b""
        d, k = local.basis.shape
        head = np.array([d, k, local.constraint is not None], dtype="<u4").tobytes()
        parts = [one.astype("<f4").tobytes() for one in (local.mean, local.width, local.basis)]
        parts += [one.astype("<f8").tobytes() for one in (local.dual, local.constraint) if one is not None]
        return head + b"".join(parts)

    def load(self, data: bytes) -> Local:
        """Inverse of `dump`."""
        if not data:
            return Local()
        d, k, more = (int(n) for n in np.frombuffer(data[:12].ljust(12, b"\0"), dtype="<u4"))
        single, double = 2 * d + d * k, d * k + k * k * (more == 1)
        if not d or not k or more > 1 or len(data) != 12 + 4 * single + 8 * double:
            raise WrongShape(f"local state of {len(data)} bytes; {_NAME} keeps {12 + 4 * single + 8 * double} for {d} x {k}")
        small = np.frombuffer(data, dtype="<f4", count=single, offset=12)
        large = np.frombuffer(data[12 + 4 * single :], dtype="<f8")
        constraint = large[d * k :].reshape(k, k) if more else None
        return Local(small[:d], small[d : 2 * d], small[2 * d :].reshape(d, k), large[: d * k].reshape(d, k), constraint)


def _checked(order: Order, table: TableTask, records: Records) -> Records:
    columns, _ = shape_of(table.schema)
    if records.x.shape[1] != columns:
        raise ConfigError(f"{_NAME}: records of {records.x.shape[1]} columns; this task's model has {columns}")
    order.reading.check(records.features, "this device's task")
    return records


def _sums(order: Order, records: Records) -> Moments:
    curved = order.reading.curved(records.x)
    return Moments(len(records), curved.sum(axis=0), np.einsum("ij,ij->j", curved, curved))


def _scored(order: Order, records: Records) -> Histogram:
    assert order.mean is not None and order.width is not None and order.basis is not None  # noqa: PT018 - the codec's law
    basis, _ = orthonormal(order.basis.astype(np.float64))
    scores = Detector(order.mean, order.width, basis, 0.0, order.reading).scores(records.x)
    place = np.searchsorted(edges(order.bins), scores, side="right")
    return Histogram(len(records), np.bincount(place, minlength=order.bins).astype("<u4"))


def client_side() -> FedPcaClient:
    """The device half."""
    return FedPcaClient()
