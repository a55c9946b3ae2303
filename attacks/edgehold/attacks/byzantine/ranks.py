"""Lies in rankings, against FRL: reversal, half swap, the band around the cut, VEM in closed form, and pairs pressed across.

Knowledge K1: the colluders know each other's honest rankings, through a folder of their own (`channel`), and how many votes a
round has. Everything they send is a permutation. A ranking lists edge ids, the least important first.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.ranks:make",
options = {lie = "vem", folder = "...", colluders = 2}.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.channel import Channel
from edgehold.core.config import suggest
from edgehold.core.contract import Adversary, ClientSide, Facts
from edgehold.core.errors import ConfigError
from edgehold.core.task import Task
from edgehold.core.vectors import Array
from edgehold.defenses.frl.forms import PACKED, encoded
from edgehold.defenses.frl.sorting import inverse, sorted_places
from edgehold.defenses.frl.state import Order, Ranking, Ranks, Update
from edgehold.defenses.layers import dropped_edges


@dataclass(frozen=True)
class Sight:
    """What a colluder knows of one layer.

    own: its honest ranking; known: the honest rankings of all colluders, its own among them; votes: in the round, lies
    included; dropped: edges below the cut; cap: widest band on either side of the cut, in edges; None: no limit.
    """

    own: Ranking
    known: Sequence[Ranking]
    votes: int
    dropped: int
    cap: int | None = None

    def expected(self) -> Array:
        """(n,) float64: votes that everybody else is expected to give, from the colluders' own honest ones.

        Their sum times (U / m - 1), as in VEM.
        """
        total = np.zeros(len(self.own), dtype=np.int64)
        for ranking in self.known:
            total += inverse(ranking)
        return total * max(self.votes / len(self.known) - 1.0, 0.0)

    def agreed(self) -> Ranking:
        """The colluders' honest rankings added up and sorted."""
        total = np.zeros(len(self.own), dtype=np.int64)
        for ranking in self.known:
            total += inverse(ranking)
        return sorted_places(total).astype(np.int32)

    def band(self, agreed: Ranking) -> Array:
        """(n,) bool by place in `agreed`: edges that so many liars can be expected to take across the cut.

        Those within m (n - 1) votes of the first edge above the cut.
        """
        if not 0 < self.dropped < len(agreed):
            return np.zeros(len(agreed), dtype=bool)
        votes = self.expected()[agreed]
        inside: Array = np.abs(votes - votes[self.dropped]) <= len(self.known) * (len(agreed) - 1)
        if self.cap is not None:
            places = np.arange(len(agreed))
            inside &= (places >= self.dropped - self.cap) & (places < self.dropped + self.cap)
        return inside


def reverse(sight: Sight) -> Ranking:
    """What the colluders would vote together, upside down. Source: Mozaffari et al. 2023 (their worst case)."""
    return sight.agreed()[::-1].copy()


def swap_half(sight: Sight) -> Ranking:
    """Upper and lower half exchanged, each in honest order. Source: repository yohai7700/FRL."""
    agreed = sight.agreed()
    half = len(agreed) // 2
    return np.concatenate([agreed[half:], agreed[:half]])


def swap_half_reverse(sight: Sight) -> Ranking:
    """As `swap_half`, with the former upper half upside down as well. Source: repository yohai7700/FRL."""
    agreed = sight.agreed()
    half = len(agreed) // 2
    return np.concatenate([agreed[half:][::-1], agreed[:half]])


def band(sight: Sight) -> Ranking:
    """Edges of the band that are out go to the top, those nearest to the cut highest; edges that are in go to the bottom, those
    nearest to the cut lowest; everything else stays in honest order. Source: ours; a cheap stand-in for VEM.
    """
    agreed = sight.agreed()
    inside = sight.band(agreed)
    out, kept = inside.copy(), inside.copy()
    out[sight.dropped :] = False
    kept[: sight.dropped] = False
    return np.concatenate([agreed[kept], agreed[~inside], agreed[out]])


def vem(sight: Sight) -> Ranking:
    """Inside the band the liar's own ranks in reverse order of the expected votes, outside its honest ranking.

    By the rearrangement inequality this is the permutation with the least sum of votes times ranks over the band. That is not
    the one that flips most edges: in 400 drawn cases of seven edges (1 or 2 liars of 3 to 8, who know all votes) the best
    permutation of the same ranks in the band flipped 460, this one 171; it was as good in 158 cases. See `press`.
    Source: Gong et al. 2025, arXiv:2503.08976 (objective; they search it with a relaxation); closed form ours.
    """
    agreed = sight.agreed()
    edges = agreed[sight.band(agreed)]  # by rising votes
    ranks = inverse(sight.own)
    ranks[edges] = np.sort(ranks[edges])[::-1]
    return inverse(ranks)


def press(sight: Sight) -> Ranking:
    """The j edges just below the cut on top, the j just above it at the bottom, with the j that flips most expected edges.

    Those farthest from the cut get the most extreme ranks, so that the pair with the widest gap is pushed hardest; everything
    else stays in honest order. Of 32 sizes j up to the band. In the 400 cases told under `vem` it flipped 443 edges with every
    j tried, the best permutation of all 514, `band` 335. Source: ours.
    """
    agreed, cut = sight.agreed(), sight.dropped
    inside = sight.band(agreed)
    most = min(int(np.count_nonzero(inside[:cut])), int(np.count_nonzero(inside[cut:])))
    if not most:
        return sight.own
    votes, best, found = sight.expected(), -1, sight.own
    for size in np.unique(np.linspace(1, most, min(most, 32)).astype(int)):
        low, high = cut - size, cut + size
        lie = np.concatenate([agreed[cut:high][::-1], agreed[:low], agreed[high:], agreed[low:cut][::-1]])
        after = sorted_places(votes.astype(np.int64) + len(sight.known) * inverse(lie).astype(np.int64))
        kept = np.zeros(len(agreed), dtype=bool)
        kept[after[cut:]] = True
        flips = int(np.count_nonzero(kept[agreed[:cut]]))
        if flips > best:
            best, found = flips, lie
    return found


LIES: Mapping[str, Callable[[Sight], Ranking]] = {
    "reverse": reverse,
    "swap_half": swap_half,
    "swap_half_reverse": swap_half_reverse,
    "band": band,
    "vem": vem,
    "press": press,
}


def forge(
    lie: str, own: Sequence[Ranks], known: Sequence[Sequence[Ranks]], votes: int, keep: float, cap: int | None = None
) -> tuple[Ranks, ...]:
    """Ranks of the lie of that name, layer by layer. own: ranks of the liar; known: of every colluder, the liar's among them.

    Where only the upper ranks are told, the others count as 0 and stand in the order of their ids.
    """
    found = []
    for at, mine in enumerate(own):
        lists = [sorted_places(one[at]).astype(np.int32) for one in known]
        sight = Sight(sorted_places(mine).astype(np.int32), lists, votes, dropped_edges(len(mine), keep), cap)
        found.append(inverse(LIES[lie](sight)))
    return tuple(found)


def make(
    lie: str = "reverse", folder: str = "", colluders: int = 1, cohort: int = 8, cap: int | None = None, wait_s: float = 5.0
) -> Adversary:
    """Sends the lie of that name instead of the honest rankings.

    folder: shared by the colluders alone, made if missing; a single one needs none. cohort: votes in a round; cap: widest
    band on either side of the cut, for "band" and "vem"; wait_s: how long to wait for the others' rankings of this round;
    after that their latest ones serve.
    """
    if lie not in LIES:
        raise ConfigError(f"lie = {lie!r}{suggest(lie, list(LIES))}")
    if not 1 <= colluders <= cohort:
        raise ConfigError(f"colluders = {colluders} of cohort = {cohort}; allowed: 1 to {cohort}")
    if colluders > 1 and not folder:
        raise ConfigError("several colluders need a folder that they share; set folder")
    if cap is not None and cap < 0:
        raise ConfigError(f"cap = {cap}; it must not be below 0")
    channel = Channel(Path(folder), colluders, wait_s) if colluders > 1 else None

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        def tell(order: Order, own: Sequence[Ranks]) -> tuple[Ranks, ...]:
            known = shared(channel, client, order, own) if channel else [own]
            return forge(lie, own, known, cohort, order.training.keep, cap)

        return RankLiar(honest, tell)

    return adversary


@dataclass(frozen=True)
class RankLiar:
    """Works honestly, then sends `tell(order, ranks)` instead of its ranks."""

    honest: ClientSide[Any, Any, Any]
    tell: Callable[[Order, Sequence[Ranks]], tuple[Ranks, ...]]

    def begin(self, order: Any, task: Task, rng: np.random.Generator) -> Any:
        """As the honest client."""
        return self.honest.begin(order, task, rng)

    def work(self, order: Any, local: Any, task: Task, rng: np.random.Generator) -> tuple[Any, Any, Facts]:
        """Honest work with other rankings; `ConfigError` when the method's update has none."""
        local, update, facts = self.honest.work(order, local, task, rng)
        if not isinstance(update, Update):
            raise ConfigError(f"this attack changes rankings; {type(update).__qualname__} has none. Use it with method frl")
        return local, replace(update, ranks=self.tell(order, update.ranks)), facts

    def dump(self, local: Any) -> bytes:
        """As the honest client."""
        return self.honest.dump(local)

    def load(self, data: bytes) -> Any:
        """As the honest client."""
        return self.honest.load(data)


def shared(channel: Channel, client: str, order: Order, own: Sequence[Ranks]) -> list[list[Ranks]]:
    """The ranks of all colluders, layer by layer. Files of another model are left aside."""
    blob = encoded(order.ranks, (PACKED,) * len(order.ranks))
    key = hashlib.sha256(order.round.to_bytes(8, "little") + blob.read(0, blob.size)).digest()
    mine = np.concatenate([np.asarray(one, dtype="<i4") for one in own]).tobytes()
    ends = np.cumsum([len(one) for one in own])[:-1]
    found = [data for data in channel.share_bytes(client, key, mine) if len(data) == len(mine)]
    return [np.split(np.frombuffer(data, dtype="<i4").astype(np.int32), ends) for data in found]
