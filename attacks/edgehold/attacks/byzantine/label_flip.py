"""Updates trained on flipped labels. Weak alone, but the one attack that the owner of the data can play. Knowledge K0.

Source: Tolpegin et al. 2020; all labels reversed as in Fang et al. 2020, section 4.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.label_flip:make",
options = {how = "pair", source = 7, target = 1}.
"""

from typing import Any, Literal, get_args

import numpy as np

from edgehold.attacks.byzantine.bent import Learner, bent
from edgehold.core.config import suggest
from edgehold.core.contract import Adversary, ClientSide
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.task import Task
from edgehold.core.vectors import Array

How = Literal["reverse", "pair", "random"]


def flipped(
    y: Array, how: How, classes: int, source: int, target: int, share: float, rng: np.random.Generator
) -> Array:  # fmt: skip
    """Labels (n,) of whole classes 0..classes - 1, of which a share is flipped: to classes - 1 - y, `source` to `target`, or to
    another one at random. Which records: drawn, round(share * n) of those that the flip can change.
    """
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ConfigError(f"labels of type {y.dtype} and shape {y.shape} are no classes; this attack flips classes")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise ConfigError(f"labels {int(y.min())} to {int(y.max())}, but classes = {classes}; set classes")
    able = np.flatnonzero(y == source) if how == "pair" else np.arange(len(y))
    some = able if share == 1.0 else rng.choice(able, round(share * len(able)), replace=False)
    out = y.copy()
    if how == "pair":
        out[some] = target
    elif how == "reverse":
        out[some] = classes - 1 - y[some]
    else:
        out[some] = (y[some] + rng.integers(1, classes, len(some))) % classes
    return out


def make(
    how: How = "reverse", classes: int = 10, source: int = 7, target: int = 1, share: float = 1.0, seed: int = 0
) -> Adversary:  # fmt: skip
    """Learns from flipped labels; the same ones in every round. share: of the records that the flip can change, at most 1."""
    if how not in get_args(How):
        raise ConfigError(f"how = {how!r}{suggest(how, list(get_args(How)))}")
    if classes < 2 or not (0 <= source < classes and 0 <= target < classes and source != target):
        raise ConfigError(f"classes = {classes}, source = {source}, target = {target}; expected two different classes of those")
    if not 0 < share <= 1:
        raise ConfigError(f"share = {share}; allowed: above 0 to 1")

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        def bend(task: Task) -> Task:
            return bent(
                task,
                lambda x, y, rng: (x, flipped(y, how, classes, source, target, share, rng)),
                stream(seed, "label_flip", client),
            )

        return Learner(honest, bend)

    return adversary
