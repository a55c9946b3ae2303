"""The game: a support vector machine in its dual against an attacker who flips labels of its weightiest records.

Source: Bal, Cevher and Muehlebach 2025, arXiv:2502.17121, and the authors' code. Departures: constant safe step, exact
projection, ties among the weightiest broken at random, averaged read-out (`Rules.released` turns the first three back);
several classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgehold.defenses.floral import projection
from edgehold.defenses.floral.kernels import Kernel, largest_eigenvalue
from edgehold.defenses.floral.projection import Array

Classes: TypeAlias = NDArray[np.int64]
"""(n,) class of each record, from 0."""
Draw: TypeAlias = Callable[[int], np.random.Generator]
"""Generator of a round of play, counted from 1."""

SUPPORT = 1e-5
"""Records of a larger dual weight are support vectors."""
SAFE = 0.3
"""Step times the largest eigenvalue; any step below 1 of it makes the dual objective fall."""
_EVERY, _DIVISOR = 100, 10.0


@dataclass(frozen=True, slots=True)
class Rules:
    """cost: C. plays: rounds T. flips, budget: k labels a round among the B weightiest records; k = 0: nobody attacks.

    step: eta; 0: `SAFE` over the largest eigenvalue. averaged: the model is the mean over the last two thirds of the rounds,
    not the last round's, which swings. released: as the authors' code: at every hundredth round (and only there) a tenth of
    the step, the fixed point for the projection, ties by place, no bias without support vectors.
    """

    cost: float
    plays: int
    flips: int
    budget: int
    step: float = 0.0
    averaged: bool = True
    released: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """weights: (n, c), lam times label for each record and output, what the model is made of; bias: (c,). last: (n, c), the
    same of the last round, from which the game can go on.
    """

    weights: Array
    bias: Array
    last: Array


@dataclass(frozen=True, slots=True)
class Turn:
    """One round of play as it happened. labels: classes as attacked; signed: (n, c) lam times label; bias: (c,)."""

    number: int
    labels: Classes
    signed: Array
    bias: Array


def play(
    kernel: Kernel,
    given: Classes,
    outputs: int,
    rules: Rules,
    draw: Draw,
    start: Array | None = None,
    played: int = 0,
    base: Array | None = None,
    watch: Callable[[Turn], None] | None = None,
) -> Result:
    """`rules.plays` rounds over the records of `kernel` with the labels `given`.

    outputs: 1 for two classes, else one per class against all others. start: `Result.last` of a game to go on with after
    `played` rounds. base: (n, c), scores to which the machine only adds (the coupled form); none for 0. watch: called after
    each round.

    The attacker starts from the given labels in every round: flips never accumulate. The dual weights keep fitting the labels
    of the round before until the next projection.
    """
    n = len(given)
    signed = np.zeros((n, outputs)) if start is None else start
    shift = np.zeros((n, outputs)) if base is None else base
    step = rules.step or SAFE / max(largest_eigenvalue(kernel), np.finfo(np.float64).tiny)
    nearest = projection.released if rules.released else projection.project
    counted = ceil(2 * rules.plays / 3) if rules.averaged else 1
    weights, bias = np.zeros((n, outputs)), np.zeros(outputs)
    scores = kernel.product(signed) + shift if played and rules.flips else shift
    for number in range(played + 1, played + rules.plays + 1):
        labels = given
        if rules.flips and number > 1:
            labels = attacked(given, np.abs(signed), scores, rules, draw(number))
        y = signs(labels, outputs)
        lam = np.abs(signed)
        slope = y * (kernel.product(y * lam) + shift) - 1
        moved = lam - (step / _DIVISOR if rules.released and number % _EVERY == 0 else step) * slope
        lam = np.column_stack([nearest(moved[:, c], y[:, c], rules.cost) for c in range(outputs)])
        signed = y * lam
        scores = kernel.product(signed) + shift
        offset = bias_of(lam, y, scores, rules.released)
        scores = scores + offset
        if number > played + rules.plays - counted:
            weights += signed / counted
            bias += offset / counted
        if watch is not None:
            watch(Turn(number, labels, signed, offset))
    return Result(weights, bias, signed)


def attacked(given: Classes, lam: Array, scores: Array, rules: Rules, rng: np.random.Generator) -> Classes:
    """The given labels with k of the B weightiest records flipped, drawn without replacement; all of these where they are
    fewer.

    lam: (n, c); a record weighs the sum over outputs. scores: (n, c); with several classes a record goes to the highest other
    one.
    """
    heavy = lam.sum(1)
    among = np.flatnonzero(heavy > SUPPORT)
    if not rules.released:
        # Once many weights are at C, the order would be that of the records' numbers.
        among = rng.permutation(among)
    top = among[np.argsort(-heavy[among], kind="stable")][: rules.budget]
    chosen = rng.choice(top, min(rules.flips, len(top)), replace=False)
    labels = given.copy()
    if scores.shape[1] == 1:
        labels[chosen] = 1 - given[chosen]
    else:
        rivals = scores[chosen].copy()
        rivals[np.arange(len(chosen)), given[chosen]] = -np.inf
        labels[chosen] = rivals.argmax(1)
    return labels


def signs(labels: Classes, outputs: int) -> Array:
    """(n, c) of -1 and +1: class 1 against class 0 for one output, else each class against all others."""
    classes = np.arange(1, 2) if outputs == 1 else np.arange(outputs)
    return np.where(labels[:, None] == classes, 1.0, -1.0)


def bias_of(lam: Array, y: Array, scores: Array, released: bool = False) -> Array:
    """(c,): mean of label minus score over all support vectors, those at C included, as in the authors' code.

    Without any, over all records: a device that knows one class only has no support vectors, and says that class. (`released`:
    0.)
    """
    held = lam > SUPPORT
    none = ~held.any(0)
    held[:, none] = True
    found = np.asarray(np.where(held, y - scores, 0.0).sum(0) / held.sum(0))
    if released:
        found[none] = 0.0
    return found
