"""DP-FedAvg on the server: clip each update, add noise to the sum, let the clip follow a noisy quantile of the norms.

Sources: McMahan et al. 2018, arXiv:1710.06963 (user-level noise); Andrew et al. 2021, arXiv:1905.03871 (adaptive clipping).
Departures: no gain from sampling is claimed, because cohorts are drawn from a seed that is no secret; who takes part is public.
"""

import json
from collections.abc import Sequence
from math import exp
from statistics import median

import numpy as np

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.errors import ConfigError
from edgehold.core.privacy.budget import Filter, Spent
from edgehold.core.privacy.events import Event, Gaussian
from edgehold.core.privacy.noise import Noise, SystemNoise, gap
from edgehold.core.privacy.release import grid_shift, noised
from edgehold.core.vectors import Schema, Space, Vector, blocks, finite_norm
from edgehold.defenses.baselines.dp_fedavg.state import Order, Settings, State, Training, Update
from edgehold.defenses.baselines.fedavg.server import FedAvgServer, Step

_ROUNDING = 2.0**-30
"""Relative: what float64 sums of up to a million clipped updates can add to the distance of two sums."""


class DpFedAvgServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run. noise: of the operating system; another is of
    use in tests alone.
    """

    def __init__(self, settings: Settings, schema: Schema, seed: int, noise: Noise | None = None) -> None:
        self._settings, self._schema, self._seed = settings, schema, seed
        self._noise: Noise = noise or SystemNoise()
        self._fedavg = FedAvgServer(settings.combining(), schema, seed)
        self._training = Training(**{name: getattr(settings, name) for name in Training.__struct_fields__})

    def start(self, model: Vector) -> State:
        """State before the first round."""
        return State(self._fedavg.start(model), self._settings.clip_norm, {})

    def open(self, state: State, cohort: Cohort) -> Order:
        """The same order for everyone."""
        return Order(state.combined.model, self._training, self._seed)

    def claim(self, update: Update) -> float:
        """1: a claimed count of records is private, and would move the sensitivity."""
        return 1.0

    def charges(self, state: State) -> tuple[Event, ...]:
        """What closing a round on this state releases about each device in it, and about any that is not."""
        how, sigma = self._settings, self._settings.sum_multiplier * state.clip
        reach = state.clip * (1 + _ROUNDING) + grid_shift(self._schema.size) * sigma
        found: list[Event] = [Gaussian(sensitivity=reach, sigma=sigma, unit="user", sampler=gap(self._schema.size))]
        if how.quantile > 0:
            reach = 0.5 + grid_shift(1) * how.quantile_noise
            found.append(Gaussian(sensitivity=reach, sigma=how.quantile_noise, unit="user", sampler=gap(1)))
        return tuple(found)

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """The noisy average of the clipped updates, and the next clip. Norms and shares clipped are private: told nowhere."""
        how, clip = self._settings, state.clip
        deltas = [one.update.delta for one in updates]
        norms = [finite_norm(one.update.delta) if one.update.norm is None else one.update.norm for one in updates]
        scales = [min(1.0, clip / norm) if norm > 0 else 1.0 for norm in norms]
        step = Step(state.combined, how.server_momentum, how.server_learning_rate, space)
        for start, stop in blocks(self._schema.size):
            total = np.zeros(stop - start)
            for delta, scale in zip(deltas, scales, strict=True):
                total += delta.read(start, stop).astype(np.float64) * scale
            step.write(noised(total, how.sum_multiplier * clip, self._noise) / len(deltas))
        model = step.finish()
        rounds = dict(state.rounds)
        for one in updates:
            rounds[one.client] = rounds.get(one.client, 0) + 1
        after = State(type(state.combined)(model, step.velocity()), self._next(clip, norms), rounds)
        return after, {"step_norm": step.norm, "clip_norm": clip} | self._spent(rounds)

    def weights(self, state: State, space: Space) -> Vector:
        """The model as it is."""
        return state.combined.model

    def pack(self, state: State) -> Packed:
        """FedAvg's state, the clip, and rounds by client."""
        packed = self._fedavg.pack(state.combined)
        rounds = json.dumps(dict(state.rounds), sort_keys=True)
        return Packed(packed.blobs, {**packed.scalars, "clip": state.clip, "rounds": rounds})

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        if "clip" not in packed.scalars:
            raise ConfigError(f"stored state has {sorted(packed.scalars)}; the clip is missing")
        rounds = json.loads(str(packed.scalars.get("rounds", "{}")))
        return State(self._fedavg.unpack(packed), float(packed.scalars["clip"]), rounds)

    def _next(self, clip: float, norms: Sequence[float]) -> float:
        """C exp(-rate (noisy share of norms below C - quantile)). Each norm counts as +1/2 or -1/2: one moves it by 1/2."""
        how = self._settings
        if how.quantile == 0:
            return clip
        count = noised(np.array([sum(0.5 if norm <= clip else -0.5 for norm in norms)]), how.quantile_noise, self._noise)
        share = float(count[0]) / len(norms) + 0.5
        # A noisy share lies anywhere; the clip moves no faster than from the most extreme one that exists.
        moved = clip * exp(-how.quantile_rate * (min(max(share, 0.0), 1.0) - how.quantile))
        return min(max(moved, 1e-9), 1e9)

    def _spent(self, rounds: dict[str, int]) -> Facts:
        """Every round is (1/z)-GDP, but for rounding and the sampler; the ledger knows those too."""
        found = []
        for count in rounds.values():
            spent = Spent(count / self._settings.noise_multiplier**2)
            found.append(spent.epsilon(Filter(), self._settings.delta))
        return {"epsilon_worst": max(found), "epsilon_median": median(found)}


def server_side(settings: Settings, schema: Schema, seed: int) -> DpFedAvgServer:
    """The server half."""
    return DpFedAvgServer(settings, schema, seed)
