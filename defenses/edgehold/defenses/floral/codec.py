"""FLORAL on the wire: a protobuf header, then the float32 values of a head.

Law of an order: the schema's length, finite values, every number of the training within `Training`, and the features that the
schema names. Law of an update: that length, finite values, norm at most 1000 times the plan's clip (without one: NORM_LIMIT).
"""

from edgehold.core.contract import Payload
from edgehold.core.errors import ConfigError, OutsideLaw
from edgehold.core.vectors import Schema, finite_norm
from edgehold.defenses.floral.features import head_of
from edgehold.defenses.floral.state import Order, Settings, Training, Update, agree
from edgehold.defenses.payloads import answer_in, bounded, floats_of, samples_of, seed_of, task_in, training_of
from edgehold.proto.v1.payloads_pb2 import FloralTask, FloralUpdate, TaskHeader, UpdateHeader


class FloralCodec:
    """settings: the plan's; None on a device, which decodes orders only."""

    kind = "floral/1"

    def __init__(self, settings: Settings | None) -> None:
        self._clip = settings.clip_norm if settings else None

    def encode_order(self, order: Order) -> Payload:
        """Header with features and game, body with the head."""
        how = {name: getattr(order.training, name) for name in Training.__struct_fields__}
        header = TaskHeader(floral=FloralTask(seed=order.seed, **how))
        return Payload(header.SerializeToString(deterministic=True), order.head.blob)

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks."""
        task = task_in(payload, "floral")
        training, seed = training_of(task, Training), seed_of(task)
        try:
            training.sound()
            agree(training, head_of(schema), "this side")
        except ConfigError as error:
            raise OutsideLaw(error.message) from None
        head = floats_of(payload, schema.size, _whole(schema))
        finite_norm(head)
        return Order(head, training, seed)

    def encode_update(self, update: Update) -> Payload:
        """Header with the claimed samples, body with the head."""
        header = UpdateHeader(floral=FloralUpdate(samples=update.samples))
        return Payload(header.SerializeToString(deterministic=True), update.delta.blob)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """Exactly 4 (m + 1) outputs."""
        return 4 * schema.size, 4 * schema.size

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks."""
        answer = answer_in(payload, "floral")
        samples = samples_of(answer)
        head = floats_of(payload, schema.size, _whole(schema))
        return Update(head, samples, bounded(head, self._clip))


def _whole(schema: Schema) -> str:
    head = head_of(schema)
    return f"a head of {head.count} features and a bias for each of {head.outputs} outputs, "


def codec(settings: Settings | None = None) -> FloralCodec:
    """The codec."""
    return FloralCodec(settings)
