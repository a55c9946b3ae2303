"""HyperFL on the wire: a protobuf header, then the float32 values of phi, or of its change.

Law of an order: the length that schema, embedding, hidden and rank give, finite values, every number of the training within
`Training`. Law of an update: that length, finite values, norm at most 1000 times the plan's clip (without one: NORM_LIMIT).
"""

from edgehold.core.contract import Payload
from edgehold.core.hyper_layout import Layout
from edgehold.core.vectors import Schema, finite_norm
from edgehold.defenses.hyperfl.state import Order, Settings, Training, Update, layout_of
from edgehold.defenses.payloads import answer_in, bounded, floats_of, samples_of, seed_of, task_in, training_of
from edgehold.proto.v1.payloads_pb2 import HyperFlTask, HyperFlUpdate, TaskHeader, UpdateHeader

_WHOLE = "a hypernetwork of "


class HyperFLCodec:
    """settings: the plan's; None on a device, which decodes orders only."""

    kind = "hyperfl/1"

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings

    def encode_order(self, order: Order) -> Payload:
        """Header with shape and training, body with phi."""
        how = {name: getattr(order.training, name) for name in Training.__struct_fields__}
        header = TaskHeader(hyperfl=HyperFlTask(seed=order.seed, **how))
        return Payload(header.SerializeToString(deterministic=True), order.phi.blob)

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks. Reads the body once, block by block."""
        task = task_in(payload, "hyperfl")
        training, seed = training_of(task, Training), seed_of(task)
        phi = floats_of(payload, layout_of(schema, training).size, _WHOLE)
        finite_norm(phi)
        return Order(phi, training, seed)

    def encode_update(self, update: Update) -> Payload:
        """Header with the claimed samples, body with the change of phi."""
        header = UpdateHeader(hyperfl=HyperFlUpdate(samples=update.samples))
        return Payload(header.SerializeToString(deterministic=True), update.delta.blob)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """Exactly four bytes per number of phi."""
        needed = 4 * self._layout(schema).size
        return needed, needed

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks. Reads the body once, block by block."""
        answer = answer_in(payload, "hyperfl")
        samples = samples_of(answer)
        delta = floats_of(payload, self._layout(schema).size, _WHOLE)
        return Update(delta, samples, bounded(delta, self._settings.clip_norm if self._settings else None))

    def _layout(self, schema: Schema) -> Layout:
        assert self._settings is not None, "a device decodes no updates"
        return layout_of(schema, self._settings)


def codec(settings: Settings | None = None) -> HyperFLCodec:
    """The codec."""
    return HyperFLCodec(settings)
