"""FRL on the wire: a protobuf header, then the packed rankings of all layers. Decoding enforces the law on both sides.

Law of orders and updates: one permutation per layer of the schema, exactly as many bytes as that takes, filling bits zero;
in an order also every number of the training within `Training`.
"""

from edgehold.core.config import convert
from edgehold.core.contract import HEADER_LIMIT, Payload
from edgehold.core.errors import ConfigError, NotPermutation, OutsideLaw, WrongShape
from edgehold.core.vectors import Schema
from edgehold.defenses.frl.packing import PackedRankings, packed, packed_bytes
from edgehold.defenses.frl.state import ROUND_LIMIT, SEED_LIMIT, Order, Settings, Training, Update, layers
from edgehold.proto.strict import decode
from edgehold.proto.v1.payloads_pb2 import FrlTask, FrlUpdate, TaskHeader, UpdateHeader


class FrlCodec:
    """The same for every plan."""

    kind = "frl/1"

    def encode_order(self, order: Order) -> Payload:
        """Header with the training, body with the global order."""
        how = {name: getattr(order.training, name) for name in Training.__struct_fields__}
        header = TaskHeader(frl=FrlTask(seed=order.seed, round=order.round, **how))
        return Payload(header.SerializeToString(deterministic=True), packed(order.rankings))

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks."""
        header = decode(TaskHeader, payload.header, HEADER_LIMIT)
        if header.WhichOneof("method") != "frl":
            raise WrongShape(f"task header for {header.WhichOneof('method')}; expected frl")
        task = header.frl
        try:
            training = convert({name: getattr(task, name) for name in Training.__struct_fields__}, Training, "order")
        except ConfigError as error:
            raise OutsideLaw(error.message) from None
        if task.seed >= SEED_LIMIT:
            raise OutsideLaw(f"seed {task.seed}; it must be below 2^63")
        if not 1 <= task.round <= ROUND_LIMIT:
            raise OutsideLaw(f"round {task.round}; allowed: 1 to {ROUND_LIMIT}")
        return Order(task.seed, task.round, _rankings(payload, schema), training)

    def encode_update(self, update: Update) -> Payload:
        """Header without fields, body with the rankings."""
        header = UpdateHeader(frl=FrlUpdate())
        return Payload(header.SerializeToString(deterministic=True), packed(update.rankings))

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """Exactly ceil(log2 n) bits per edge, whole bytes per layer."""
        needed = sum(packed_bytes(layer.edges) for layer in layers(schema))
        return needed, needed

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks. Reads the body once, layer by layer."""
        header = decode(UpdateHeader, payload.header, HEADER_LIMIT)
        if header.WhichOneof("method") != "frl":
            raise WrongShape(f"update header for {header.WhichOneof('method')}; expected frl")
        return Update(_rankings(payload, schema))


def _rankings(payload: Payload, schema: Schema) -> PackedRankings:
    """Checked here, unpacked again when used: packed rankings may lie in a file, unpacked ones fill the memory."""
    found = layers(schema)
    rankings = PackedRankings(payload.body, tuple(layer.edges for layer in found))
    for number, layer in enumerate(found):
        try:
            rankings[number]
        except NotPermutation as error:
            raise NotPermutation(f"{layer.name}: {error.message}") from None
        except WrongShape as error:
            raise WrongShape(f"{layer.name}: {error.message}") from None
    return rankings


def codec(settings: Settings | None = None) -> FrlCodec:
    """The codec."""
    return FrlCodec()
