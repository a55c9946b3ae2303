"""HideNseek on the wire: a protobuf header; mask and votes as the body of an order, sign bits as that of an update.

Law: exactly as many bytes as mask, votes or signs take, filling bits zero; in an order as many weights left as the header
says, no count above the number of voters, and every number of the training within `Training`.
"""

from edgehold.core.contract import Payload
from edgehold.core.errors import OutsideLaw, WrongShape
from edgehold.core.vectors import Bytes, Schema, Vector
from edgehold.defenses.hidenseek.packing import read, unpack_bits, write
from edgehold.defenses.hidenseek.state import (
    VOTERS_LIMIT,
    Order,
    Settings,
    Training,
    Update,
    kept_weights,
)
from edgehold.defenses.packing import packed_bytes
from edgehold.defenses.payloads import answer_in, round_of, seed_of, task_in, training_of
from edgehold.proto.v1.payloads_pb2 import HideNseekTask, HideNseekUpdate, TaskHeader, UpdateHeader


class HideNseekCodec:
    """settings: the plan's; None on a device, which decodes orders only."""

    kind = "hidenseek/1"

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings

    def encode_order(self, order: Order) -> Payload:
        """Header with the training, body with mask and votes."""
        how = {name: getattr(order.training, name) for name in Training.__struct_fields__}
        task = HideNseekTask(seed=order.seed, round=order.round, kept=int(order.mask.sum()), voters=order.voters, **how)
        body = b"".join(part.tobytes() for part in write(order.mask, order.counts, order.voters))
        return Payload(TaskHeader(hidenseek=task).SerializeToString(deterministic=True), Bytes(body))

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks."""
        task = task_in(payload, "hidenseek")
        training, seed, number = training_of(task, Training), seed_of(task), round_of(task)
        if not 1 <= task.kept <= schema.size:
            raise OutsideLaw(f"{task.kept} weights left; allowed: 1 to {schema.size}")
        if task.voters >= VOTERS_LIMIT:
            raise OutsideLaw(f"{task.voters} voters; allowed: at most {VOTERS_LIMIT - 1}")
        mask, counts = read(payload.body, schema.size, task.kept, task.voters)
        return Order(seed, number, mask, task.voters, counts, training)

    def encode_update(self, update: Update) -> Payload:
        """Header without fields, body with the bits."""
        header = UpdateHeader(hidenseek=HideNseekUpdate())
        return Payload(header.SerializeToString(deterministic=True), update.bits.blob)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """Exactly ceil(K / 8)."""
        needed = packed_bytes(self._kept(schema), 1)
        return needed, needed

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks."""
        answer_in(payload, "hidenseek")
        kept = self._kept(schema)
        if payload.body.size != packed_bytes(kept, 1):
            raise WrongShape(f"signs of {payload.body.size} bytes; {kept} weights left need {packed_bytes(kept, 1)}")
        unpack_bits(payload.body, 0, kept, "signs")
        return Update(Vector(payload.body, "u1"))

    def _kept(self, schema: Schema) -> int:
        assert self._settings is not None, "a device decodes no updates"
        return kept_weights(self._settings.keep, schema)


def codec(settings: Settings | None = None) -> HideNseekCodec:
    """The codec."""
    return HideNseekCodec(settings)
