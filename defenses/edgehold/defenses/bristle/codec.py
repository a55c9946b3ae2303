"""Bristle on the wire: a protobuf header; listing and sketches as the body of an order, a head as that of an update.

Law of an order: senders in ascending order, each with a digest, nobody in the first round, a sketch for each, finite, and every
number of the training within `Training`. Law of an update: d x C finite values whose norm stays inside float32, a round, and a
digest of what was seen. Devices read their peers' updates, so that the codec decodes them without a plan.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from edgehold.core.contract import Container, Payload
from edgehold.core.errors import OutsideLaw, WrongShape
from edgehold.core.vectors import Bytes, Part, Schema, Vector, finite_norm
from edgehold.defenses.bristle import listing
from edgehold.defenses.bristle.state import SKETCH, Order, Settings, Training, Update
from edgehold.defenses.payloads import answer_in, bounded, floats_of, round_of, seed_of, task_in, training_of
from edgehold.proto.strict import exactly
from edgehold.proto.v1.payloads_pb2 import BristleTask, BristleUpdate, TaskHeader, UpdateHeader


@dataclass(frozen=True)
class BristleCodec:
    """Knows no settings: the law is the same for every plan."""

    kind = "bristle/1"

    def encode_order(self, order: Order) -> Payload:
        """Header with the training, body with listing and sketches."""
        how = {name: getattr(order.training, name) for name in Training.__struct_fields__}
        header = TaskHeader(bristle=BristleTask(seed=order.seed, round=order.round, before=order.before, **how))
        body = listing.encode(order.listing) + order.sketches.astype("<f4", copy=False).tobytes()
        return Payload(header.SerializeToString(deterministic=True), Bytes(body))

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks."""
        task = task_in(payload, "bristle")
        training, seed, number = training_of(task, Training), seed_of(task), round_of(task)
        before = exactly(task.before, listing.DIGEST, "before")
        listed, at = listing.decode(payload.body)
        if number == 1 and listed:
            raise OutsideLaw(f"the first round lists {len(listed)} senders; nobody has sent anything yet")
        rest = Part(payload.body, at)
        if rest.size != 4 * SKETCH * len(listed):
            raise WrongShape(f"sketches of {rest.size} bytes; {len(listed)} senders need {4 * SKETCH * len(listed)}")
        sketches = Vector(rest)
        finite_norm(sketches)
        return Order(seed, number, listed, np.array(sketches.whole()).reshape(-1, SKETCH), before, training)

    def encode_update(self, update: Update) -> Payload:
        """Header with round and what was seen, body with the head."""
        header = UpdateHeader(bristle=BristleUpdate(round=update.round, seen=update.seen))
        return Payload(header.SerializeToString(deterministic=True), update.head.blob)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """Exactly four bytes per number of the head."""
        return 4 * schema.size, 4 * schema.size

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks."""
        answer = answer_in(payload, "bristle")
        number, seen = round_of(answer), exactly(answer.seen, listing.DIGEST, "seen")
        head = floats_of(payload, schema.size, "a head of ")
        bounded(head, None)
        return Update(head, number, seen)


def payload_digest(update: Update) -> bytes:
    """SHA-256 of the update as it travels: decoding and encoding give the same bytes, so whoever has it can name it."""
    payload = BristleCodec().encode_update(update)
    return hashlib.sha256(Container.prefix(payload) + bytes(payload.body.read(0, payload.body.size))).digest()


def codec(settings: Settings | None = None) -> BristleCodec:
    """The codec."""
    return BristleCodec()
