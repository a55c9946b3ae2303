"""Private methods over mutual TLS: charged before released, declined when spent; no old ledger gets past a server's memory."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support import fixed_noise, three_devices
from tests.support.three_devices import DEVICES, ENTRY

from edgehold.attacks.testbed import Federation, eventually
from edgehold.client import app
from edgehold.client.data import tasks
from edgehold.core.contract import Cohort
from edgehold.core.plan import parse_plan
from edgehold.core.privacy import ledger
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.defenses.dp_ef_sgd.accounts import epsilon_after
from edgehold.server import engine

ROOT = str(Path(__file__).resolve().parents[2])
FIXED: tuple[str, dict[str, Any]] = ("tests.support.fixed_noise:make", {})
SIZE = 650
METHOD = """name = "dp_ef_sgd"
clip = 0.1
ceiling = 0.3
noise_multiplier = 3.0
bins = 3
batch_size = 30
learning_rate = 4.0"""
PLAN = three_devices.plan("private", METHOD, 20.0, "max_attempts = 1")


def options(index: int) -> dict[str, Any]:
    return three_devices.options(index, model="logistic", limit=90)


def named(name: str, **changed: str) -> str:
    text = PLAN.replace('name = "private"', f'name = "{name}"')
    for key, value in changed.items():
        kept = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
        text = (
            "\n".join([*kept, f"{key} = {value}"]) + "\n"
            if key != "rounds"
            else text.replace("rounds = 2", f"rounds = {value}")
        )
    return text


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("private")
    with Federation(folder, tasks={"digits": (ENTRY, options(-1))}) as found:
        found.start_server()
        for index in range(DEVICES):
            found.add_client(f"dev-{index}", {"digits": (ENTRY, options(index))}, FIXED, {"digits": (8.0, 1e-5)})
            found.start_client(f"dev-{index}", {"PYTHONPATH": ROOT})
        found.wait_connected(DEVICES)
        yield found


def bill(bed: Federation, client: str) -> dict[str, Any]:
    result = CliRunner().invoke(app.main, ["ledger", "--home", str(bed.folder / client), "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def declines(bed: Federation, *clients: str) -> str:
    """What devices said when they declined; of those that were still asked when the first one had declined."""
    logs = [(bed.folder / f"{client}.log").read_text() for client in clients or bed.clients]
    return "\n".join(line for log in logs for line in log.splitlines() if "task_declined" in line)


@pytest.mark.slow
def test_the_network_gives_the_model_of_one_process_and_every_round_is_on_the_bill(bed: Federation) -> None:
    info = bed.run(PLAN)
    assert info.state == "finished", info
    devices = {f"dev-{i}": tasks.make_task(**options(i)) for i in range(DEVICES)}
    store = engine.Store(bed.folder / "engine.sqlite")
    parsed = parse_plan(PLAN, registry.method)
    adversaries = {client: fixed_noise.make() for client in devices}
    expected = engine.run(*parsed, devices, tasks.make_task(**options(-1)), adversaries, store=store, workers=1)
    kept = store.kept()
    store.close()
    assert kept is not None
    blob = kept.packed.blobs["model"]
    assert info.model_digest == hashlib.sha256(blob.read(0, blob.size)).digest()
    facts = dict(info.latest.facts)
    assert facts["accuracy"] == expected.rounds[-1]["accuracy"]
    # Two rounds of one epoch, C1 = 0.1, G = 0.3, sigma = 0.3: mu = sqrt(2 (0.01 + 0.04)) / 0.3 = 1.054, epsilon 4.65.
    assert facts["epsilon_worst"] == facts["epsilon_median"] == pytest.approx(4.65, abs=0.02)
    for client in devices:
        found = bill(bed, client)
        assert [(line["run"], line["round"]) for line in found["charges"]] == [("private", 1), ("private", 2)]
        (left,) = found["datasets"]
        assert left["epsilon"] == pytest.approx(facts["epsilon_worst"], abs=1e-5)
        assert left["left"] == pytest.approx(8.0 - left["epsilon"], abs=1e-5)


@pytest.mark.slow
def test_what_the_budget_does_not_allow_is_declined_and_costs_nothing(bed: Federation) -> None:
    before = bill(bed, "dev-0")
    # Little noise: one round is mu = sqrt(0.05) / 0.1 = 2.24, epsilon 11.5.
    info = bed.run(named("loud", noise_multiplier="1.0"))
    assert info.state == "failed"
    said = eventually(lambda: declines(bed), 10.0)
    assert "budget_spent" in said
    assert "of epsilon 8" in said
    assert bill(bed, "dev-0") == before
    # The server is told no more than that there is no more.
    assert "declined: the privacy budget of the data does not allow this round [budget_spent]" in info.error
    assert "of epsilon 8" not in (bed.folder / "server.log").read_text()


@pytest.mark.slow
def test_data_with_a_budget_are_for_private_methods_and_private_methods_for_such_data(bed: Federation) -> None:
    plain = PLAN.split("[method]")[0].replace('"private"', '"plain"') + '[method]\nname = "fedavg"\n'
    assert bed.run(plain).state == "failed"
    eventually(lambda: "adds no noise here that could be charged" in declines(bed), 10.0)
    policy = bed.folder / "dev-2" / "policy.toml"
    text = policy.read_text()
    policy.write_text(text.split("[budgets")[0])
    try:
        assert bed.run(named("unbudgeted")).state == "failed"
        eventually(lambda: "the policy has none for this data set" in declines(bed, "dev-2"), 10.0)
    finally:
        policy.write_text(text)


@pytest.mark.slow
def test_a_restored_backup_of_a_ledger_spends_nothing(bed: Federation) -> None:
    folder = bed.folder / "dev-0"
    small = {"noise_multiplier": "30.0", "rounds": "1"}
    copies = [folder / f"ledger.db{tail}" for tail in ("", "-wal", "-shm")]
    bed.stop(["dev-0"])
    backup = folder / "backup"
    backup.mkdir()
    for file in copies:
        if file.exists():
            shutil.copy(file, backup / file.name)
    bed.start_client("dev-0", {"PYTHONPATH": ROOT})
    bed.wait_connected(DEVICES)
    assert bed.run(named("first", **small)).state == "finished"
    spent = len(ledger.read(folder / "ledger.db").lines)
    bed.stop(["dev-0"])
    for file in copies:
        file.unlink(missing_ok=True)
        if (backup / file.name).exists():
            shutil.copy(backup / file.name, file)
    assert len(ledger.read(folder / "ledger.db").lines) == spent - 1
    bed.start_client("dev-0", {"PYTHONPATH": ROOT})
    bed.wait_connected(DEVICES)
    assert bed.run(named("second", **small)).state == "failed"
    said = eventually(lambda: [line for line in declines(bed, "dev-0").splitlines() if "ledger_rolled_back" in line], 10.0)
    assert "restored from a backup" in said[0]
    assert len(ledger.read(folder / "ledger.db").lines) == spent - 1


def test_the_server_accounts_for_those_it_admitted() -> None:
    parsed, settings = parse_plan(PLAN, registry.method)
    task = tasks.make_task(**options(0))
    side = registry.server_side("dp_ef_sgd", settings, task.schema, 1)
    state = side.start(Vector.of(task.initial(1)))
    order = side.open(state, Cohort(1, ("a", "b")))
    half = fixed_noise.half()
    from edgehold.core.contract import Weighted
    from edgehold.core.vectors import MemorySpace

    update = half.work(order, None, task, None)[1]  # type: ignore[arg-type]
    state, facts = side.close(state, [Weighted("a", 1.0, update), Weighted("b", 1.0, update)], MemorySpace())
    state, facts = side.close(side.unpack(side.pack(state)), [Weighted("a", 1.0, update)], MemorySpace())
    once, twice = (epsilon_after(settings.training(), SIZE, rounds, 1e-5) for rounds in (1, 2))
    assert facts["epsilon_worst"] == twice
    assert facts["epsilon_median"] == pytest.approx((once + twice) / 2)
