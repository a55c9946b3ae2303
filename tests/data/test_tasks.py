"""Tasks from data sets: the same seed is the same deal in every process, and nobody trains on test records."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgehold.client.data import tasks
from edgehold.client.data.catalogue import DATASETS, load
from edgehold.client.data.dataset import Scaling
from edgehold.client.data.deal import PARTITIONS, deal
from edgehold.client.models import MODELS
from edgehold.core.errors import ConfigError
from edgehold.core.task import LocalTraining, Task


@pytest.fixture
def flows(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    lines = ["bytes,seconds,up,site,verdict,cost"]
    for n in range(120):
        bad = n % 3 == 0
        lines.append(
            f"{rng.exponential(1e6 if bad else 1e2)},{rng.normal()},{n % 2},s{n % 5},{'bad' if bad else 'good'},{3 * n}"
        )
    (tmp_path / "flows.csv").write_text("\n".join(lines))
    return str(tmp_path / "flows.csv")


TABLE: dict[str, Any] = {"label": "verdict", "classes": ["good", "bad"], "group": "site", "numbers": ["bytes", "seconds", "up"]}


def _make(flows: str, index: int | None, **changes: Any) -> Any:
    options: dict[str, Any] = {"devices": 4, "data": TABLE, **changes}
    return tasks.make_task("table", flows, device_index=index, **options)


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("test", ["shared", "own"])
def test_devices_share_the_training_records_and_nobody_has_a_test_record(flows: str, partition: str, test: str) -> None:
    made = [_make(flows, i, partition=partition, test=test) for i in range(4)]
    server = _make(flows, -1, partition=partition)
    assert all(isinstance(task, Task) for task in made)
    assert (server.samples, _make(flows, None).samples) == (0, 0)
    assert sum(task.samples for task in made) == 96
    assert all(task.schema == server.schema for task in made)
    rows = [{row.tobytes() for row in task._train[0].numpy()} for task in made]
    held = {row.tobytes() for row in server._test[0].numpy()}
    assert len(set.union(*rows)) == 96
    assert len(held) == 24
    assert not held & set.union(*rows)
    seen = [len(task._test[0]) if task._test else 0 for task in made]
    assert seen == [24] * 4 if test == "shared" else sum(seen) == 24


def test_the_same_seed_deals_the_same_in_another_process(flows: str) -> None:
    code = (
        "import hashlib, sys\nfrom edgehold.client.data.deal import deal\n"
        f"d = deal('table', {flows!r}, devices=4, partition='dirichlet', alpha=0.5, seed=int(sys.argv[1]), data={TABLE!r})\n"
        "print(hashlib.sha256(b''.join(d.train(i).x.tobytes() for i in range(4))).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code, seed], capture_output=True, text=True, check=True).stdout
        for seed in ("7", "7", "8")
    ]
    assert runs[0] == runs[1] != runs[2]


def test_limits_keep_a_fixed_sample(flows: str) -> None:
    task, again = _make(flows, 1, limit=5, test_limit=6), _make(flows, 1, limit=5, test_limit=6)
    assert task.samples == 5
    assert len(task._test[0]) == 6
    assert torch.equal(task._train[0], again._train[0])
    assert _make(flows, 1, limit=1000).samples == 24
    assert _make(flows, 1, test="none").evaluate(task.initial(0)) == {}
    assert _make(flows, -1, test="none").evaluate(task.initial(0)) != {}


def test_scaling_by_hand_and_by_the_training_part_only(flows: str) -> None:
    x = np.array([[0.0, 1.0, np.e - 1], [4.0, 0.0, -(np.e - 1)]], np.float32)
    assert np.allclose(Scaling.fit(x).apply(x), [[-1, 1, 1], [1, 0, -1]])
    # log: the middle column holds only 0 and 1 and stays; the last becomes 1 and -1 before anything else.
    curved = Scaling.fit(x, log=True)
    assert np.allclose(curved.apply(x), [[-1, 1, 1], [1, 0, -1]])
    assert np.allclose(curved.width, [np.log(5) / 2, 1, 1])
    assert np.allclose(Scaling.fit(np.full((3, 1), 5.0)).apply(np.full((3, 1), 5.0)), 0)
    dealt = deal("table", flows, devices=1, scale="standard", data=TABLE)
    assert np.allclose(dealt.train(0).x[:, :2].mean(axis=0), 0, atol=1e-5)
    assert np.allclose(dealt.train(0).x[:, :2].std(axis=0), 1, atol=1e-5)
    assert not np.allclose(dealt.test().x[:, 0].mean(), 0, atol=1e-3)
    assert set(np.unique(dealt.train(0).x[:, 2])) == {0.0, 1.0}


def test_a_class_is_learnt_and_judged_by_its_own_share(flows: str) -> None:
    task = _make(flows, 0, devices=1, scale="log")
    weights = task.train(task.initial(0), LocalTraining(epochs=20, learning_rate=0.1, momentum=0.9), np.random.default_rng(0))
    assert task.evaluate(weights)["accuracy"] >= 0.9
    outputs = torch.tensor([[1.0, 0], [1, 0], [1, 0], [1, 0]])
    assert tasks.accuracy(outputs, torch.tensor([0, 0, 0, 1])) == 0.75
    assert tasks.balanced_accuracy(outputs, torch.tensor([0, 0, 0, 1])) == 0.5


def test_a_number_is_learnt_standardised_and_reported_in_its_unit(flows: str) -> None:
    options: dict[str, Any] = {"label": "cost", "numbers": ["up"]}
    task = _make(flows, 0, devices=1, data=options, model="logistic")
    whole = load("table", flows, data=options)
    zero = np.zeros(task.schema.size, np.float32)
    # Without weights the prediction is the training mean.
    expected = np.abs(whole.test.y - whole.train.y.mean()).mean()
    assert task.evaluate(zero)["mae"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ConfigError, match='partition = "dirichlet": table has no classes; use iid, quantity or groups'):
        _make(flows, 0, data=options, partition="dirichlet")
    with pytest.raises(ConfigError, match='partition = "groups": table has no natural clients'):
        _make(flows, 0, data=options, partition="groups")


def test_text_tasks_from_files(tmp_path: Path) -> None:
    speech = "".join(f"{who}:\n{'to be or not to be ' * 9}\n\n" for who in ("Ann", "Bob"))
    (tmp_path / "input.txt").write_text(speech)
    data = {"length": 10, "min_characters": 50}
    task = tasks.make_task(
        "shakespeare", str(tmp_path), 1, 2, "groups", verify=False, data=data, net={"hidden": 32}, test="own"
    )
    weights = task.train(task.initial(0), LocalTraining(60, 4, 0.5, 0.9), np.random.default_rng(0))
    assert task.evaluate(weights)["accuracy"] > 0.8
    with pytest.raises(ConfigError, match="has no columns of numbers"):
        tasks.make_task("shakespeare", str(tmp_path), verify=False, data=data, scale="log")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partition": "dirichelt"}, 'did you mean "dirichlet"'),
        ({"index": 4}, "device_index = 4; allowed: 0 to 3, or -1 for none"),
        ({"index": -2}, "device_index = -2"),
        ({"test": "both"}, "allowed: none, own, shared"),
        ({"scale": "big"}, "scale = 'big'"),
        ({"limit": 0}, "limit = 0"),
        ({"model": "mpl"}, 'did you mean "mlp"'),
        ({"net": {"width": 3}}, "does not take these options"),
        ({"data": TABLE | {"lable": 1}}, 'did you mean "label"'),
        ({"data": {}}, "label"),
        ({"devices": 0}, "cannot give 0 devices"),
    ],
)
def test_wrong_options_are_named(flows: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _make(flows, changes.pop("index", 0), **changes)


def test_a_wrong_data_set_is_named_with_all_there_are() -> None:
    with pytest.raises(ConfigError, match="dataset = 'fashion_mnist'; did you mean \"fashion-mnist\""):
        tasks.make_task("fashion_mnist")
    assert {entry.model for entry in DATASETS.values()} <= set(MODELS)


def test_tables_load_with_numpy_alone(flows: str) -> None:
    """As on a device without PyTorch, scikit-learn, pandas, Pillow and pyarrow."""
    code = (
        "import sys\n"
        "for name in ('torch', 'sklearn', 'scipy', 'pandas', 'PIL', 'pyarrow'): sys.modules[name] = None\n"
        "from edgehold.client.data.catalogue import DATASETS, load\n"
        "from edgehold.client.data.deal import deal\n"
        f"d = deal('table', {flows!r}, devices=3, partition='groups', data={TABLE!r})\n"
        "print(len(DATASETS), len(d.train(0)), d.shares.text())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "device  records  good  bad" in done.stdout
