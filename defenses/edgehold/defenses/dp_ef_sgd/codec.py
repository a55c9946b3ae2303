"""DP-EF SGD on the wire: a protobuf header, then float32 values. Nothing but the noisy change of the model ever travels up.

Law of an order: the schema's length, finite values, settings within `Training` that some accountant can certify. Law of an
update: the schema's length, finite values, norm at most 1000 times the plan's clip (without one: FedAvg's limit).
"""

from edgehold.core.contract import Payload
from edgehold.core.errors import ConfigError, OutsideLaw
from edgehold.core.vectors import Schema, finite_norm
from edgehold.defenses.dp_ef_sgd.state import Order, Settings, Training, Update
from edgehold.defenses.payloads import answer_in, bounded, floats_of, seed_of, task_in, training_of
from edgehold.proto.v1.payloads_pb2 import DpEfSgdTask, DpEfSgdUpdate, TaskHeader, UpdateHeader


class DpEfSgdCodec:
    """settings: the plan's, or None on a device, where no update is decoded."""

    kind = "dp_ef_sgd/1"

    def __init__(self, settings: Settings | None = None) -> None:
        self._clip = settings.clip_norm if settings else None

    def encode_order(self, order: Order) -> Payload:
        """Header with the training, body with the model."""
        how = {name: getattr(order.training, name) for name in Training.__struct_fields__}
        header = TaskHeader(dp_ef_sgd=DpEfSgdTask(seed=order.seed, **how))
        return Payload(header.SerializeToString(deterministic=True), order.model.blob)

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks. Reads the body once, block by block."""
        task = task_in(payload, "dp_ef_sgd")
        training, seed = training_of(task, Training), seed_of(task)
        try:
            training.must_be_sound()
        except ConfigError as error:
            raise OutsideLaw(error.message) from None
        model = floats_of(payload, schema.size)
        finite_norm(model)
        return Order(model, training, seed)

    def encode_update(self, update: Update) -> Payload:
        """Header without fields, body with the change."""
        header = UpdateHeader(dp_ef_sgd=DpEfSgdUpdate())
        return Payload(header.SerializeToString(deterministic=True), update.delta.blob)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """Exactly four bytes per value."""
        return 4 * schema.size, 4 * schema.size

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks. Reads the body once, block by block."""
        answer_in(payload, "dp_ef_sgd")
        delta = floats_of(payload, schema.size)
        return Update(delta, bounded(delta, self._clip))


def codec(settings: Settings | None = None) -> DpEfSgdCodec:
    """The codec."""
    return DpEfSgdCodec(settings)
