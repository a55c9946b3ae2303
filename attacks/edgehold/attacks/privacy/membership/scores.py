"""Scores of membership, higher for "was trained on": loss threshold, likelihood ratio, and ranks against a population.

Everywhere phi = log(p / (1 - p)), p what a model gives the true class: it is about normal over models, which neither p nor the
loss is. Shapes: m models, n records; inside (m, n) says which model was trained on which record.
"""

from dataclasses import dataclass

import numpy as np

from edgehold.attacks.privacy.membership.roc import auc
from edgehold.core.errors import ConfigError, WrongShape
from edgehold.core.vectors import Array

FEW = 64
"""Models, below which one variance serves all records: that of a record alone would be noise."""
MIX = tuple(i / 10 for i in range(11))


def confidence(outputs: Array, labels: Array) -> Array:
    """phi, (n,) float64, of outputs before the softmax, (n, classes), and labels (n,): the output of the true class less the
    logarithm of the summed exponentials of the others. Neither p near 1 nor p near 0 loses digits so.
    """
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1] or outputs.shape[1] < 2:
        raise WrongShape(f"outputs of shape {outputs.shape}, labels {labels.shape}; expected (n, classes >= 2) and (n,)")
    rows = np.arange(len(labels))
    rest = outputs.astype(np.float64)
    own = rest[rows, labels].copy()
    rest[rows, labels] = -np.inf
    most = rest.max(axis=1)
    found: Array = own - most - np.log(np.exp(rest - most[:, None]).sum(axis=1))
    return found


def loss(phi: Array) -> Array:
    """Minus the cross-entropy, log p. Source: Yeom et al. 2018. (n,) from (n,)."""
    found: Array = -np.logaddexp(0.0, -phi)
    return found


@dataclass(frozen=True, slots=True)
class Normal:
    """One normal law per record: mean (n,), variance (n,)."""

    mean: Array
    variance: Array

    @classmethod
    def fit(cls, phi: Array, which: Array) -> "Normal":
        """Of phi (m, n) where `which` (m, n). Under `FEW` models the variance is pooled over all records.

        `ConfigError` for a record without any model, or where nothing is left to tell a variance from.
        """
        counts = which.sum(axis=0)
        if not counts.all():
            raise ConfigError(f"record {int(np.argmin(counts))} has no shadow model on that side; train more shadow models")
        mean = np.where(which, phi, 0.0).sum(axis=0) / counts
        squares = np.where(which, (phi - mean) ** 2, 0.0).sum(axis=0)
        if len(phi) < FEW:
            freedom = int((counts - 1).sum())
            if freedom < 1:
                raise ConfigError("one shadow model on a side has no spread; train at least 4")
            pooled = float(squares.sum()) / freedom
            return cls(mean, np.full(len(mean), max(pooled, 1e-12)))
        if counts.min() < 2:
            raise ConfigError("a record with one shadow model on a side has no spread; train more")
        return cls(mean, np.maximum(squares / (counts - 1), 1e-12))

    def log_density(self, phi: Array) -> Array:
        """At phi (n,), without the constant that all share."""
        found: Array = -0.5 * ((phi - self.mean) ** 2 / self.variance + np.log(self.variance))
        return found


def online(phi: Array, shadows: Array, inside: Array) -> Array:
    """Log-likelihood ratio of "in" over "out". phi (n,) of the target, shadows (m, n).

    Source: Carlini et al. 2022, "Membership inference attacks from first principles", algorithm 1. Departure: means, not
    medians; the pooled variance divides by degrees of freedom, and is one for each side.
    """
    _fits(phi, shadows, inside)
    return Normal.fit(shadows, inside).log_density(phi) - Normal.fit(shadows, ~inside).log_density(phi)


def offline(phi: Array, shadows: Array, inside: Array) -> Array:
    """How far the target is above the models that never saw the record, in their deviations: it orders records as the one-sided
    p-value does, and never saturates. Source: as `online`, section VI-C.
    """
    _fits(phi, shadows, inside)
    out = Normal.fit(shadows, ~inside)
    found: Array = (phi - out.mean) / np.sqrt(out.variance)
    return found


def ranked(
    phi: Array,
    shadows: Array,
    inside: Array,
    public: Array,
    shadows_public: Array,
    gamma: float = 1.0,
    mix: float | None = None,
) -> Array:
    """Share of population records that the record's ratio dominates: r(x) / r(z) >= gamma, with r = p / mean of p over models.

    public (k,), shadows_public (m, k): phi of the population, which nobody trained on. Offline: of the reference models only
    those that never saw x count, and the half that did is guessed as mix * p_out + 1 - mix. mix: None: the one of eleven with
    which the first shadow model is attacked best by the others.

    Source: Zarifzadeh, Liu and Shokri 2024, "Low-cost high-power membership inference attacks", section 3 and appendix.
    """
    _fits(phi, shadows, inside)
    if shadows_public.shape != (len(shadows), len(public)) or not len(public):
        raise WrongShape(
            f"population: {public.shape} and {shadows_public.shape}; expected (k,) and ({len(shadows)}, k), k >= 1"
        )
    if mix is None:
        if len(shadows) < 4:
            raise ConfigError(
                f"{len(shadows)} shadow models; mix is chosen on one of them against the others: at least 4, or give it"
            )
        first = inside[0]

        def judged(candidate: float) -> float:
            found = ranked(shadows[0], shadows[2:], inside[2:], shadows_public[0], shadows_public[2:], gamma, candidate)
            return auc(found[first], found[~first])

        # The second shadow model is the first one's complement: it would give the first one's members away.
        mix = max(MIX, key=judged)
    p, p_public = _share(shadows), _share(shadows_public)
    counts = (~inside).sum(axis=0)
    if not counts.all():
        raise ConfigError(f"record {int(np.argmin(counts))} was seen by every shadow model; train more")
    out = np.where(inside, 0.0, p).sum(axis=0) / counts
    ratios = _share(phi) / _mixed(out, mix)
    against = np.sort(_share(public) / _mixed(p_public.mean(axis=0), mix))
    found: Array = np.searchsorted(against, ratios / gamma, side="right") / len(against)
    return found


def _mixed(out: Array, mix: float) -> Array:
    found: Array = np.maximum(0.5 * ((1 + mix) * out + 1 - mix), 1e-300)
    return found


def _share(phi: Array) -> Array:
    found: Array = np.exp(-np.logaddexp(0.0, -phi))
    return found


def _fits(phi: Array, shadows: Array, inside: Array) -> None:
    if phi.ndim != 1 or shadows.shape[1:] != phi.shape or inside.shape != shadows.shape or inside.dtype != np.bool_:
        arrived = f"target {phi.shape}, shadow models {shadows.shape}, inside {inside.dtype} {inside.shape}"
        raise WrongShape(f"{arrived}; expected (n,), (m, n) and bool (m, n)")
