"""What orders of all methods have in common when they reach a device: settings within their bounds, a seed, a round."""

from typing import Any, TypeVar

from edgehold.core.config import Config, convert
from edgehold.core.errors import ConfigError, OutsideLaw

T = TypeVar("T", bound=Config)

SEED_LIMIT = 1 << 63
ROUND_LIMIT = 1_000_000


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
