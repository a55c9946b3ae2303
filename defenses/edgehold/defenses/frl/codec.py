"""FRL on the wire: a protobuf header, then the ranks of all layers. Decoding enforces the law on both sides.

Law of orders and updates: one permutation per layer of the schema (or so many different edges as must be named), in the forms
that the header says and no others, in exactly as many bytes as those take; in an update the forms of the plan; in an order also
every number of the training within `Training`.
"""

from collections.abc import Sequence

from edgehold.core.contract import Payload
from edgehold.core.errors import OutsideLaw, WrongShape
from edgehold.core.vectors import Schema
from edgehold.defenses.frl.coding import entropy_coded
from edgehold.defenses.frl.forms import EncodedRanks, encoded, forms_of
from edgehold.defenses.frl.state import Order, Settings, Training, Update
from edgehold.defenses.layers import layers_of
from edgehold.defenses.payloads import answer_in, round_of, seed_of, task_in, training_of
from edgehold.proto.v1.payloads_pb2 import FrlTask, FrlUpdate, TaskHeader, UpdateHeader


class FrlCodec:
    """settings: the plan's; None on a device, which decodes orders and answers in the forms they ask for."""

    kind = "frl/2"

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()

    def encode_order(self, order: Order) -> Payload:
        """Header with the training and the forms, body with the global ranks."""
        how = {name: getattr(order.training, name) for name in Training.__struct_fields__}
        task = FrlTask(seed=order.seed, round=order.round, entropy=order.entropy, top=order.top, **how)
        header = TaskHeader(frl=task)
        return Payload(header.SerializeToString(deterministic=True), encoded(order.ranks, forms_of(order.entropy)))

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks."""
        task = task_in(payload, "frl")
        training, seed, number = training_of(task, Training), seed_of(task), round_of(task)
        if not 0.0 < task.top <= 1.0:
            raise OutsideLaw(f"top {task.top}; a share above 0 and at most 1 of the edges can be named")
        ranks = _ranks(payload, schema, task.entropy, 1.0)
        return Order(seed, number, ranks, training, tuple(task.entropy), task.top)

    def encode_update(self, update: Update) -> Payload:
        """Header with the forms, body with the ranks."""
        header = UpdateHeader(frl=FrlUpdate(entropy=update.entropy, top=update.top))
        body = encoded(update.ranks, forms_of(update.entropy, update.top))
        return Payload(header.SerializeToString(deterministic=True), body)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """The bytes that the plan's forms take, no less and no more."""
        edges = [layer.edges for layer in layers_of(schema, "FRL")]
        forms = forms_of(entropy_coded(self._settings, edges), self._settings.share)
        needed = sum(form.size(count) for form, count in zip(forms, edges, strict=True))
        return needed, needed

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks. Reads the body once, layer by layer."""
        answer = answer_in(payload, "frl")
        said = tuple(answer.entropy), answer.top
        asked = entropy_coded(self._settings, [layer.edges for layer in layers_of(schema, "FRL")]), self._settings.share
        if said != asked:
            raise OutsideLaw(
                f"ranks with entropy-coded layers {_places(said[0])} and a share of {said[1]:g} of the edges; this run takes "
                f"{_places(asked[0])} and {asked[1]:g}"
            )
        return Update(_ranks(payload, schema, *asked), *asked)


def _ranks(payload: Payload, schema: Schema, entropy: Sequence[bool], top: float) -> EncodedRanks:
    """Checked here, decoded again when used: encoded ranks may lie in a file, decoded ones fill the memory."""
    found = layers_of(schema, "FRL")
    if len(entropy) != len(found):
        raise WrongShape(f"forms of {len(entropy)} layers; the model has {len(found)}")
    ranks = EncodedRanks(payload.body, tuple(layer.edges for layer in found), forms_of(entropy, top))
    ranks.check([layer.name for layer in found])
    return ranks


def _places(coded: Sequence[bool]) -> list[int]:
    return [number for number, one in enumerate(coded) if one]


def codec(settings: Settings | None = None) -> FrlCodec:
    """The codec. settings: None on a device."""
    return FrlCodec(settings)
