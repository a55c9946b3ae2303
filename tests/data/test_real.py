"""The published files themselves: counts, balance, first values; skipped where they are absent."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.client.data import images
from edgehold.client.data.catalogue import load
from edgehold.client.data.dataset import Split
from edgehold.client.data.deal import deal
from edgehold.client.data.names import KDD_GROUP_OF
from edgehold.core.errors import ConfigError

Real = Callable[[str], Path]


def _whole(split: Split) -> list[int]:
    return [int(n) for n in split.train.balance() + split.test.balance()]


def _sound(split: Split) -> None:
    for part in (split.train, split.test):
        assert part.digest.startswith("sha256:")
        few = part.take(np.arange(0, len(part), 97))
        assert few.x.dtype in (np.float32, np.int64)
        assert few.y.dtype == (np.int64 if part.classes else np.float32)
        assert np.isfinite(few.x).all()
        assert part.raw.ndim != 2 or part.raw.dtype == np.int64 or len(part.features) == part.shape[0]
        assert np.isfinite(part.raw).all()


# name, folder, options, (train, test), shape of a record, records of each class in both parts or in each
TABLES: list[tuple[str, str, dict[str, Any], tuple[int, int], tuple[int, ...], list[int]]] = [
    ("unsw-nb15", "unsw-nb15", {}, (65866, 16466), (39 + 131 + 13 + 7,), [37000, 45332]),
    (
        "unsw-nb15",
        "unsw-nb15",
        {"target": "classes"},
        (65866, 16466),
        (190,),
        [37000, 18871, 11132, 6062, 4089, 3496, 677, 583, 378, 44],
    ),
    ("nsl-kdd", "nsl-kdd", {}, (25192, 22544), (38 + 3 + 66 + 11,), [13449 + 9711, 11743 + 12833]),
    ("nsl-kdd", "nsl-kdd", {"train": "36features"}, (125973, 22544), (33 + 3 + 70 + 11,), [67343 + 9711, 58630 + 12833]),
    ("iot-ids", "iot-ids-samples", {}, (5002, 1250), (27,), [361, 5891]),
    ("iot-ids", "iot-ids-samples", {"sample": "CICIDS2017"}, (22642, 5661), (19,), [22662, 5641]),
    ("adult", "adult", {}, (32561, 16281), (108,), [24720 + 12435, 7841 + 3846]),
    ("wisdm", "wisdm", {}, (4334, 1084), (46,), [2081, 1625, 632, 528, 306, 246]),
    ("heart-disease", "heart-disease", {}, (736, 184), (29,), [411, 509]),
]


@pytest.mark.parametrize(("name", "folder", "options", "sizes", "shape", "balance"), TABLES)
def test_tables(
    real: Real,
    name: str,
    folder: str,
    options: dict[str, Any],
    sizes: tuple[int, int],
    shape: tuple[int, ...],
    balance: list[int],
) -> None:
    split = load(name, str(real(folder)), data=options)
    _sound(split)
    assert (len(split.train), len(split.test)) == sizes
    assert split.train.shape == split.test.shape == shape
    assert _whole(split) == balance


def test_fashion_mnist(real: Real, tmp_path: Path) -> None:
    folder = real("fashion-mnist")
    split = load("fashion-mnist", str(folder))
    _sound(split)
    assert split.train.balance().tolist() == [6000] * 10
    assert split.test.balance().tolist() == [1000] * 10
    assert split.train.raw.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert split.test.raw.mean() / 255 == pytest.approx(0.2868, abs=5e-5)
    # Packed by other hands, or not at all: the same content and the same digest.
    for place in folder.glob("t10k*.gz"):
        (tmp_path / place.stem).write_bytes(gzip.decompress(place.read_bytes()))
    for place in folder.glob("train*.gz"):
        (tmp_path / place.name).symlink_to(place)
    assert images.fashion_mnist(tmp_path).test.digest == split.test.digest
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    with pytest.raises(ConfigError, match="10008 bytes, sha256:.*Zalando, 2017 .sha256:0402a96d.*github.com/zalandoresearch"):
        images.fashion_mnist(tmp_path)
    with pytest.raises(ConfigError, match="LeCun et al., 1998"):
        images.mnist(folder)


def test_cifar10_sheets_are_the_binary_version(real: Real) -> None:
    pytest.importorskip("PIL")
    split = load("cifar10", str(real("cifar10")))
    _sound(split)
    assert split.train.balance().tolist() == [5000] * 10
    assert split.test.balance().tolist() == [1000] * 10
    assert split.train.y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert split.test.y[:5].tolist() == [3, 8, 8, 0, 6]
    planes = [split.train.raw[:, channel] for channel in range(3)]
    assert [float(p.mean()) / 255 for p in planes] == pytest.approx([0.49140, 0.48216, 0.44653], abs=1e-5)
    deviations = [float(p.std(dtype=np.float32)) / 255 for p in planes]
    assert deviations == pytest.approx([0.24703, 0.24349, 0.26159], abs=1e-5)


def test_nsl_kdd_shows_attacks_in_the_test_part_only(real: Real) -> None:
    folder = str(real("nsl-kdd"))
    split = load("nsl-kdd", folder, data={"target": "attacks", "train": "36features"})
    names = list(KDD_GROUP_OF)
    assert len(names) == 40
    train, test = split.train.balance(), split.test.balance()
    assert (train > 0).sum() == 23
    new = {name for name, a, b in zip(names, train, test, strict=True) if b and not a}
    assert len(new) == 17
    assert {"mscan", "apache2"} <= new
    assert train[names.index("neptune")] == 41214
    hard = load("nsl-kdd", folder, data={"test": "21"})
    assert len(hard.test) == 11850
    five = load("nsl-kdd", folder, data={"target": "groups"})
    assert five.train.balance().tolist() == [13449, 9234, 2289, 209, 11]


def test_hospitals(real: Real) -> None:
    split = load("heart-disease", str(real("heart-disease")))
    assert split.train.group_names == ("cleveland", "hungarian", "switzerland", "va")
    assert split.train.groups is not None
    assert split.test.groups is not None
    groups, y = np.concatenate([split.train.groups, split.test.groups]), np.concatenate([split.train.y, split.test.y])
    assert np.bincount(groups).tolist() == [303, 294, 123, 200]
    assert np.bincount(groups, weights=y).tolist() == [139, 106, 115, 149]
    dealt = deal("heart-disease", str(real("heart-disease")), devices=4, partition="groups", own_tests=True)
    assert dealt.tests is not None
    sizes = dealt.shares.sizes + [len(rows) for rows in dealt.tests]
    assert sizes.tolist() == [303, 294, 123, 200]


def test_people_and_their_natural_clients(real: Real) -> None:
    split = load("adult", str(real("adult")))
    assert split.train.balance().tolist() == [24720, 7841]
    assert split.test.balance().tolist() == [12435, 3846]
    assert len(split.train.group_names) == 15
    assert len(load("adult", str(real("adult")), data={"group": "native-country"}).train.group_names) == 42


def test_users_of_wisdm(real: Real) -> None:
    split = load("wisdm", str(real("wisdm")))
    assert split.train.groups is not None
    assert split.test.groups is not None
    windows = np.bincount(split.train.groups) + np.bincount(split.test.groups, minlength=36)
    assert (len(windows), windows.min(), windows.max()) == (36, 60, 273)
    held = load("wisdm", str(real("wisdm")), data={"split": "users"})
    assert held.test.groups is not None
    assert len(np.unique(held.test.groups)) == 7


def test_smartwatch(real: Real, tmp_path: Path) -> None:
    folder = real("smartwatch-har")
    split = load("smartwatch", str(folder))
    _sound(split)
    assert split.train.shape == (6, 128)
    assert len(split.train.group_names) == 10
    assert len(split.train) + len(split.test) == 3605
    assert (split.train.balance() + split.test.balance() > 300).all()
    # Saved again, packed differently: still the known content.
    with np.load(folder / "smartwatch_shoulder.npz") as archive:
        np.savez(tmp_path / "smartwatch_shoulder.npz", **{name: archive[name] for name in ("X", "offsets", "y", "subject")})
    assert load("smartwatch", str(tmp_path)).train.digest == split.train.digest


def test_beijing_air(real: Real) -> None:
    split = load("beijing-air", str(real("beijing-air")))
    _sound(split)
    assert split.train.shape == (17,)
    assert len(split.train.group_names) == 12
    assert (len(split.train), len(split.test)) == (309264, 102753)
    assert 2 <= split.train.y.min() <= split.train.y.max() <= 999
    # Changping opens with PM2.5 of 3, 3, 3, 3, 3, 3, 4, 3: the target is the next hour's.
    assert split.train.groups is not None
    changping = split.train.take(np.flatnonzero(split.train.groups == 1)[:7])
    assert changping.y.tolist() == [3, 3, 3, 3, 3, 4, 3]
    assert changping.x[0, 5] == 85
    assert len(load("beijing-air", str(real("beijing-air")), data={"stations": ["Dongsi"]}).train.group_names) == 1


def test_shakespeare(real: Real) -> None:
    split = load("shakespeare", str(real("tinyshakespeare")))
    _sound(split)
    assert len(split.train.classes) == 65
    assert len(split.train.group_names) == 99
    assert np.array_equal(split.train.raw[0, 1:], split.train.y[0, :-1])
    everyone = load("shakespeare", str(real("tinyshakespeare")), data={"min_characters": 0, "length": 1, "test_share": 0.5})
    assert len(everyone.train.group_names) == 299


def test_reviews(real: Real) -> None:
    split = load("imdb", str(real("imdb")))
    _sound(split)
    assert split.train.balance().tolist() == [5000, 5000]
    assert split.test.balance().tolist() == [2500, 2500]
    assert split.train.raw.max() < 8192
    assert (split.train.raw[:, 0] > 0).all()


def test_a_damaged_table_names_digest_known_version_and_source(real: Real, tmp_path: Path) -> None:
    place = tmp_path / "KDDTest+.txt"
    place.write_bytes(gzip.decompress((real("nsl-kdd") / "KDDTest+.txt.gz").read_bytes())[:-1])
    shutil.copy(real("nsl-kdd") / "KDDTrain+_20Percent.txt.gz", tmp_path)
    with pytest.raises(ConfigError) as caught:
        load("nsl-kdd", str(tmp_path))
    for part in ("KDDTest+.txt", "bytes, sha256:", "22,544 rows (sha256:fa46b093", "unb.ca", "verify = false"):
        assert part in str(caught.value)
    loose = load("nsl-kdd", str(tmp_path), verify=False)
    assert loose.test.digest.startswith("unverified sha256:")
    assert len(loose.test) == 22544
