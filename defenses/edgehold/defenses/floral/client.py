"""FLORAL on the device: play the game over the device's own labels, send the head that comes out of it."""

import numpy as np

from edgehold.core.contract import Facts
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.tables import Records, train_records
from edgehold.core.task import Task
from edgehold.core.vectors import Vector
from edgehold.defenses.floral.features import Head, head_of
from edgehold.defenses.floral.game import Classes, play
from edgehold.defenses.floral.kernels import FeatureKernel
from edgehold.defenses.floral.state import Local, Order, Update, agree
from edgehold.defenses.floral.task import KernelTask, predicted, scores_of

_KEY, _PLAYED = 16, 8


class FloralClient:
    """Keeps its dual weights, and goes on with its game from round to round of a run."""

    def begin(self, order: Order, task: Task, rng: np.random.Generator) -> Local:
        """Nothing played. The key of the device's attacker is drawn from the run's stream."""
        return Local(np.frombuffer(rng.bytes(_KEY), dtype="<u8").astype(np.uint64), 0, np.zeros((0, 0)))

    def work(self, order: Order, local: Local, task: Task, rng: np.random.Generator) -> tuple[Local, Update, Facts]:
        """The next `plays` rounds of the game; the game starts anew where the number of records has changed.

        Sent is w_g + Phi'(weights) and b_g + bias, w_g and b_g 0 unless the order is coupled. Facts: the new head on the
        device's own test records, and how many of its training labels that head contradicts.

        `ConfigError` when the task is no `KernelTask`, has no records, labels outside its classes, or other features than the
        order.
        """
        if not isinstance(task, KernelTask):
            raise ConfigError(f"FLORAL needs a KernelTask (records and public features); this is a {type(task).__name__}")
        how, head, records = order.training, head_of(task.schema), train_records(task, "FLORAL")
        agree(how, head, "this device's task")
        if order.head.size != task.schema.size:
            raise WrongShape(f"the order's head has {order.head.size} values; this device's has {task.schema.size}")
        labels = _classes(records, head)
        phi = task.features(records.x)
        received = order.head.whole().reshape(-1, head.outputs).astype(np.float64)
        coupled = how.mode == "coupled"
        base = phi @ received[:-1] + received[-1] if coupled else None
        same = local.signed.shape == (len(labels), head.outputs)
        played = local.played if same else 0
        result = play(
            FeatureKernel(phi),
            labels,
            head.outputs,
            how.rules(len(labels)),
            lambda number: np.random.Generator(np.random.Philox(key=local.key, counter=[0, 0, 0, number])),
            local.signed if same else None,
            played,
            base,
        )
        made = np.vstack([phi.T @ result.weights, result.bias])
        flat = (received + made if coupled else made).astype(np.float32).reshape(-1)
        facts = {"labels_contradicted": float((predicted(scores_of(phi, flat, head.outputs)) != labels).mean())}
        scores = task.evaluate(flat)
        if "accuracy" in scores:
            facts["own_accuracy"] = scores["accuracy"]
        return Local(local.key, played + how.plays, result.last), Update(Vector.of(flat), len(labels)), facts

    def dump(self, local: Local) -> bytes:
        """Key, rounds played in 8 bytes, number of outputs in 4, then the signed dual weights; little-endian."""
        numbers = int(local.signed.shape[1]).to_bytes(4, "little") + local.signed.astype("<f8").tobytes()
        return local.key.astype("<u8").tobytes() + local.played.to_bytes(_PLAYED, "little") + numbers

    def load(self, data: bytes) -> Local:
        """Inverse of `dump`."""
        at = _KEY + _PLAYED
        outputs = int.from_bytes(data[at : at + 4], "little")
        if len(data) < at + 4 or (len(data) - at - 4) % (8 * max(1, outputs)):
            raise WrongShape(f"local state of {len(data)} bytes; FLORAL keeps {at + 4} and 8 per record and output")
        signed = np.frombuffer(data, dtype="<f8", offset=at + 4).reshape(-1, outputs) if outputs else np.zeros((0, 0))
        key = np.frombuffer(data[:_KEY], dtype="<u8").astype(np.uint64)
        return Local(key, int.from_bytes(data[_KEY:at], "little"), signed)


def _classes(records: Records, head: Head) -> Classes:
    """(n,) int64 labels; `ConfigError` where there are none, or others than the head has."""
    labels = np.asarray(records.y)
    if not len(labels):
        raise ConfigError("FLORAL learns from labels; these training records have none")
    if labels.dtype.kind not in "iu":
        raise ConfigError(f"FLORAL separates classes; these training records have targets of {labels.dtype}")
    wrong = np.flatnonzero((labels < 0) | (labels >= head.classes))
    if len(wrong):
        raise ConfigError(
            f"training record {wrong[0] + 1} is of class {labels[wrong[0]]}; this head has {head.classes} classes, counted "
            "from 0: its task was made for other data"
        )
    return labels.astype(np.int64)


def client_side() -> FloralClient:
    """The device half."""
    return FloralClient()
