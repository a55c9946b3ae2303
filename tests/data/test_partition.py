"""Every way to split: each record exactly once, a minimum for every device, and what each way is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehold.client.data import partition
from edgehold.client.data.partition import Indices, Shares
from edgehold.core.errors import ConfigError

SPLITS = settings(deadline=None, max_examples=60)


def whole(parts: list[Indices], records: int, least: int) -> bool:
    """Every record in exactly one part, each part ascending and not smaller than `least`."""
    assert all((np.diff(part) > 0).all() for part in parts)
    assert min(map(len, parts)) >= least
    return np.array_equal(np.sort(np.concatenate(parts)), np.arange(records))


@given(st.integers(1, 12), st.integers(0, 100), st.integers(0, 4), st.floats(0.05, 50), st.integers(0, 3))
@SPLITS
def test_quantity_moves_records_only_to_reach_the_minimum(n: int, extra: int, least: int, alpha: float, seed: int) -> None:
    records = n * least + extra
    parts = partition.quantity(records, n, alpha, seed, least)
    assert whole(parts, records, least)
    assert all(map(np.array_equal, parts, partition.quantity(records, n, alpha, seed, least)))


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 60), st.integers(0, 3))
@SPLITS
def test_shards_cross_few_classes(devices: int, each: int, extra: int, seed: int) -> None:
    records = devices * each + extra
    labels = np.random.default_rng(seed).integers(0, 5, records)
    parts = partition.shards(labels, devices, each, seed)
    assert whole(parts, records, each)
    # A piece of sorted records holds at most as many classes as fit in it, and all pieces together 4 changes of class more.
    shown = sum(len(np.unique(labels[part])) for part in parts)
    assert shown <= devices * each + 4


@given(st.integers(1, 6), st.integers(0, 10), st.integers(0, 60), st.integers(0, 3))
@SPLITS
def test_one_class_is_one_class(classes: int, more: int, extra: int, seed: int) -> None:
    devices = classes + more
    labels = np.concatenate([np.arange(classes), np.random.default_rng(seed).integers(0, classes, extra)])
    parts = partition.one_class(labels, devices, seed, min_records=0)
    assert whole(parts, len(labels), 0)
    for device, part in enumerate(parts):
        assert set(labels[part]) <= {device % classes}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 3), st.data())
@SPLITS
def test_a_natural_client_is_never_torn(groups: list[int], seed: int, data: st.DataObject) -> None:
    values = np.array(groups)
    devices = data.draw(st.integers(1, len(np.unique(values))))
    parts = partition.by_group(values, devices, seed)
    assert whole(parts, len(values), 1)
    owners = [set(values[part]) for part in parts]
    assert sum(map(len, owners)) == len(np.unique(values))
    assert max(map(len, owners)) - min(map(len, owners)) <= 1
    if devices == len(np.unique(values)):
        assert [owner.pop() for owner in owners] == sorted(set(groups))


@given(st.integers(1, 6), st.integers(1, 80), st.integers(1, 80), st.integers(0, 3))
@SPLITS
def test_own_tests_are_dealt_once(devices: int, records: int, others: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, other = rng.integers(0, 4, records), rng.integers(0, 5, others)
    parts = partition.dirichlet(labels, devices, 0.3, seed, 0)
    assert whole(partition.matching(parts, labels, other, seed), others, 0)


def test_own_tests_look_like_the_training_records_by_hand() -> None:
    # Device 0 has 3 of 4 records of class 0 and none of class 1; class 2 nobody has.
    labels = np.array([0, 0, 0, 0, 1, 1])
    parts = [np.array([0, 1, 2]), np.array([3, 4, 5])]
    tests = partition.matching(parts, labels, np.array([0] * 8 + [1] * 4 + [2] * 2))
    assert partition.histogram(tests, np.array([0] * 8 + [1] * 4 + [2] * 2), 3).tolist() == [[6, 0, 1], [2, 4, 1]]


def test_alpha_of_quantity_means_something() -> None:
    spread = [np.std([len(p) for p in partition.quantity(2000, 10, alpha, 0)]) for alpha in (0.2, 2, 200)]
    assert spread[0] > 2 * spread[1] > 4 * spread[2]


def test_shards_by_hand() -> None:
    labels = np.array([1, 0, 1, 0])
    parts = partition.shards(labels, 2, 1, seed=0)
    assert sorted(labels[part].tolist() for part in parts) == [[0, 0], [1, 1]]
    seeds = {tuple(map(tuple, partition.shards(np.arange(20) % 4, 5, 2, seed))) for seed in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize("way", ["iid", "quantity", "one_class", "by_group"])
def test_every_way_differs_by_seed(way: str) -> None:
    labels = np.arange(200) % 10
    first, second = (
        {
            "iid": partition.iid(200, 10, seed),
            "quantity": partition.quantity(200, 10, 1.0, seed),
            "one_class": partition.one_class(labels, 20, seed),
            "by_group": partition.by_group(labels, 3, seed),
        }[way]
        for seed in (0, 1)
    )
    assert not all(map(np.array_equal, first, second))


def test_impossible_splits_say_what_would_do() -> None:
    labels = np.repeat([0, 1, 2], [9, 9, 2])
    with pytest.raises(ConfigError, match="devices = 2 for 3 classes.*at least 3 devices"):
        partition.one_class(labels, 2)
    with pytest.raises(ConfigError, match="device 2 gets 2 records; min_records = 3"):
        partition.one_class(labels, 3, min_records=3)
    with pytest.raises(ConfigError, match="device 2 gets 2 records; min_records = 3"):
        partition.by_group(labels, 3, min_records=3)
    with pytest.raises(ConfigError, match="the data has 3 natural clients, so at most 3 devices"):
        partition.by_group(labels, 4)
    with pytest.raises(ConfigError, match="20 records cannot give 11 devices 2 each"):
        partition.shards(labels, 11, 2)
    with pytest.raises(ConfigError, match="shards = 0"):
        partition.shards(labels, 2, 0)
    for alpha in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="alpha = "):
            partition.quantity(20, 2, alpha)
    with pytest.raises(ConfigError, match="20 records cannot give 0 devices"):
        partition.iid(20, 0)


def test_the_report_is_data_and_a_table() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    shares = Shares.of([np.array([0, 1]), np.array([2, 3, 4])], labels, ("cat", "dog"))
    assert shares.sizes.tolist() == [2, 3]
    assert shares.counts is not None
    assert shares.counts.tolist() == [[1, 1], [1, 2]]
    assert shares.text().splitlines() == [
        "device  records  cat  dog",
        "     0        2    1    1",
        "     1        3    1    2",
        "   all        5    2    3",
    ]
    assert shares.text(most=1).splitlines()[2].strip() == "..."
    assert Shares.of([np.array([0, 1])], None, ()).text().split() == ["device", "records", "0", "2", "all", "2"]
