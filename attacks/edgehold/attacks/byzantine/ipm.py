"""Inner-product manipulation (IPM, "fall of empires"): push against the direction in which everybody else moves.

Knowledge K1: the colluders know each other's honest updates, through a folder of their own (`channel`). A small tau hides
among honest updates and slips past Krum; a large one drags an average or stalls a median. Source: Xie et al. 2020.
In client.toml: [adversary] entry = "edgehold.attacks.byzantine.ipm:make", options = {folder = "...", colluders = 2}.
"""

from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.attacks.byzantine.channel import Channel, round_key
from edgehold.attacks.byzantine.wrap import Liar
from edgehold.core.contract import Adversary, ClientSide
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import FloatArray, blocks


def make(folder: str = "", colluders: int = 1, tau: float = 0.5, wait_s: float = 5.0) -> Adversary:
    """Sends -tau times the mean of the colluders' honest updates.

    folder: shared by the colluders alone, made if missing; a single colluder needs none. tau: 0.1 against Krum-like rules,
    0.5, 2 or 100 against averages and medians. wait_s: how long to wait for the others' updates of this round; after that
    their latest ones serve.
    """
    if not (tau > 0 and isfinite(tau)):
        raise ConfigError(f"tau = {tau}; it must be finite and above 0, or this pushes nowhere")
    if colluders < 1:
        raise ConfigError(f"colluders = {colluders}; at least 1")
    if colluders > 1 and not folder:
        raise ConfigError("several colluders need a folder that they share; set folder")
    channel = Channel(Path(folder), colluders, wait_s) if colluders > 1 else None

    def adversary(honest: ClientSide[Any, Any, Any], client: str) -> ClientSide[Any, Any, Any]:
        def lie(order: Any, delta: FloatArray, rng: np.random.Generator) -> FloatArray:
            known = channel.share(client, round_key(order.model), delta) if channel else [delta]
            out = np.empty_like(delta)
            for start, stop in blocks(len(delta)):
                values = np.array([update[start:stop] for update in known], dtype=np.float64)
                out[start:stop] = -tau * values.mean(axis=0)
            return out

        return Liar(honest, lie)

    return adversary
