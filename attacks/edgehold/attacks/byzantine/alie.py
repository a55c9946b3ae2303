"""A little is enough (ALIE): stay so close to the honest spread that no rule can tell, always on the same side.

Knowledge K1: the colluders know each other's honest updates and nothing else. They share them through a folder of their own,
behind the server's back. Source: Baruch et al. 2019, algorithm 3; z as there unless given.
"""

from math import floor
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.channel import Channel, round_key
from edgehold.attacks.byzantine.wrap import Liar
from edgehold.core.contract import Adversary, ClientSide
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray, blocks


def supported_z(cohort: int, colluders: int) -> float:
    """z so that enough honest clients lie farther out than the colluders to make these look like the majority.

    With s = floor(n/2 + 1) - f supporters needed among h = n - f honest ones: the normal quantile of (h - s) / h;
    0.3 where that is not above 0, 1.5 where no supporter is needed.
    """
    honest = cohort - colluders
    supporters = floor(cohort / 2 + 1) - colluders
    if supporters <= 0:
        return 1.5
    share = (honest - supporters) / honest if honest else 0.0
    z = NormalDist().inv_cdf(share) if share > 0 else 0.0
    return z if z > 0 else 0.3


def make(
    folder: str, colluders: int = 2, cohort: int = 8, z: float | None = None, sign: int = -1, wait_s: float = 5.0
) -> Adversary:
    """Sends mean + sign * z * sd of the colluders' honest updates, coordinate by coordinate (sd divided by colluders - 1).

    folder: shared by the colluders alone, made if missing; colluders: how many there are, at least 2; cohort: clients in
    a round; wait_s: how long to wait for the others' updates of this round. After that their latest ones serve, from
    whatever round, and without any the honest update is sent.
    """
    if colluders < 2 or cohort <= colluders:
        raise ConfigError(f"colluders = {colluders} of cohort = {cohort}; allowed: 2 to {cohort - 1}")
    if sign not in (-1, 1):
        raise ConfigError(f"sign = {sign}; allowed: -1, 1")
    shift = sign * (supported_z(cohort, colluders) if z is None else z)
    channel = Channel(Path(folder), colluders, wait_s)

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        def lie(order: Any, delta: FloatArray, rng: np.random.Generator) -> FloatArray:
            known = channel.share(client, round_key(order.model), delta)
            if len(known) < 2:
                return delta
            out = np.empty_like(delta)
            for start, stop in blocks(len(delta)):
                values = np.array([update[start:stop] for update in known], dtype=np.float64)
                out[start:stop] = values.mean(axis=0) + shift * values.std(axis=0, ddof=1)
            return out

        return Liar(honest, lie)

    return adversary
