"""Edge control against FRL: rankings that hold the global model at an accuracy of the liars' choice, instead of ruining it.

A model that is a little worse than it should be is harder to notice than a collapse. For some rounds the liars are honest; what
they then agree on is kept as a reference. From then on they measure in every round the network that they are sent on their own
records, and aim at a mask without the most important edges of the reference, more of them where the model is better than
wanted, fewer where it is worse: those that should leave go to the bottom, as many of the least important ones to the top, each
as far from the cut as it can be, so that the gap holds; everything else stays in honest order. The reference must stay: honest
scores start from the last global order, so that edges exchanged by the present one would be exchanged back the next time.

Knowledge K1: the colluders' honest rankings through a folder of their own (`channel`), and their records. Source: aim and steps
are those of the Edge Control Attack, Chen et al. 2026, arXiv:2601.14687. Departure: how many edges the mask is without follows
from feedback (an integral controller), where the authors take the mask from a shadow model.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.control:make",
options = {wanted = 0.7, folder = "...", colluders = 2}.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.channel import Channel
from edgehold.attacks.byzantine.ranks import shared
from edgehold.attacks.byzantine.wrap import Memory, Minded, Remembering
from edgehold.core.contract import Adversary, Facts
from edgehold.core.errors import ConfigError
from edgehold.core.task import Task
from edgehold.core.vectors import FloatArray
from edgehold.defenses.frl.sorting import inverse, sorted_places
from edgehold.defenses.frl.state import Order, Ranking, Ranks, Update, cut_ranks, scores_of, weights_of
from edgehold.defenses.layers import layers_of

SHARE, SEEN, REFERENCE = "share", "rounds", "reference"


def aimed(agreed: Ranking, reference: Ranking, share: float) -> Ranking:
    """The reference's outermost round(share * n / 2) edges at the wrong ends, the rest as agreed; 1: the reference reversed.

    agreed, reference: (n,) edge ids, least important first.
    """
    n, j = len(agreed), round(share * (len(agreed) // 2))
    low, high = reference[:j], reference[n - j :]
    between = agreed[~np.isin(agreed, np.concatenate([low, high]))]
    return np.concatenate([high[::-1], between, low[::-1]])


def network(order: Order, task: Task) -> FloatArray:
    """Flat weights of the network that an order describes."""
    how, found = order.training, np.zeros(task.schema.size, dtype=np.float32)
    for number, (layer, ranks) in enumerate(zip(layers_of(task.schema, "FRL"), order.ranks, strict=True)):
        base = scores_of(order.seed, number, layer.edges, layer.fan_in, how.signed)[0]
        dropped = layer.dropped(how.keep)
        low, high = cut_ranks(base, dropped) if how.signed else (0, dropped)
        places = np.asarray(ranks)
        full = weights_of(order.seed, number, layer.edges, layer.fan_in)
        found[layer.place] = np.where((places >= high) | (places < low), full, np.float32(0))
    return found


def accuracy(task: Task, weights: FloatArray) -> float:
    """On the device's own training records; `ConfigError` where it has none to measure on."""
    made: Any = task
    if getattr(task, "train_data", None) is None:
        raise ConfigError(f"this attack measures the model on its own records; {type(task).__qualname__} shows none")
    return float(replace(made, train_data=None, test_data=made.train_data).evaluate(weights)["accuracy"])


@dataclass(frozen=True)
class Controller(Remembering):
    """Works honestly, then votes so that the accuracy goes where it is wanted. Remembers the share of edges it aims at, and the
    reference.
    """

    client: str
    wanted: float
    gain: float
    after: int
    channel: Channel | None

    def work(self, order: Any, local: Any, task: Task, rng: np.random.Generator) -> tuple[Any, Any, Facts]:
        """Honest work with other rankings; `ConfigError` when the method's update has none."""
        kept, update, facts = self.honest.work(order, local.local, task, rng)
        if not isinstance(update, Update):
            raise ConfigError(f"this attack changes rankings; {type(update).__qualname__} has none. Use it with method frl")
        known = [update.ranks] if self.channel is None else shared(self.channel, self.client, order, update.ranks)
        agreed = [common([one[at] for one in known]) for at in range(len(update.ranks))]
        memory: Memory = dict(local.memory)
        seen = int(memory[SEEN][0]) if SEEN in memory else 0
        memory[SEEN] = np.array([seen + 1])
        if seen < self.after:
            return Minded(kept, memory), update, facts
        if REFERENCE not in memory:
            memory[REFERENCE] = np.concatenate(agreed)
        before = float(memory[SHARE][0]) if SHARE in memory else 0.0
        share = min(1.0, max(0.0, before + self.gain * (accuracy(task, network(order, task)) - self.wanted)))
        memory[SHARE] = np.array([share])
        ends = np.cumsum([len(one) for one in agreed])[:-1]
        pairs = zip(agreed, np.split(memory[REFERENCE], ends), strict=True)
        lies = tuple(inverse(aimed(now, reference, share)) for now, reference in pairs)
        return Minded(kept, memory), replace(update, ranks=lies), facts


def common(known: Sequence[Ranks]) -> Ranking:
    """The colluders' own ranks of one layer, added up and sorted."""
    total = np.sum([np.asarray(one, dtype=np.int64) for one in known], axis=0)
    return sorted_places(total).astype(np.int32)


def make(
    wanted: float = 0.8, gain: float = 1.0, after: int = 3, folder: str = "", colluders: int = 1, wait_s: float = 5.0
) -> Adversary:
    """Holds the accuracy on the liars' own records at `wanted`, as far as their votes reach.

    gain: how much larger the share of edges it aims at becomes in a round, for an accuracy that is 1 above `wanted`.
    after: rounds in which it is honest, so that there is a reference.
    folder, wait_s: as for `ranks.make`.
    """
    if not 0.0 <= wanted <= 1.0:
        raise ConfigError(f"wanted = {wanted}; an accuracy from 0 to 1")
    if not 0.0 < gain <= 100.0:
        raise ConfigError(f"gain = {gain}; it must be above 0 and at most 100")
    if after < 0:
        raise ConfigError(f"after = {after}; it must not be below 0")
    if colluders < 1:
        raise ConfigError(f"colluders = {colluders}; at least 1")
    if colluders > 1 and not folder:
        raise ConfigError("several colluders need a folder that they share; set folder")
    channel = Channel(Path(folder), colluders, wait_s) if colluders > 1 else None
    return lambda honest, client: Controller(honest, client, wanted, gain, after, channel)
