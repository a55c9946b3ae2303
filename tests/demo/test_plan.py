"""The three runs, as the server and the devices are told of them."""

import pytest

from edgehold.attacks.demo.plan import CLIENTS, LIARS, SCENARIOS, Scenario, Settings
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_plan_is_legal(scenario: Scenario) -> None:
    plan, _ = parse_plan(scenario.plan(7, 3), registry.method)
    assert (plan.run.name, plan.run.rounds, plan.run.seed) == (scenario.name, 7, 3)
    assert plan.cohort.size == len(CLIENTS)


def test_there_is_a_control_and_the_defence_meets_the_same_liars() -> None:
    assert [(one.name, one.lied) for one in SCENARIOS] == [("clean", False), ("attacked", True), ("defended", True)]
    assert SCENARIOS[0].rule == SCENARIOS[1].rule
    assert f"liars = {len(LIARS)}" in SCENARIOS[2].plan(1, 0)


def test_server_and_devices_split_the_records_alike() -> None:
    settings = Settings(rounds=1, seeds=[5], alpha=0.5)
    (entry, server), (same, device) = settings.tasks(5, -1)["digits"], settings.tasks(5, 2)["digits"]
    assert entry == same
    assert server == {"device_index": -1, "devices": 8, "alpha": 0.5, "seed": 5}
    assert device == {**server, "device_index": 2}
