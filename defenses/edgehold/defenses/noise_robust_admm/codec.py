"""Noise-robust ADMM on the wire: a protobuf header, then numbers of the wire's type.

Law: the length of the model (twice that in an order of the form "dual"), finite values, every number of the training within
`Training`; an update's norm at most the plan's `norm_limit`, the mean eigenvalue that it says not negative and finite.
"""

from edgehold.core.contract import Payload
from edgehold.core.errors import OutsideLaw, WrongShape
from edgehold.core.vectors import Schema, Vector, finite_norm
from edgehold.defenses.noise_robust_admm.state import WIRES, Order, Settings, Training, Update
from edgehold.defenses.payloads import answer_in, round_of, seed_of, task_in, training_of
from edgehold.proto.v1.payloads_pb2 import AdmmTask, AdmmUpdate, TaskHeader, UpdateHeader

CURVATURE_LIMIT = 1e18


class AdmmCodec:
    """settings: the plan's; None on a device, which decodes orders only."""

    kind = "noise_robust_admm/1"

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings

    def encode_order(self, order: Order) -> Payload:
        """Header with the training, body with what is broadcast."""
        how = {name: getattr(order.training, name) for name in Training.__struct_fields__}
        header = TaskHeader(admm=AdmmTask(seed=order.seed, round=order.round, own_units=order.own_units, **how))
        return Payload(header.SerializeToString(deterministic=True), order.p.blob)

    def decode_order(self, payload: Payload, schema: Schema) -> Order:
        """The order, or the `RejectedUpdate` that says which law it breaks."""
        task = task_in(payload, "admm")
        training, seed, number = training_of(task, Training), seed_of(task), round_of(task)
        p = _numbers(payload, training.wire, schema.size * (2 if training.form == "dual" else 1))
        finite_norm(p)
        return Order(seed, number, training, p, task.own_units)

    def encode_update(self, update: Update) -> Payload:
        """Header that names the type, body with the numbers."""
        wire = next(name for name, dtype in WIRES.items() if update.u.dtype == dtype)
        header = UpdateHeader(admm=AdmmUpdate(wire=wire, curvature=update.curvature))
        return Payload(header.SerializeToString(deterministic=True), update.u.blob)

    def body_bytes(self, schema: Schema) -> tuple[int, int]:
        """Exactly 2, 4 or 8 bytes per number."""
        needed = schema.size * int(WIRES[self._plan.wire][-1])
        return needed, needed

    def decode_update(self, payload: Payload, schema: Schema) -> Update:
        """The update, or the `RejectedUpdate` that says which law it breaks."""
        answer = answer_in(payload, "admm")
        if answer.wire != self._plan.wire:
            raise WrongShape(f"numbers of type {answer.wire[:16]!r}; the plan says {self._plan.wire}")
        curvature = answer.curvature
        if not 0 <= curvature <= CURVATURE_LIMIT:
            raise OutsideLaw(f"a mean eigenvalue of {curvature}; allowed: 0 to {CURVATURE_LIMIT:g}")
        u = _numbers(payload, self._plan.wire, schema.size)
        norm = finite_norm(u)
        if norm > self._plan.norm_limit:
            raise OutsideLaw(f"update of norm {norm:.6g}; at most {self._plan.norm_limit:.6g} is admitted")
        return Update(u, curvature)

    @property
    def _plan(self) -> Settings:
        assert self._settings is not None, "a device decodes no updates"
        return self._settings


def _numbers(payload: Payload, wire: str, size: int) -> Vector:
    needed = size * int(WIRES[wire][-1])
    if payload.body.size != needed:
        raise WrongShape(f"body of {payload.body.size} bytes; {size} {wire} values need {needed}")
    return Vector(payload.body, WIRES[wire])


def codec(settings: Settings | None = None) -> AdmmCodec:
    """The codec."""
    return AdmmCodec(settings)
