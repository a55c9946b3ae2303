"""Partitions and the reference task."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehold.client.data import digits, partition, synthetic
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.task import LocalTraining, Task


@given(st.integers(1, 20), st.integers(0, 200), st.integers(0, 5), st.floats(0.01, 100), st.integers(0, 3))
@settings(deadline=None, max_examples=100)
def test_every_record_goes_to_exactly_one_device(devices: int, extra: int, least: int, alpha: float, seed: int) -> None:
    records = devices * least + extra
    labels = np.random.default_rng(seed).integers(0, 4, records)
    for parts in (partition.dirichlet(labels, devices, alpha, seed, least), partition.iid(records, devices, seed)):
        assert len(parts) == devices
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(records))
        assert min(len(part) for part in parts) >= least
        counts = partition.histogram(parts, labels, 4)
        assert np.array_equal(counts.sum(axis=0), np.bincount(labels, minlength=4))
    sizes = [len(part) for part in partition.iid(records, devices, seed)]
    assert max(sizes) - min(sizes) <= 1


def test_seed_and_alpha_mean_something() -> None:
    labels = np.repeat(np.arange(10), 100)
    one, again, other = (partition.dirichlet(labels, 8, 1.0, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    spread = [partition.histogram(partition.dirichlet(labels, 8, alpha, 0), labels, 10).std() for alpha in (0.1, 1, 100)]
    assert spread[0] > 1.5 * spread[1] > 3 * spread[2]


@pytest.mark.parametrize(
    ("devices", "alpha", "least"), [(0, 1.0, 1), (20, 1.0, 1), (2, 0.0, 1), (2, float("nan"), 1), (2, 1.0, 9)]
)
def test_impossible_partitions_are_refused(devices: int, alpha: float, least: int) -> None:
    with pytest.raises(ConfigError):
        partition.dirichlet(np.zeros(10, dtype=np.int64), devices, alpha, 0, least)


def test_digits_devices_share_a_test_set_and_nothing_else() -> None:
    tasks = [digits.make_task(i, 4) for i in range(4)]
    server = digits.make_task(-1, 4)
    assert sum(task.samples for task in tasks) == 1437
    assert (server.samples, digits.make_task(None, 4).samples) == (0, 0)
    assert all(task.schema == server.schema for task in tasks)
    weights = server.initial(0)
    assert all(task.evaluate(weights) == server.evaluate(weights) for task in tasks)
    rows = np.concatenate([np.unique(task._train[0].numpy(), axis=0) for task in (*tasks,) if task._train])
    held = server._test[0].numpy() if server._test else rows
    assert rows.min() >= 0
    assert rows.max() == 1
    assert not {row.tobytes() for row in held} & {row.tobytes() for row in rows}
    with pytest.raises(ConfigError, match="device_index = 4; allowed: 0 to 3"):
        digits.make_task(4, 4)


def test_central_reference() -> None:
    assert digits.central_accuracy() >= 0.96


def test_synthetic_task_adds_its_own_constant() -> None:
    task = synthetic.make_task(5, device_index=3)
    assert isinstance(task, Task)
    start = task.initial(0)
    assert np.array_equal(task.train(start, LocalTraining(), stream(0)), start + np.float32(4 / 1024))
    assert task.schema.size == 5
