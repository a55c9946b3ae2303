"""FLORAL on one machine: digits and two moons with poisoned labels, the game, its control without an attacker, and actual
SVMs.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.poisoning.catalogue import Scene, poisoned
from edgehold.attacks.poisoning.lfa import lfa
from edgehold.attacks.poisoning.victim import Array, Classes, SvmVictim
from edgehold.client.data.catalogue import load
from edgehold.core.rng import stream
from edgehold.defenses.floral.features import Fourier, Nystrom
from edgehold.defenses.floral.game import Rules, Turn, play
from edgehold.defenses.floral.kernels import RbfKernel, rbf

GAMMA, COST, PLAYS = 0.1, 10.0, 150
MOON_GAMMA, MOON_FLIPS = 0.5, 25
LFA_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class Ground:
    """Training and test records with clean labels; held: records that only an attacker uses."""

    x: Array
    y: Classes
    test_x: Array
    test_y: Classes
    held_x: Array | None = None
    held_y: Classes | None = None


@lru_cache(maxsize=8)
def ground(task: str, seed: int) -> Ground:
    """ "3 vs 8": 214 of 357 digits; "odd/even": 500 of 1,797; "moon": 500 and 1,000, 500 held out. seed: of split or points."""
    if task == "moon":
        split, held = load("moon", seed=seed), load("moon", seed=seed, data={"part": "validation"}).test
        return Ground(split.train.x, split.train.y, split.test.x, split.test.y, held.x, held.y)
    both = load("digits")
    x, y = np.concatenate([both.train.x, both.test.x]), np.concatenate([both.train.y, both.test.y])
    if task == "3 vs 8":
        kept = (y == 3) | (y == 8)
        x, y, count = x[kept], (y[kept] == 8).astype(np.int64), 214
    else:
        y, count = y % 2, 500
    order = stream(seed, "floral", task).permutation(len(y))
    train, test = order[:count], order[count:]
    return Ground(x[train], y[train], x[test], y[test])


@lru_cache(maxsize=16)
def labels_of(task: str, poison: str, share: float, seed: int) -> Classes:
    """Training labels as the victim gets them."""
    on = ground(task, seed)
    gamma = MOON_GAMMA if task == "moon" else GAMMA
    if not poison:
        return on.y
    if poison == "lfa":
        victim = SvmVictim(on.x, gamma, COST, on.held_x)
        assert on.held_y is not None
        return lfa(on.y, round(share * len(on.y)), victim, on.held_y, LFA_CANDIDATES)
    return poisoned(poison, Scene(on.x, on.y, 2, gamma, COST, on.held_x, on.held_y), share, seed)


def play_central(cell: Cell) -> dict[str, float]:
    """Test accuracy, and of a game on the moons also that of its rounds."""
    on, labels = ground(cell["task"], cell["seed"]), labels_of(cell["task"], cell["poison"], cell["share"], cell["seed"])
    if cell["way"] == "svm":
        found = SvmVictim(on.x, cell["gamma"], cell["cost"], on.test_x).train(labels).held
        return {"accuracy": _right(found, on.test_y)}
    between, scores = rbf(on.test_x, on.x, cell["gamma"]), []
    flips = round(cell["flips"] * len(labels)) if cell["flips"] < 1 else int(cell["flips"])
    rules = Rules(COST, cell["plays"], flips, 2 * flips, cell["step"], averaged=True, released=cell["released"])

    def watch(turn: Turn) -> None:
        scores.append(_right((between @ turn.signed + turn.bias)[:, 0], on.test_y))

    kernel = RbfKernel(on.x, cell["gamma"])
    result = play(kernel, labels, 1, rules, lambda number: stream(cell["seed"], "floral", "game", number), watch=watch)
    return {
        "accuracy": _right((between @ result.weights + result.bias)[:, 0], on.test_y),
        "last": scores[-1],
        "mean": float(np.mean(scores)),
        "best": max(scores),
    }


def play_features(cell: Cell) -> dict[str, float]:
    """Root mean square and largest error of the kernel of 400 digits, off the diagonal. Landmarks of Nystrom: other digits."""
    x = load("digits").train.x
    wanted = rbf(x[:400], x[:400], GAMMA)
    mapped: Any = Fourier(64, GAMMA, cell["count"], cell["seed"])
    if cell["features"] == "nystrom":
        chosen = 400 + stream(cell["seed"], "floral", "landmarks").permutation(len(x) - 400)[: cell["count"]]
        mapped = Nystrom(x[chosen].astype(np.float64), GAMMA)
    phi = mapped(x[:400])
    errors = np.abs(phi @ phi.T - wanted)[np.triu_indices(400, 1)]
    return {"rms": float(np.sqrt(np.mean(np.square(errors)))), "largest": float(errors.max())}


def _right(scores: Array, labels: Any) -> float:
    return float(((scores > 0) == (labels > 0)).mean())
