"""What payloads of all methods have in common when they arrive: whose they are, settings within their bounds, a seed, a round,
claimed records, floats.
"""

from typing import Any, TypeVar

from edgehold.core.config import Config, convert
from edgehold.core.contract import HEADER_LIMIT, Payload
from edgehold.core.errors import ConfigError, OutsideLaw, WrongShape
from edgehold.core.vectors import Vector, finite_norm
from edgehold.proto.strict import decode
from edgehold.proto.v1.payloads_pb2 import TaskHeader, UpdateHeader

T = TypeVar("T", bound=Config)

SEED_LIMIT = 1 << 63
CLIP_FACTOR = 1000.0
NORM_LIMIT = 1e30
"""Largest norm without a clip: sums over any cohort stay far inside float64, and a mean of them inside float32."""
ROUND_LIMIT = 1_000_000
SAMPLES_LIMIT = 1 << 40
"""Claims above this many records are no claims but attempts at overflow."""


def task_in(payload: Payload, method: str) -> Any:
    """What the header of an order says under the method's name; `WrongShape` for another method's."""
    return _under(decode(TaskHeader, payload.header, HEADER_LIMIT), "task", method)


def answer_in(payload: Payload, method: str) -> Any:
    """What the header of an update says under the method's name; `WrongShape` for another method's."""
    return _under(decode(UpdateHeader, payload.header, HEADER_LIMIT), "update", method)


def _under(header: TaskHeader | UpdateHeader, what: str, method: str) -> Any:
    found = header.WhichOneof("method")
    if found != method:
        raise WrongShape(f"{what} header for {found}; expected {method}")
    return getattr(header, method)


def samples_of(answer: Any) -> int:
    """The records that a client claims; `OutsideLaw` for none, or more than anybody has."""
    samples = int(answer.samples)
    if not 1 <= samples <= SAMPLES_LIMIT:
        raise OutsideLaw(f"{samples} samples claimed; allowed: 1 to {SAMPLES_LIMIT}")
    return samples


def training_of(task: Any, kind: type[T]) -> T:
    """The fields of a task message that `kind` has, within the bounds of `kind`; else `OutsideLaw`."""
    try:
        return convert({name: getattr(task, name) for name in kind.__struct_fields__}, kind, "order")
    except ConfigError as error:
        raise OutsideLaw(error.message) from None


def seed_of(task: Any) -> int:
    """The training seed of the run; `OutsideLaw` from 2^63 on."""
    seed = int(task.seed)
    if seed >= SEED_LIMIT:
        raise OutsideLaw(f"seed {seed}; it must be below 2^63")
    return seed


def round_of(task: Any) -> int:
    """The round, counted from 1; `OutsideLaw` for others."""
    number = int(task.round)
    if not 1 <= number <= ROUND_LIMIT:
        raise OutsideLaw(f"round {number}; allowed: 1 to {ROUND_LIMIT}")
    return number


def floats_of(payload: Payload, size: int, whole: str = "") -> Vector:
    """The body as `size` float32 values; `WrongShape` for another length. whole: what they are, with "of" behind it."""
    if payload.body.size != 4 * size:
        verb = "needs" if whole else "need"
        raise WrongShape(f"body of {payload.body.size} bytes; {whole}{size} float32 values {verb} {4 * size}")
    return Vector(payload.body)


def bounded(vector: Vector, clip: float | None) -> float:
    """Euclidean norm of an update; `NotFinite`, or `OutsideLaw` above 1000 times the plan's clip (without one: NORM_LIMIT)."""
    limit = NORM_LIMIT if clip is None else CLIP_FACTOR * clip
    norm = finite_norm(vector)
    if norm > limit:
        raise OutsideLaw(f"update of norm {norm:.6g}; at most {limit:.6g} is admitted")
    return norm
