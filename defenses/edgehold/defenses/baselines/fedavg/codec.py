"""FedAvg on the wire: a protobuf header, then float32 values. Decoding enforces the law on both sides.

Law of an order: the schema's length, finite values, every number of the training within `Training`, momentum in [0, 1).
Law of an update: the schema's length, finite values, norm at most 1000 times the plan's clip (without one: NORM_LIMIT).
"""

from edgehold.core.contract import Payload
from edgehold.core.errors import OutsideLaw
from edgehold.core.vectors import Schema, finite_norm
from edgehold.defenses.baselines.fedavg.state import Order, Settings, Training, Update
from edgehold.defenses.payloads import answer_in, bounded, floats_of, samples_of, seed_of, task_in, training_of
from edgehold.proto.v1.payloads_pb2 import FedAvgTask, FedAvgUpdate, TaskHeader, UpdateHeader


class FedAvgCodec:
    """settings: the plan's, or None on a device, where no update is decoded."""

    kind = "fedavg/1"

    def __init__(self, settings: Settings | None = None) -> None:
        self._clip = settings.clip_norm if settings else None

    def encode_order(self, order: Order) -> Payload:
        """Header with the training, body with the model."""
        how = order.training
        task = FedAvgTask(
            local_epochs=how.local_epochs,
            batch_size=how.batch_size,
            learning_rate=how.learning_rate,
            momentum=how.momentum,
            weight_decay=how.weight_decay,
            proximal=how.proximal,
            seed=order.seed,
            client_momentum=order.client_momentum,
            local_steps=how.local_steps,
        )
        return Payload(TaskHeader(fedavg=task).SerializeToString(deterministic=True), order.model.blob)

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks. Reads the body once, block by block."""
        task = task_in(payload, "fedavg")
        training, seed = training_of(task, Training), seed_of(task)
        if not 0.0 <= task.client_momentum < 1.0:
            raise OutsideLaw(f"client momentum {task.client_momentum}; it must be at least 0 and below 1")
        model = floats_of(payload, schema.size)
        finite_norm(model)
        return Order(model, training, seed, task.client_momentum)

    def encode_update(self, update: Update) -> Payload:
        """Header with the claimed samples, body with the change."""
        header = UpdateHeader(fedavg=FedAvgUpdate(samples=update.samples))
        return Payload(header.SerializeToString(deterministic=True), update.delta.blob)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """Exactly four bytes per value."""
        return 4 * schema.size, 4 * schema.size

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks. Reads the body once, block by block."""
        answer = answer_in(payload, "fedavg")
        samples = samples_of(answer)
        delta = floats_of(payload, schema.size)
        return Update(delta, samples, bounded(delta, self._clip))


def codec(settings: Settings | None = None) -> FedAvgCodec:
    """The codec."""
    return FedAvgCodec(settings)
