"""FLORAL over mutual TLS, one device with poisoned labels among three: the head of one process, bit for bit."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.support import three_devices
from tests.support.three_devices import DEVICES

from edgehold.attacks.eval import heads
from edgehold.attacks.testbed import Federation
from edgehold.client.data import kernel
from edgehold.core.plan import parse_plan
from edgehold.core.vectors import Bytes, Vector
from edgehold.defenses import registry
from edgehold.defenses.floral.features import head_of
from edgehold.server import engine
from edgehold.server.engine import model_digest

ENTRY, POISONED = "edgehold.client.data.kernel:make_task", "edgehold.attacks.eval.heads:make_task"
ODD = ["1", "3", "5", "7", "9"]


def options(index: int, **more: Any) -> dict[str, Any]:
    return three_devices.options(index, positive=ODD, count=96, limit=150, **more)


def liar() -> dict[str, Any]:
    return options(0, poison="every", share=1.0)


def plan(name: str, mode: str, rule: str = 'rule = "median"\nliars = 1') -> str:
    return three_devices.plan(name, f'name = "floral"\ncount = 96\nplays = 30\nflips = 0.02\nmode = "{mode}"\n{rule}')


def alone(text: str, poisoned: bool, folder: Path) -> tuple[bytes, dict[str, float]]:
    """Digest of the head and last facts of the same run in one process."""
    devices = {f"dev-{i}": kernel.make_task(**options(i, test="none")) for i in range(DEVICES)}
    if poisoned:
        devices["dev-0"] = heads.make_task(**liar())
    store = engine.Store(folder)
    result = engine.run(*parse_plan(text, registry.method), devices, kernel.make_task(**options(-1)), store=store)
    kept = store.kept()
    assert kept is not None
    blob = kept.packed.blobs["model"]
    return hashlib.sha256(blob.read(0, blob.size)).digest(), result.rounds[-1]


@pytest.mark.parametrize("mode", ["one_shot", "coupled"])
def test_a_device_with_poisoned_labels_takes_part_and_both_ways_give_the_same_head(mode: str, tmp_path: Path) -> None:
    name = f"heads-{mode.replace('_', '-')}"
    text = plan(name, mode)
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            task = (POISONED, liar()) if index == 0 else (ENTRY, options(index, test="none"))
            bed.add_client(f"dev-{index}", {"digits": task})
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        info = bed.run(text)
        assert info.state == "finished", info
    digest, facts = alone(text, True, tmp_path / "run.sqlite")
    assert info.model_digest == digest
    found = dict(info.latest.facts)
    for fact in ("accuracy", "update_norm_median", "step_norm"):
        assert found[fact] == facts[fact]
    # Controls: without the liar it is another head, and with the plain mean the liar costs more.
    assert alone(text, False, tmp_path / "honest.sqlite")[0] != digest
    open_ = alone(plan(name, mode, ""), True, tmp_path / "open.sqlite")[1]
    assert open_["accuracy"] < facts["accuracy"]


def test_a_device_with_other_features_is_refused_before_it_trains(tmp_path: Path) -> None:
    """Feature seed 1 instead of 0: the same sizes, so only the name in the schema tells."""
    with Federation(tmp_path / "bed", tasks={"digits": (ENTRY, options(-1))}) as bed:
        bed.start_server()
        for index in range(DEVICES):
            bed.add_client(f"dev-{index}", {"digits": (ENTRY, options(index, test="none", feature_seed=int(index == 2)))})
            bed.start_client(f"dev-{index}")
        bed.wait_connected(DEVICES)
        info = bed.run(plan("strange", "one_shot", "").replace("quorum = 3", "quorum = 2").replace("30.0", "5.0"))
        assert info.state == "finished", info
        assert dict(info.latest.facts)["clients_admitted"] == 2.0
        assert dict(info.latest.facts)["clients_declined"] == 1.0


def test_a_model_file_says_what_its_numbers_weigh(tmp_path: Path) -> None:
    """Name and numbers out of the file are enough to score it with the task."""
    from safetensors.numpy import load, save

    task = kernel.make_task(**options(0))
    result = engine.run(
        *parse_plan(plan("one", "one_shot", ""), registry.method),
        {f"dev-{i}": kernel.make_task(**options(i)) for i in range(DEVICES)}, kernel.make_task(**options(-1)),
    )  # fmt: skip
    ((name, values),) = load(save(task.schema.unflatten(result.model.whole().copy()))).items()
    assert head_of(task.schema).kind in name
    assert values.shape == task.schema.tensors[0].shape
    own = kernel.make_task(**options(-1))
    assert own.schema.tensors[0].name == name
    assert own.evaluate(values.reshape(-1))["accuracy"] == result.rounds[-1]["accuracy"]
    assert model_digest(Vector(Bytes(values.tobytes()))) == model_digest(result.model)
