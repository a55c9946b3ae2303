"""The numbers of a masked sum, from what a plan asks for and what its method sums: widths, margins, grids, noise."""

from dataclasses import dataclass
from typing import Protocol

from edgehold.core.errors import ConfigError
from edgehold.core.masks.noise import SharedNoise
from edgehold.core.masks.terms import FLOOR, MOST_BYTES, CipherName, capacity, narrowest
from edgehold.core.privacy.skellam import LARGEST_TABLE


class Wish(Protocol):
    """A plan's [masks] table (`edgehold.core.plan.MasksTable`)."""

    @property
    def group_least(self) -> int: ...
    @property
    def group_most(self) -> int: ...
    @property
    def cipher(self) -> CipherName: ...
    @property
    def clip(self) -> float | None: ...
    @property
    def bits(self) -> int: ...
    @property
    def noise_multiplier(self) -> float: ...
    @property
    def norm(self) -> float | None: ...
    @property
    def helpers(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """The part of `terms.Terms` that is the same in every round of a run."""

    entries: int
    largest: int
    bits: int
    margin: int
    cipher: CipherName
    least: int
    most: int
    clip: float = 0.0
    norm: float = 0.0
    variance: float = 0.0
    helpers: int = 0


def sized(wish: Wish, entries: int, largest: int) -> Sizes:
    """entries: numbers in a vector; largest: of a method whose entries are whole numbers from 0 on, 0 for reals.

    `ConfigError` names the key of [masks] to mend.
    """
    found = _whole(wish, entries, largest) if largest else _reals(wish, entries)
    if entries * found.bits // 8 > MOST_BYTES:
        raise ConfigError(
            f"masks: {entries} numbers of {found.bits} bits are {entries * found.bits >> 23} MiB under masks; at most "
            f"{MOST_BYTES >> 20} MiB are possible: a smaller model, or masks.bits of 16 or 8, fits",
            field="masks.bits",
        )
    return found


def _whole(wish: Wish, entries: int, largest: int) -> Sizes:
    for key, value in (("clip", wish.clip), ("norm", wish.norm), ("noise_multiplier", wish.noise_multiplier)):
        if value:
            raise ConfigError(
                f"masks.{key} = {value:g}, but this method sums whole numbers from 0 to {largest}, which are neither clipped "
                "nor noised: drop it",
                field=f"masks.{key}",
            )
    most = wish.group_most
    try:
        bits = narrowest(most, largest)
    except ValueError as error:
        raise ConfigError(f"masks.group_most = {most}: {error}", field="masks.group_most") from None
    return Sizes(entries, largest, bits, 0, wish.cipher, wish.group_least, most)


def _reals(wish: Wish, entries: int) -> Sizes:
    clip = wish.clip or wish.norm
    if clip is None:
        raise ConfigError(
            "masks.clip is missing: updates of real numbers go on a grid from -clip to clip; take a bound that an entry of an "
            "update hardly ever passes, such as 1.0",
            field="masks.clip",
        )
    most, multiplier, norm = wish.group_most, wish.noise_multiplier, wish.norm or 0.0

    def noise(half: int) -> SharedNoise:
        return SharedNoise((multiplier * norm * half / clip) ** 2, wish.helpers)

    def margin(half: int) -> int:
        return noise(half).margin(FLOOR, most, entries) if multiplier else 0

    def drawable(half: int) -> bool:
        # One table of chances for a device's share: a grid finer than that costs draws and gains nothing, as rounding by a step
        # is lost in noise of hundreds.
        return not multiplier or noise(half).share(FLOOR) <= LARGEST_TABLE

    # The finest grid: with more steps to the clip both entries and noise have more values.
    low, high = 0, 1 << wish.bits
    while low < high - 1:
        middle = (low + high) // 2
        fits = drawable(middle) and capacity(most, 2 * middle, margin(middle)) <= 1 << wish.bits
        low, high = (middle, high) if fits else (low, middle)
    if low < 1:
        raise ConfigError(
            f"masks.bits = {wish.bits}: no grid of reals has room for sums of {most} devices"
            + (f" with noise {multiplier:g} times the norm" if multiplier else "")
            + "; more bits or smaller groups do",
            field="masks.bits",
        )
    variance = noise(low).variance if multiplier else 0.0
    return Sizes(
        entries, 2 * low, wish.bits, margin(low), wish.cipher, wish.group_least, most, clip, norm, variance,
        wish.helpers if multiplier else 0,
    )  # fmt: skip
