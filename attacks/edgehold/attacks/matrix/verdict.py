"""What is said of a defence under an attack, and how sure that is with the seeds there are.

Seeds are the only thing drawn again: all values of one seed stay together, so that differences are paired.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Array

LEVEL = 0.95
DRAWS = 10_000
"""Bootstrap samples where enumerating all of them would take more."""

Word = Literal["holds", "partly", "falls", "no effect", "failed"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with the ends of its bootstrap interval (percentiles, 95 %). seeds: how many are behind it."""

    mean: float
    low: float
    high: float
    seeds: int


def resamples(seeds: int) -> Array:
    """(draws, seeds) places of seeds, drawn with replacement: all that there are, or `DRAWS` drawn from a fixed stream."""
    if seeds**seeds <= DRAWS:
        return np.array(list(product(range(seeds), repeat=seeds)))
    return stream(0, "bootstrap", seeds).integers(0, seeds, (DRAWS, seeds))


def estimate(
    values: Array, statistic: Callable[[Array], Array] = lambda drawn: np.asarray(drawn.mean(axis=-1))
) -> Estimate:  # fmt: skip
    """values: (..., seeds), the last axis is drawn again. statistic: (..., seeds) -> one number per leading draw.

    With few seeds an interval cannot be trusted far: from three, it is the range of the seeds. Source: Efron 1979.
    """
    places = resamples(values.shape[-1])
    drawn = statistic(np.moveaxis(values[..., places], -2, 0))  # (draws, ..., seeds)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return Estimate(float(statistic(values[np.newaxis])[0]), float(low), float(high), values.shape[-1])


def worst_of(drawn: Array) -> Array:
    """(draws, attacks, seeds) -> the lowest mean over seeds of any attack: the choice of the worst is drawn again, too."""
    return np.asarray(drawn.mean(axis=-1).min(axis=-1))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A defence under an attack, for one data set and share of liars. All scores: higher is better for the defence.

    metric: what is scored. value: this defence under the attack. baseline: no defence under the attack. ceiling: no defence,
    no attack. clean: this defence, no attack. fall: ceiling - baseline; gain: value - baseline; loss: ceiling - value; own:
    clean - value; all paired by seed. bar: what `fall` must be for the attack to count; works: whether it is, and clearly
    above 0.
    word: "no effect" where the attack does not work here; else "holds" (loss at most the bar), "falls" (no clear gain),
    "partly"; "failed": too little was played to say. Estimates are None then.
    """

    data: str
    share: float
    defence: str
    attack: str
    metric: str
    bar: float
    works: bool
    word: Word
    value: Estimate | None = None
    baseline: Estimate | None = None
    ceiling: Estimate | None = None
    clean: Estimate | None = None
    fall: Estimate | None = None
    gain: Estimate | None = None
    loss: Estimate | None = None
    own: Estimate | None = None

    @property
    def hurt(self) -> bool:
        """Whether an attack that the average withstands costs this defence at least the bar against its own clean run."""
        return not self.works and self.own is not None and self.own.mean >= self.bar and self.own.low > 0

    @property
    def credited(self) -> bool:
        """Whether the defence may be praised for this cell."""
        return self.works and self.word in ("holds", "partly")


Scores = Mapping[int, float]
"""Seed -> score."""


def verdict(
    place: tuple[str, float, str, str], metric: str, bar: float, *, value: Scores, baseline: Scores, ceiling: Scores,
    clean: Scores,
) -> Verdict:  # fmt: skip
    """The verdict on the seeds that all four have. place: data, share, defence, attack."""
    seeds = sorted(set(value) & set(baseline) & set(ceiling) & set(clean))
    controls = sorted(set(baseline) & set(ceiling))
    fall = _paired(ceiling, baseline, controls)
    works = fall is not None and fall.mean >= bar and fall.low > 0
    if not seeds or fall is None:
        return Verdict(*place, metric, bar, works, "failed", fall=fall)
    gain, loss = _paired(value, baseline, seeds), _paired(ceiling, value, seeds)
    own = _paired(clean, value, seeds)
    assert gain is not None
    assert loss is not None
    word: Word
    if not works:
        word = "no effect"
    elif loss.mean <= bar:
        word = "holds"
    else:
        word = "partly" if gain.low > 0 else "falls"
    told, under, best, calm = (estimate(np.array([one[seed] for seed in seeds])) for one in (value, baseline, ceiling, clean))
    return Verdict(*place, metric, bar, works, word, told, under, best, calm, fall, gain, loss, own)


def _paired(one: Scores, other: Scores, seeds: Sequence[int]) -> Estimate | None:
    return estimate(np.array([one[seed] - other[seed] for seed in seeds])) if seeds else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two defences on equal (data, seed) units: mean score over the attacks that work and that both met.

    p: two-sided, of the paired permutation test; holm: corrected for all comparisons of its table; least: the smallest p that
    so many units could give at all.
    """

    defence: str
    other: str
    attacks: int
    difference: Estimate
    p: float
    least: float
    holm: float = 1.0


def compare(defence: str, other: str, attacks: int, one: Sequence[float], two: Sequence[float]) -> Comparison:
    """one, two: (units,) scores, paired. The test changes signs of differences: all ways, or 10,000 of them."""
    from scipy.stats import permutation_test

    if len(one) != len(two) or not len(one):
        raise ConfigError(f"{len(one)} and {len(two)} scores; a paired test needs as many of each, at least one")
    found = np.array(one) - np.array(two)
    least = min(1.0, 2.0 ** (1 - len(found)))
    if not found.any() or len(found) < 2:
        return Comparison(defence, other, attacks, estimate(found), 1.0, least)
    told: Any = permutation_test(
        (found,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", vectorized=True, n_resamples=9999,
        rng=stream(0, "permutation", len(found)),
    )  # fmt: skip
    return Comparison(defence, other, attacks, estimate(found), float(told.pvalue), least)


def holm(values: Sequence[float]) -> list[float]:
    """Corrected p values, in the given order. Source: Holm 1979."""
    order, worst = np.argsort(values, kind="stable"), 0.0
    found = [1.0] * len(values)
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(values) - rank) * values[place]))
        found[place] = worst
    return found
