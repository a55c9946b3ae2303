"""testbed.toml: what is shipped is legal, what does not fit is named, the three runs differ in nothing but what they should."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from edgehold.attacks.multinode.config import RUNS, Partition, Testbed, checked, load
from edgehold.core.errors import ConfigError
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry

DEPLOY = Path(__file__).parents[2] / "deploy"
BED = load(DEPLOY / "testbed.toml")


def changed(**tables: object) -> Testbed:
    return checked(msgspec.convert({**msgspec.to_builtins(BED), **tables}, Testbed), "here")


def with_devices(honest: int, liars: int) -> Testbed:
    return changed(testbed={"honest": honest, "liars": liars})


def test_the_shipped_files_describe_the_same_runs_over_different_links() -> None:
    lossy = load(DEPLOY / "lossy.toml")
    assert [lossy.plan(run) for run in RUNS] == [BED.plan(run) for run in RUNS]
    assert (lossy.link.delay_ms, lossy.link.loss_percent) == (100.0, 2.0)
    assert BED.link.plain
    assert BED.digest != lossy.digest


def test_there_is_a_control_and_the_defence_meets_the_same_liars() -> None:
    clean, attacked, defended = (BED.scenario(run) for run in RUNS)
    assert [one.lied for one in (clean, attacked, defended)] == [False, True, True]
    assert clean.rule == attacked.rule != defended.rule
    assert (defended.clients, defended.liars) == (10, 2)


@pytest.mark.parametrize("run", RUNS)
def test_everybody_takes_part_in_every_round(run: str) -> None:
    plan, _ = parse_plan(BED.plan(run), registry.method)
    assert plan.cohort.size == plan.cohort.quorum == 10
    assert plan.cohort.over_select == 1.0


def test_the_rule_is_told_how_many_lie_unless_the_file_says() -> None:
    assert tomllib.loads(with_devices(4, 1).plan("defended"))["method"]["liars"] == 1
    assert "liars" not in tomllib.loads(with_devices(4, 1).plan("attacked"))["method"]
    assert tomllib.loads(changed(defence={"rule": "median", "liars": 0}).plan("defended"))["method"]["liars"] == 0


def test_names_sort_as_they_count() -> None:
    many = with_devices(90, 20)
    assert list(many.clients) == sorted(many.clients)
    assert many.clients[0] == "dev-000"
    assert many.liars == many.clients[90:]
    assert with_devices(8, 2).clients[-1] == "dev-9"


def test_server_and_devices_are_told_the_same_split() -> None:
    (entry, server), (same, device) = BED.tasks(None)["moon"], BED.tasks("dev-3")["moon"]
    assert entry == same
    assert {**server, "device_index": 3} == device


def test_a_partition_takes_turns_or_names_its_rounds() -> None:
    turns = Partition(clients=("dev-0", "dev-1"), seconds=3.0)
    assert [turns.cut_in(number) for number in (1, 2, 3)] == [("dev-0",), ("dev-1",), ("dev-0",)]
    named = Partition(clients=("dev-0", "dev-1"), seconds=3.0, rounds=(2,))
    assert [named.cut_in(number) for number in (1, 2)] == [(), ("dev-0", "dev-1")]
    both = changed(partition=[msgspec.to_builtins(turns), {"clients": ["dev-0"], "seconds": 9.0, "rounds": [1]}])
    assert both.cuts(1) == {"dev-0": 9.0}
    # Whichever comes first in the file, the longer one counts.
    assert changed(partition=[*reversed(msgspec.to_builtins(both.partition))]).cuts(1) == {"dev-0": 9.0}
    assert both.cuts(2) == {"dev-1": 3.0}


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"partition": [{"clients": ["dev-11"], "seconds": 1.0}]}, "dev-11"),
        ({"partition": [{"clients": [], "seconds": 1.0}]}, "nobody"),
        ({"testbed": {"honest": 300}}, "at most 200"),
        ({"task": {"name": "moon", "entry": "no-module"}}, "package.module:function"),
        ({"defence": {"rule": "trimmed_maen"}}, "trimmed_mean"),
        ({"testbed": {"honest": 1, "liars": 2}}, "cannot withstand"),
    ],
)
def test_what_does_not_fit_is_named(tables: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        changed(**tables)


def test_unknown_keys_are_refused_with_a_suggestion(tmp_path: Path) -> None:
    text = (DEPLOY / "testbed.toml").read_text().replace("delay_ms", "delay")
    (tmp_path / "bed.toml").write_text(text)
    with pytest.raises(ConfigError, match="delay_ms"):
        load(tmp_path / "bed.toml")
