"""What was released about a data set, as facts: mechanism, sensitivity, noise, sampling. Its cost is for accountants to say.

Events are plain JSON in the ledger. One that is not understood is refused: nothing here has a catch-all.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from edgehold.core.errors import ConfigError

_Positive = Annotated[float, msgspec.Meta(gt=0, le=1e30)]
_Size = Annotated[float, msgspec.Meta(ge=0, le=1e30)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
_Rate = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Sampler(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the noise that was drawn is from the Gaussian that accounts assume (`edgehold.core.privacy.noise`).

    ratio: natural logarithm of the largest likelihood ratio; distance: in total variation; both over all draws of the event.
    """

    ratio: _Size = 0.0
    distance: _Size = 0.0


class _Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="mechanism"):
    """relation: what neighbours are; unit: what one of them has more than the other."""

    relation: Literal["add-remove"] = "add-remove"
    unit: Literal["record", "user"] = "record"
    sampler: Sampler = Sampler()


class Gaussian(_Event, frozen=True, kw_only=True, tag="gaussian"):
    """Vectors of Euclidean sensitivity `sensitivity` under Gaussian noise of deviation `sigma`, each touching every unit.

    releases: how many; batches into which every unit falls once ("balls in bins") count as one release together.
    """

    sensitivity: _Positive
    sigma: _Positive
    releases: _Count = 1


class SampledGaussian(_Event, frozen=True, kw_only=True, tag="sampled_gaussian"):
    """`steps` Gaussian releases over batches into which each unit comes independently with probability `rate` (Poisson)."""

    sensitivity: _Positive
    sigma: _Positive
    rate: _Rate
    steps: _Count


class Skellam(_Event, frozen=True, kw_only=True, tag="skellam"):
    """Integer vectors under Skellam noise of that variance (`edgehold.core.privacy.skellam`), each touching every unit.

    sensitivity: Euclidean; absolute: in sums of absolute values. Neighbours: one vector more, or zeros in its place.
    """

    sensitivity: _Positive
    absolute: _Positive
    variance: _Positive
    releases: _Count = 1


class ErrorFeedback(_Event, frozen=True, kw_only=True, tag="error_feedback"):
    """SGD with clipped error feedback (`edgehold.defenses.dp_ef_sgd`): sums of gradients clipped at `clip`, plus the error
    vector clipped at `error_clip`, under noise of deviation `sigma`, all on sum scale.

    ceiling: hard bound on each gradient before all else; infinite: none. sampling: "bins", each record in one batch of each
    epoch, or "poisson" at `rate`. steps: of this event; epochs: of this event, for bins. earlier_steps, earlier_epochs: of the
    same error vector, charged before: what a long-lived vector costs is not a sum over rounds. reset: the vector begins at zero
    with each epoch (bins only). vector: names a vector that lives on; its events follow each other without a gap or a fork.
    grid: length, in deviations, of the shift that rounding to the noise's grid can add to each step.
    """

    clip: _Positive
    error_clip: Annotated[float, msgspec.Meta(ge=0)]
    ceiling: Annotated[float, msgspec.Meta(gt=0)]
    sigma: _Positive
    sampling: Literal["bins", "poisson"]
    steps: _Count
    rate: _Rate = 1.0
    epochs: _Count = 1
    reset: bool = True
    earlier_steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    earlier_epochs: Annotated[int, msgspec.Meta(ge=0)] = 0
    vector: Annotated[str, msgspec.Meta(max_length=64)] = ""
    grid: _Size = 0.0


Event: TypeAlias = Gaussian | SampledGaussian | Skellam | ErrorFeedback
_UNBOUNDED = {"ceiling", "error_clip"}


def encode(event: Event) -> str:
    """Canonical JSON; infinite bounds are null."""
    found = msgspec.to_builtins(event)
    found |= {name: None for name in _UNBOUNDED & set(found) if found[name] == float("inf")}
    return msgspec.json.encode(found, order="sorted").decode()


def decode(text: str) -> Event:
    """Inverse of `encode`; `ConfigError` for a mechanism or a field that is not known here."""
    try:
        found = msgspec.json.decode(text)
        if isinstance(found, dict):
            found |= {name: float("inf") for name in _UNBOUNDED & set(found) if found[name] is None}
        event: Event = msgspec.convert(found, Event)
        return event
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"privacy event not understood, so nobody can say what it cost: {error}") from None
