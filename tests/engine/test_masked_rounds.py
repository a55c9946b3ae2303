"""Masked rounds in one process: the same model as without masks where nothing is lost, and what liars in sums can do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgehold.attacks.eval.data import make_task
from edgehold.client.data.synthetic import SyntheticTask
from edgehold.core.errors import ConfigError
from edgehold.core.facts import FACTS
from edgehold.core.masks.sizing import sized
from edgehold.core.plan import MasksTable, PrivacyTable, parse_plan
from edgehold.core.task import Task
from edgehold.core.vectors import Array, Vector
from edgehold.defenses import registry
from edgehold.server.engine import GroupView, Result, Store, View, run

SIZE = 6


def fleet(count: int, step: float = 0.25) -> dict[str, Task]:
    """Device i moves every value by step x (i + 1) / count."""
    return {f"c{number:02}": SyntheticTask(SIZE, step * (number + 1) / count, 1) for number in range(count)}


def go(
    tasks: Mapping[str, Task],
    masks: str | None = "",
    method: str = 'name = "fedavg"',
    rounds: int = 2,
    quorum: int = 0,
    **how: Any,
) -> Result:
    """masks: the [masks] table; None: not masked."""
    text = f"""
        [run]
        name = "masked"
        rounds = {rounds}
        task = "t"
        seed = 3
        [cohort]
        size = {len(tasks)}
        quorum = {quorum or 8}
        over_select = 1.0
        [weights]
        by = "equal"
        [method]
        {method}
    """
    if masks is not None:
        text += f"[privacy]\nmasked = true\n[masks]\n{masks}\n"
    return run(*parse_plan(text, registry.method), tasks, **how)


REALS = "clip = 1.0\ngroup_least = 8\ngroup_most = 16"
ZERO = Vector.of(np.zeros(SIZE, np.float32))


@pytest.mark.parametrize("method", ['name = "frl"\nbatch_size = 4', 'name = "hidenseek"\nkeep = 0.5\nlocal_epochs = 1'])
@pytest.mark.parametrize("masks", ["", "group_least = 8\ngroup_most = 15"])
def test_votes_under_masks_give_the_model_of_votes_in_the_clear(method: str, masks: str) -> None:
    """One group, then two: to the bit."""
    net = {"hidden": [7], "bias": False}
    tasks = {f"c{i:02}": make_task("digits", i, 17, limit=6, model="mlp", net=net) for i in range(17)}
    own = make_task("digits", None, 17, test_limit=20, model="mlp", net=net)
    plain, masked = (go(tasks, table, method, evaluate=own) for table in (None, masks))
    assert masked.digest == plain.digest
    assert [one["accuracy"] for one in masked.rounds] == [one["accuracy"] for one in plain.rounds]
    said = [{name: one[name] for name in one if name.startswith("mask_")} for one in masked.rounds]
    groups = 2.0 if masks else 1.0
    assert said == [{"mask_groups": groups, "mask_groups_void": 0.0, "mask_groups_lost": 0.0, "mask_survivors": 17.0}] * 2
    assert set(masked.rounds[0]) <= set(FACTS)
    bits = 16 if method.startswith('name = "frl"') else 8
    entries = own.schema.size if bits == 16 else round(own.schema.size / 2)
    assert masked.rounds[0]["bytes_up"] == 17 * entries * bits / 8


@pytest.mark.parametrize("count", [8, 16, 30])
def test_fedavg_under_masks_is_fedavg_within_half_a_step(count: int) -> None:
    plain, masked = (go(fleet(count), table, initial=ZERO) for table in (None, REALS + "\nbits = 16"))
    step = 1.0 / (sized(MasksTable(clip=1.0, bits=16, group_least=8, group_most=16), SIZE, 0).largest / 2)
    far = np.max(np.abs(plain.model.whole() - masked.model.whole()))
    assert far <= 2 * (step / 2) + 1e-6
    assert masked.rounds[0]["mask_groups"] == count // 8


@dataclass(frozen=True)
class Puts:
    """Liars that put a constant, or what `law` makes of the group's largest sum."""

    members: frozenset[str]
    value: int | None = None

    def put(self, view: GroupView) -> Array:
        assert set(view.liars) == self.members & set(view.clients)
        assert len(view.own) == len(view.honest) == view.form.entries == SIZE
        if self.value is not None:
            return np.full(SIZE, self.value)
        # Lawful as a sum alone: every entry of the group as large as entries of so many can be.
        return len(view.clients) * view.form.largest - view.honest


LIAR = frozenset({"c03"})
BEYOND = 3_000_000_000
"""Of 32 bits; eight lawful entries reach 2^31, and seven honest ones stand at about 2^30."""


def test_a_sum_outside_the_law_is_left_out_and_its_spoiler_found() -> None:
    tasks = fleet(40)
    result = go(tasks, REALS, rounds=5, initial=ZERO, sum_liars=Puts(LIAR, BEYOND))
    assert [one["mask_groups_void"] for one in result.rounds] == [1.0] * 5
    assert [one["mask_survivors"] for one in result.rounds] == [32.0] * 5
    # Groups are drawn anew with former company apart: whoever was with it once is cleared, it is not.
    assert max(result.suspected, key=lambda client: result.suspected[client]) == "c03"
    assert result.suspected["c03"] > 0.9
    assert sorted(result.suspected.values())[-2] < 0.1
    assert result.digest != go(tasks, REALS, rounds=5, initial=ZERO).digest
    # Nobody's name stands in a fact.
    assert go(tasks, REALS, rounds=1, initial=ZERO).suspected["c03"] < 0.02


def test_company_of_a_void_group_is_dealt_out() -> None:
    """Eight of a void group meet again in five groups: two to a group at most."""
    met: list[tuple[str, ...]] = []

    @dataclass(frozen=True)
    class Watch(Puts):
        def put(self, view: GroupView) -> Array:
            met.append(view.clients)
            return super().put(view)

    go(fleet(40), REALS, rounds=3, initial=ZERO, sum_liars=Watch(LIAR, BEYOND))
    assert len(met) == 3
    assert len(set(met[0]) & set(met[1])) <= 2


def test_a_lawful_swing_moves_four_groups_and_not_the_median_of_five() -> None:
    def last(count: int, liars: Puts | None) -> Array:
        return np.asarray(go(fleet(count), REALS, rounds=1, initial=ZERO, sum_liars=liars).model.whole(), np.float64)

    few = last(32, Puts(LIAR)) - last(32, None)
    assert few.min() > 0.15  # a quarter of the devices at the clip of 1 instead of about 0.13
    many = last(40, Puts(LIAR)) - last(40, None)
    assert np.abs(many).max() < 0.05


def test_a_round_with_too_few_lawful_devices_changes_nothing() -> None:
    found: list[float] = []
    result = go(
        fleet(24), REALS, rounds=2, quorum=17, initial=ZERO, sum_liars=Puts(LIAR, BEYOND),
        on_round=lambda number, facts: found.append(facts["mask_survivors"]),
    )  # fmt: skip
    assert found == [16.0, 16.0]
    assert not result.model.whole().any()
    assert go(fleet(24), REALS, rounds=2, quorum=16, initial=ZERO, sum_liars=Puts(LIAR, BEYOND)).model.whole().any()


def test_a_run_goes_on_with_what_it_knows_of_void_groups(tmp_path: Path) -> None:
    liars = Puts(LIAR, BEYOND)
    whole = go(fleet(40), REALS, rounds=4, initial=ZERO, sum_liars=liars)

    class Stop(Exception):
        pass

    def stop(number: int, facts: Any) -> None:
        if number == 2:
            raise Stop

    with pytest.raises(Stop):
        go(fleet(40), REALS, rounds=4, initial=ZERO, sum_liars=liars, store=Store(tmp_path / "run"), on_round=stop)
    again = go(fleet(40), REALS, rounds=4, initial=ZERO, sum_liars=liars, store=Store(tmp_path / "run"))
    assert again.digest == whole.digest
    assert again.suspected == whole.suspected
    with pytest.raises(ConfigError, match="attackers"):
        go(fleet(40), REALS, rounds=4, initial=ZERO, sum_liars=Puts(LIAR, 7), store=Store(tmp_path / "run"))


def test_noise_has_the_variance_that_the_plan_asks_for() -> None:
    """24 devices in one group, 4,000 entries: each entry of the sum carries 24 shares of V / (t + 1)."""
    entries = 4_000
    tasks = {f"c{number:02}": SyntheticTask(entries, 0.0, 1) for number in range(24)}
    masks = "norm = 1.0\nnoise_multiplier = 0.5\nbits = 32"
    result = go(tasks, masks, rounds=1, initial=Vector.of(np.zeros(entries, np.float32)))
    assert result.rounds[0]["mask_groups_void"] == 0.0
    # k = 23, t = 16: 24/17 of the variance (0.5 x 1)^2 on the sum, which is divided by 24.
    wanted = 0.25 * 24 / 17 / 24**2
    found = float(np.var(result.model.whole().astype(np.float64)))
    # The spread of a variance of 4,000 draws is sqrt(2 / 4000) = 2.2 %: six of them are passed once in 10^9 runs.
    assert abs(found / wanted - 1) < 0.14
    assert result.digest != go(tasks, masks, rounds=1, initial=Vector.of(np.zeros(entries, np.float32))).digest


def test_conspirators_foresee_the_outcome_of_the_sums() -> None:
    @dataclass
    class Spy:
        members: frozenset[str] = LIAR
        foreseen: list[list[float]] = field(default_factory=list)

        def lie(self, view: View) -> Mapping[str, Any]:
            lies = {c: replace(u, delta=Vector.of(np.full(SIZE, 0.75, np.float32))) for c, u in view.own.items()}
            self.foreseen.append(view.outcome(lies).whole().tolist())
            return lies

    spy = Spy()
    result = go(fleet(40), REALS, rounds=1, initial=ZERO, conspiracy=spy)
    assert spy.foreseen == [result.model.whole().tolist()]
    plain = go(fleet(40), None, rounds=1, initial=ZERO, conspiracy=Spy())
    assert spy.foreseen != [plain.model.whole().tolist()]  # a median is no mean


def test_what_cannot_be_played() -> None:
    with pytest.raises(ConfigError, match="sum_liars"):
        go(fleet(16), None, initial=ZERO, sum_liars=Puts(LIAR))
    with pytest.raises(ConfigError, match=r"masks\.clip"):
        go(fleet(16), "", initial=ZERO)
    plan, settings = parse_plan(
        '[run]\nname = "n"\nrounds = 1\ntask = "t"\n[cohort]\nsize = 16\n[weights]\nby = "equal"\n[method]\nname = "frl"\n',
        registry.method,
    )
    masked = msgspec.structs.replace(plan, privacy=PrivacyTable(masked=True), masks=MasksTable(clip=1.0))
    with pytest.raises(ConfigError, match=r"masks\.clip"):
        run(masked, settings, {"c": make_task("digits", 0, 2, limit=6, model="mlp", net={"hidden": [7], "bias": False})})
