"""The audit in one run: guess who was included from one score per canary, and say what epsilon the hits refute."""

from dataclasses import dataclass

import numpy as np

from edgehold.attacks.privacy.bound import epsilon_lower_bound
from edgehold.core.errors import ConfigError, NotFinite, WrongShape
from edgehold.core.vectors import Array


@dataclass(frozen=True, slots=True)
class Verdict:
    """epsilon_lower: what the release exceeds at `delta`, with `confidence`; to be held against the epsilon that is claimed.

    guesses, correct: how many were made and were right; blind guessing gets half. canaries: how many there were.
    """

    epsilon_lower: float
    guesses: int
    correct: int
    canaries: int
    delta: float
    confidence: float


def audit(scores: Array, included: Array, guess_in: int, guess_out: int, delta: float, confidence: float = 0.95) -> Verdict:
    """The `guess_in` canaries of the highest scores are guessed included, the `guess_out` of the lowest left out.

    scores: (m,) numbers, higher where the release looks more as if the canary had been included; included: (m,) bool, for each
    canary the fair coin that decided it. Among equal scores those that come first in the array count as lower. The numbers of
    guesses must be fixed before the scores are seen: the best of several is no valid bound.
    `WrongShape`, `NotFinite` or `ConfigError` for what cannot be judged.
    """
    if scores.ndim != 1 or included.shape != scores.shape or included.dtype != np.bool_:
        arrived = f"scores of shape {scores.shape} and inclusion of {included.dtype} {included.shape}"
        raise WrongShape(f"{arrived}; expected one number and one bool per canary")
    if not np.isfinite(scores).all():
        raise NotFinite(f"score {int(np.flatnonzero(~np.isfinite(scores))[0])} is not finite; nothing can be guessed from it")
    if guess_in < 0 or guess_out < 0 or guess_in + guess_out > len(scores):
        raise ConfigError(f"{guess_in} + {guess_out} guesses about {len(scores)} canaries; make at most one for each")
    order = np.argsort(scores, kind="stable")
    low, high = order[:guess_out], order[len(order) - guess_in :]
    correct = int(np.count_nonzero(included[high]) + np.count_nonzero(~included[low]))
    guesses = guess_in + guess_out
    bound = epsilon_lower_bound(len(scores), guesses, correct, delta, confidence)
    return Verdict(bound, guesses, correct, len(scores), delta, confidence)
