"""One process or many over mutual TLS: the same plan with the same seed gives the same model, bit for bit."""

from collections.abc import Mapping
from pathlib import Path

from edgehold.attacks.byzantine import sign_flip
from edgehold.attacks.testbed import Federation
from edgehold.client.data import digits
from edgehold.core.contract import Adversary
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

DEVICES = 4
LIAR = "dev-3"
ENTRY = "edgehold.client.data.digits:make_task"


def plan(name: str, rule: str, size: int) -> str:
    return (
        f'[run]\nname = "{name}"\nrounds = 2\ntask = "digits"\nseed = 11\n'
        f"[cohort]\nsize = {size}\nquorum = {size}\nover_select = 1.0\njoin_deadline_s = 30.0\nround_deadline_s = 30.0\n"
        f'[method]\nname = "fedavg"\nrule = "{rule}"\nserver_momentum = 0.5\n'
        "[evaluation]\nevery = 2\n"
    )


def in_one_process(text: str, devices: int, adversaries: Mapping[str, Adversary]) -> engine.Result:
    tasks = {f"dev-{i}": digits.make_task(i, DEVICES) for i in range(devices)}
    return engine.run(*parse_plan(text, registry.method), tasks, digits.make_task(-1, DEVICES), adversaries)


def test_the_network_gives_the_model_of_one_process(tmp_path: Path) -> None:
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, {"device_index": -1, "devices": DEVICES})}) as bed:
        bed.start_server()

        def join(index: int, adversary: tuple[str, dict[str, float]] | None = None) -> None:
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, {"device_index": index, "devices": DEVICES})}, adversary)
            bed.start_client(f"dev-{index}")

        for index in range(DEVICES - 1):
            join(index)
        bed.wait_connected(DEVICES - 1)
        digests = []
        for rule in ("average", "median"):
            digests.append(compare(bed, plan(f"honest-{rule}", rule, DEVICES - 1), DEVICES - 1, {}))

        join(DEVICES - 1, ("edgehold.attacks.byzantine.sign_flip:make", {"scale": 3.0}))
        bed.wait_connected(DEVICES)
        for rule in ("average", "median"):
            text = plan(f"lied-{rule}", rule, DEVICES)
            digests.append(compare(bed, text, DEVICES, {LIAR: sign_flip.make(scale=3.0)}))
        assert len(set(digests)) == 4, "runs that must differ do not: the comparison proves nothing"


def compare(bed: Federation, text: str, devices: int, adversaries: Mapping[str, Adversary]) -> bytes:
    info = bed.run(text)
    assert info.state == "finished", info
    expected = in_one_process(text, devices, adversaries)
    assert info.model_digest == expected.digest
    assert info.latest.facts["clients_admitted"] == devices
    assert info.latest.facts["step_norm"] == expected.rounds[-1]["step_norm"]
    return info.model_digest
