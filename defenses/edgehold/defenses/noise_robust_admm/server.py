"""Noise-robust ADMM on the server: a mean, over the round's devices or over what everybody sent last."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from edgehold.core.contract import Cohort, Facts, Packed, Weighted
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Schema, Space, Vector, written
from edgehold.defenses.memory import Memory, Rows
from edgehold.defenses.noise_robust_admm.link import sent
from edgehold.defenses.noise_robust_admm.state import Doubles, Order, Settings, State, Training, Update

_MEMORY = ("anchored", "continual")


class AdmmServer:
    """settings: the plan's; schema: the model's; seed: training seed of the run."""

    def __init__(self, settings: Settings, schema: Schema, seed: int) -> None:
        self._settings, self._schema, self._seed = settings, schema, seed
        self._memory = settings.form in _MEMORY

    def start(self, model: Vector) -> State:
        """Nobody has answered. `ConfigError` where the form must start from 0 and the first model is another one."""
        first = model.whole()
        if self._settings.form != "anchored" and first.any():
            raise ConfigError(
                f'form = "{self._settings.form}" holds its data only in its start, which is 0: leave model.file out, or use '
                '"anchored"',
                field="model.file",
            )
        s = Vector.of(first.astype(np.float64))
        return State(Vector.of(first.astype(np.float32)), 0, s, s, unit=1.0 if self._settings.rho_rule == "given" else 0.0)

    def open(self, state: State, cohort: Cohort) -> Order:
        """p = 2 s - s before ("rerce"), the mean of what all sent last ("anchored", "continual"), or s twice ("dual")."""
        how = self._settings
        rho = how.rho_of(cohort.round) * (state.unit or 1.0)
        values = {name: getattr(how, name) for name in Training.__struct_fields__} | {"rho": rho}
        s, before = state.s.whole(), state.before.whole()
        p = {"rerce": 2 * s - before, "dual": np.concatenate([s, s])}.get(how.form, s)
        chance = stream(self._seed, "noise_robust_admm", "down", cohort.round)
        return Order(self._seed, cohort.round, Training(**values), sent(p, 0.0, how.wire, chance), not state.unit)

    def claim(self, update: Update) -> float:
        """Every device counts the same: scale its loss to weigh it."""
        return 1.0

    def close(self, state: State, updates: Sequence[Weighted[Update]], space: Space) -> tuple[State, Facts]:
        """The new mean, in the order of client ids. Without a single update nothing changes but the count."""
        said = {one.client: one.update.u.whole().astype(np.float64) for one in updates}
        rows = (state.memory.read() if state.memory else {}) | said if self._memory else {}
        of = rows if self._memory else said
        if not of:
            return replace(state, closed=state.closed + 1), {}
        mean, unit = _mean(of), state.unit or _unit([one.update.curvature for one in updates])
        facts = {
            "step_norm": float(np.linalg.norm(mean - state.s.whole())),
            "channel_noise_up": self._settings.noise_up,
            "channel_noise_down": self._settings.noise_down,
            "devices_in_mean": float(len(of)),
        }
        return self._state(state, mean, rows, unit, space), facts

    def weights(self, state: State, space: Space) -> Vector:
        """The mean as float32: s, or the mean of 2 x - w, which is where everybody's x goes."""
        return state.model

    def pack(self, state: State) -> Packed:
        """Everything: a lost s or a lost row would change the answer for good."""
        blobs = {"model": state.model.blob, "s": state.s.blob, "before": state.before.blob}
        blobs |= state.memory.blobs() if state.memory else {}
        return Packed(blobs, {"closed": state.closed, "unit": state.unit})

    def unpack(self, packed: Packed) -> State:
        """Inverse of `pack`."""
        blobs = packed.blobs
        s, before = Vector(blobs["s"], "<f8"), Vector(blobs["before"], "<f8")
        unit = float(packed.scalars["unit"])
        return State(Vector(blobs["model"]), int(packed.scalars["closed"]), s, before, Memory.stored(blobs), unit)

    def _state(self, old: State, s: Doubles, rows: Rows, unit: float, space: Space) -> State:
        before = written(old.s.whole(), space, "<f8")
        memory = Memory.of(rows, space)
        return State(written(s, space), old.closed + 1, written(s, space, "<f8"), before, memory, unit)


def _unit(said: Sequence[float]) -> float:
    """Median of the mean eigenvalues that devices say: fewer than half cannot move it far. `ConfigError` without any."""
    sound = [one for one in said if one > 0]
    if not sound:
        raise ConfigError('no device said what its eigenvalues are; give rho itself, with rho_rule = "given"', field="rho_rule")
    return median(sound)


def _mean(rows: Mapping[str, Doubles]) -> Doubles:
    """In the order of the names, one after the other, so that it repeats exactly."""
    total = np.zeros(len(next(iter(rows.values()))))
    for name in sorted(rows):
        total += rows[name]
    return total / len(rows)


def server_side(settings: Settings, schema: Schema, seed: int) -> AdmmServer:
    """The server half."""
    return AdmmServer(settings, schema, seed)
