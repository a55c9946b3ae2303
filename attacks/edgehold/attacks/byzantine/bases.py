"""Lies in bases, against FedPCA: liars agree on a subspace turned away from the honest one, and all send it, round after round.

What they send is orthonormal, so that it is lawful. Knowledge K1: the liars' own honest bases, through a folder of their own
(`channel`), pooled once; from then on they need nothing. Against a server that remembers (mode "fedpg") what a device sent and
what it should have sent is added up round after round, so that a steady lie wins in the end however few tell it.

Source: ours; that a device can turn the mean is on the method's card.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.bases:make",
options = {angle = 90.0, folder = "...", colluders = 2}.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import acos, degrees, isfinite, radians
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.byzantine import payload
from edgehold.attacks.byzantine.channel import Channel
from edgehold.attacks.byzantine.knowledge import K1
from edgehold.attacks.byzantine.wrap import Memory
from edgehold.core.anomaly import Doubles, orthonormal
from edgehold.core.contract import Adversary
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.defenses.fedpca.state import Basis, Histogram, Moments, Order
from edgehold.defenses.fedpca.subspace import qf

SEEN, GOAL = "rounds of bases", "goal"


@dataclass(frozen=True)
class Rotate:
    """angle: between what is sent and the honest subspace, in degrees, above 0 and below 180; 0: the one that turns a plain
    mean farthest (`best_angle`). after: rounds of bases in which they tell the truth, so that the honest subspace is known.
    secret: what the liars agreed on; the directions they turn to follow from it.
    hide: a direction among the standard columns, (d,); then only the last component turns, to what of it lies outside the
    honest subspace, so that records that lie along it score low. Empty: every component turns.
    """

    angle: float = 90.0
    after: int = 5
    secret: int = 0
    hide: Sequence[float] = ()
    needs = K1

    def __post_init__(self) -> None:
        if not 0.0 <= self.angle < 180.0:
            raise ConfigError(f"angle = {self.angle}; degrees above 0 and below 180, or 0 for the best against a mean")
        if self.after < 0:
            raise ConfigError(f"after = {self.after}; it must not be below 0")
        if len(self.hide) and not (all(map(isfinite, self.hide)) and any(self.hide)):
            raise ConfigError(f"hide: a direction of {len(self.hide)} numbers must be finite and not all zero")

    def tell(self, order: Order, own: Any, known: Sequence[Any], clients: int, memory: Memory) -> Any:
        """The goal instead of the own basis; the truth in the first `after` rounds and to whatever else is asked."""
        if isinstance(own, Moments | Histogram):
            return own
        payload.of_kind(own, Basis, "bases", "fedpca")
        seen = int(memory[SEEN][0]) if SEEN in memory else 0
        memory[SEEN] = np.array([seen + 1])
        if seen < self.after:
            return own
        if GOAL not in memory:
            bases = [one.basis.astype(np.float64) for one in known if isinstance(one, Basis)]
            memory[GOAL] = self.goal(bases, clients).astype(np.float32)
        return replace(own, basis=memory[GOAL])

    def goal(self, bases: Sequence[Doubles], clients: int) -> Doubles:
        """(d, k), orthonormal. bases: honest ones of the liars, (d, k) each; clients: in a round."""
        honest = orthonormal(np.mean(bases, axis=0))[0]
        d, k = honest.shape
        angle = self.angle or best_angle(len(bases), clients)
        if len(self.hide):
            if len(self.hide) != d:
                raise ConfigError(f"hide: a direction of {len(self.hide)} numbers; this task has {d} columns")
            wanted = np.asarray(self.hide, dtype=np.float64)[:, None]
        else:
            wanted = stream(self.secret, "bases").standard_normal((d, min(k, d - k)))
        outside = wanted - honest @ (honest.T @ wanted)
        if np.linalg.norm(outside) <= 1e-9 * np.linalg.norm(wanted):
            return honest  # what is to be hidden lies in the honest subspace already
        return turned(honest, qf(outside), angle)


def turned(honest: Doubles, away: Doubles, angle: float) -> Doubles:
    """The last columns of `honest` turned by `angle` degrees to `away`, (d, j) with j <= k, orthonormal and at right angles to
    `honest`. Every turned principal angle to the honest subspace is min(angle, 180 - angle).
    """
    found, j = honest.copy(), away.shape[1]
    found[:, -j:] = np.cos(radians(angle)) * honest[:, -j:] + np.sin(radians(angle)) * away
    return qf(found)


def best_angle(liars: int, clients: int) -> float:
    """Degrees that turn a plain mean of bases farthest, to arcsin(f / h): arccos(-f / h) for f liars beside h honest ones, 90
    where those are no more than the liars, who then win with any. `ConfigError` where nobody is honest.

    The mean's components lie along h + f cos(t) of the honest and f sin(t) of the new directions: the ratio is largest there.
    """
    honest = clients - liars
    if honest < 1:
        raise ConfigError(f"clients = {clients} of whom {liars} lie; say how many there are in a round with cohort")
    return degrees(acos(-liars / honest)) if liars < honest else 90.0


def make(
    angle: float = 90.0, after: int = 5, secret: int = 0, hide: Sequence[float] = (), folder: str = "", colluders: int = 1,
    cohort: int | None = None, wait_s: float = 5.0,
) -> Adversary:  # fmt: skip
    """`Rotate` on a device.

    folder: shared by the colluders alone, made if missing; a single one needs none. cohort: clients in a round, for angle = 0.
    wait_s: how long to wait for the others' bases of this round; after that their latest ones serve.
    """
    attack = Rotate(angle, after, secret, tuple(hide))
    if colluders < 1 or (cohort is not None and colluders > cohort):
        raise ConfigError(f"colluders = {colluders} of cohort = {cohort}; allowed: 1 to {cohort or 'any number'}")
    if not angle and cohort is None:
        raise ConfigError("angle = 0 follows from how many clients there are; set cohort")
    if colluders > 1 and not folder:
        raise ConfigError("several colluders need a folder that they share; set folder")
    if colluders == 1:
        return payload.adversary(attack, cohort or 2)
    channel = Channel(Path(folder), colluders, wait_s)

    def pool(client: str, order: Order, own: Any) -> Sequence[Any]:
        if not isinstance(own, Basis) or order.basis is None:
            return [own]
        key = hashlib.sha256(order.round.to_bytes(8, "little") + order.basis.tobytes()).digest()
        data = channel.share_bytes(client, key, own.basis.astype("<f4").tobytes())
        fitting = [np.frombuffer(one, "<f4").reshape(own.basis.shape) for one in data if len(one) == own.basis.nbytes]
        return [replace(own, basis=basis) for basis in fitting]

    return payload.adversary(attack, cohort or colluders + 1, pool)
