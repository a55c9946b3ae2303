"""IDX and the three forms of CIFAR-10, on tiny files of our own; hostile pickles."""

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehold.client.data import cifar, images
from edgehold.core.errors import ConfigError

Bytes8 = NDArray[np.uint8]
Write = Callable[[Bytes8], bytes]
RNG = np.random.default_rng(0)


@pytest.fixture
def clothes(tmp_path: Path, idx: Write) -> Path:
    for part, count in (("train", 7), ("t10k", 3)):
        pixels = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8)))
    return tmp_path


def test_pixels_are_float32_in_0_to_1(clothes: Path, idx: Write) -> None:
    split = images.fashion_mnist(clothes, verify=False)
    assert split.train.x.shape == (7, 1, 28, 28)
    assert split.train.x.dtype == np.float32
    assert split.train.y.dtype == np.int64
    assert split.test.y.tolist() == [0, 1, 2]
    assert np.array_equal(split.train.x, split.train.raw.astype(np.float32) / np.float32(255))
    assert split.train.digest.startswith("unverified sha256:")
    with pytest.raises(ConfigError, match="known: Zalando, 2017"):
        images.fashion_mnist(clothes)
    with pytest.raises(ConfigError, match="known: LeCun et al., 1998 .md5:"):
        images.mnist(clothes)


def test_files_where_torchvision_puts_them(clothes: Path) -> None:
    raw = clothes / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for place in list(clothes.glob("*ubyte*")):
        place.rename(raw / place.name)
    assert len(images.fashion_mnist(clothes, verify=False).train) == 7


def test_a_wrong_idx_file_is_refused(clothes: Path, idx: Write) -> None:
    labels = clothes / "train-labels-idx1-ubyte"
    good = labels.read_bytes()
    for data, message in (
        (b"PK\x03\x04" + good, "starts with 504b0304"),
        (good[:-1], r"its header says \(7,\), which is 15 bytes"),
        (idx(np.array([0, 1, 2, 3, 4, 5, 10], np.uint8)), "label 10 in row 7; allowed: 0 to 9"),
        (idx(np.zeros(6, np.uint8)), r"labels of shape \(6,\) for 7 images"),
    ):
        labels.write_bytes(data)
        with pytest.raises(ConfigError, match=message):
            images.fashion_mnist(clothes, verify=False)
    labels.write_bytes(good)
    (clothes / "train-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((7, 8, 8), np.uint8)))
    with pytest.raises(ConfigError, match=r"shape \(7, 8, 8\); expected \(records, 28, 28\)"):
        images.fashion_mnist(clothes, verify=False)
    with pytest.raises(ConfigError, match="is a file; expected the folder"):
        images.fashion_mnist(labels, verify=False)


def _batches(folder: Path, write: Callable[[Path, NDArray[np.int64], Bytes8], None]) -> dict[str, tuple[Any, Bytes8]]:
    made = {}
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        labels, planes = RNG.integers(0, 10, 4), RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
        write(folder / name, labels, planes)
        made[name] = (labels, planes)
    return made


def _binary(place: Path, labels: NDArray[np.int64], planes: Bytes8) -> None:
    place.with_suffix(".bin").write_bytes(np.hstack([labels[:, None].astype(np.uint8), planes]).tobytes())


def _python(place: Path, labels: NDArray[np.int64], planes: Bytes8) -> None:
    batch = {b"batch_label": b"a batch", b"labels": labels.tolist(), b"data": planes, b"filenames": [b"a.png"]}
    place.write_bytes(pickle.dumps(batch, protocol=2))


@pytest.mark.parametrize("write", [_binary, _python])
def test_binary_and_python_batches_give_the_same_images(tmp_path: Path, write: Any) -> None:
    made = _batches(tmp_path, write)
    split = cifar.cifar10(tmp_path, verify=False)
    assert split.train.shape == (3, 32, 32)
    assert (len(split.train), len(split.test)) == (20, 4)
    for at, name in enumerate(list(made)[:5]):
        assert split.train.y[4 * at : 4 * at + 4].tolist() == made[name][0].tolist()
        assert np.array_equal(split.train.raw[4 * at : 4 * at + 4].reshape(4, -1), made[name][1])
    assert np.array_equal(split.test.raw.reshape(4, -1), made["test_batch"][1])
    with pytest.raises(ConfigError, match="known: Krizhevsky, 2009"):
        cifar.cifar10(tmp_path)


class _Runs:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", [os.system, eval, getattr, np.load, np.frombuffer, bytearray, os.putenv])
def test_a_pickle_that_runs_something_is_refused_before_it_runs(tmp_path: Path, call: Any, protocol: int) -> None:
    _batches(tmp_path, _python)
    trap = tmp_path / "sprung"
    arguments = {os.system: (f"touch {trap}",), eval: (f"open({str(trap)!r}, 'w')",), bytearray: (1 << 40,)}.get(
        call, ("x", "y")
    )
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"labels": _Runs(call, *arguments)}, protocol))
    with pytest.raises(ConfigError, match="data_batch_3: no Python batch of CIFAR-10: it asks for .*; nothing was run"):
        cifar.cifar10(tmp_path, verify=False)
    assert not trap.exists()


def _with(**changes: Any) -> dict[str, Any]:
    return {"labels": [1, 2], "data": np.zeros((2, 3072), np.uint8)} | changes


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "no list of labels"),
        (_with(labels=[1, 10]), "no list of labels 0 to 9"),
        (_with(labels=[True, 1]), "no list of labels"),
        (_with(data=[1]), "no array under 'data'"),
        (_with(data=np.zeros((2, 3071), np.uint8)), r"u1 of shape \(2, 3071\); expected u1 of \(2, 3072\)"),
        (_with(data=np.zeros((2, 3072), np.float32)), "'data' is f4"),
        (_with(data=np.zeros((2, 3072), object)), "'data' is O8"),
        (_with(data=np.zeros((3072, 2), np.uint8).T), "'data' is u1"),
        (_with(labels=[1]), r"expected u1 of \(1, 3072\)"),
    ],
)
def test_a_batch_of_another_shape_is_refused(tmp_path: Path, batch: Any, message: str) -> None:
    _batches(tmp_path, _python)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(ConfigError, match=message):
        cifar.cifar10(tmp_path, verify=False)


def test_every_prefix_of_a_batch_is_refused_by_name(tmp_path: Path) -> None:
    _batches(tmp_path, _python)
    whole = (tmp_path / "test_batch").read_bytes()
    for end in [*range(60), len(whole) // 2, len(whole) - 1]:
        (tmp_path / "test_batch").write_bytes(whole[:end])
        with pytest.raises(ConfigError, match="test_batch"):
            cifar.cifar10(tmp_path, verify=False)


def test_a_cut_binary_batch_and_a_missing_one(tmp_path: Path) -> None:
    _batches(tmp_path, _binary)
    (tmp_path / "data_batch_2.bin").write_bytes(b"\x01" * 3072)
    with pytest.raises(ConfigError, match="data_batch_2.bin: 3072 bytes; the binary version has 3073 per image"):
        cifar.cifar10(tmp_path, verify=False)
    (tmp_path / "data_batch_2.bin").write_bytes(b"\x0b" + b"\x01" * 3072)
    with pytest.raises(ConfigError, match="label 11 in row 1"):
        cifar.cifar10(tmp_path, verify=False)
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(ConfigError, match="data_batch_2.bin, data_batch_2, data_batch_2.webp"):
        cifar.cifar10(tmp_path, verify=False)


def test_sheets_are_cut_into_images(tmp_path: Path, idx: Write) -> None:
    image = pytest.importorskip("PIL.Image")
    _batches(tmp_path, _binary)
    (tmp_path / "test_batch.bin").unlink()
    sheet = np.zeros((3200, 3200, 3), np.uint8)
    sheet[0:32, 32:64] = 7  # image 1
    sheet[32, 5, 2] = 9  # image 100: row 0, column 5, blue
    image.fromarray(sheet).save(tmp_path / "test_batch.webp", lossless=True)
    (tmp_path / "test-labels-idx1-ubyte").write_bytes(idx((np.arange(10000) % 10).astype(np.uint8)))
    test = cifar.cifar10(tmp_path, verify=False).test
    assert len(test) == 10000
    assert (test.raw[1] == 7).all()
    assert test.raw[100, 2, 0, 5] == 9
    assert int(test.raw.sum(dtype=np.int64)) == 7 * 3072 + 9
    assert test.y[13] == 3
    (tmp_path / "test-labels-idx1-ubyte").write_bytes(idx(np.zeros(9, np.uint8)))
    with pytest.raises(ConfigError, match="9 labels for test_batch; expected 10000"):
        cifar.cifar10(tmp_path, verify=False)
    image.fromarray(sheet[:64]).save(tmp_path / "test_batch.webp", lossless=True)
    with pytest.raises(ConfigError, match="a picture of 3200 x 64; expected 3200 x 3200"):
        cifar.cifar10(tmp_path, verify=False)
    (tmp_path / "test_batch.webp").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no picture"):
        cifar.cifar10(tmp_path, verify=False)
