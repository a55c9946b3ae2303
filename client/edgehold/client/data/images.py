"""Digits, MNIST and Fashion-MNIST: grey images as uint8, seen by models as float32 in 0..1."""

from functools import cache
from math import prod
from pathlib import Path

import numpy as np

from edgehold.client.data.dataset import Array, Dataset, Scaling, Split
from edgehold.client.data.files import Content, Known, Version, check, combined, read, require, sources
from edgehold.core.errors import ConfigError

_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_FASHION_HOME = "github.com/zalandoresearch/fashion-mnist, or torchvision.datasets.FashionMNIST(root, download=True)"
_MNIST_HOME = "torchvision.datasets.MNIST(root, download=True)"
_FOLDERS = ("", "raw", "FashionMNIST/raw", "MNIST/raw")
_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_FASHION = (
    "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
_MNIST = (
    "md5:6bbc9ace898e44ae57da46a324031adb",
    "md5:a25bea736e30d166cdddb491f175f624",
    "md5:2646ac647ad5339dbf082846283269ea",
    "md5:27ae3e4e09519cfbb04c329615203637",
)
_DIGITS = Known(
    ("digits of scikit-learn",),
    (Version("1,797 digits", "sha256:87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"),),
    "scikit-learn 1.5 or newer",
)
TEST_DIGITS = 360


def fashion_mnist(path: str | Path, *, seed: int = 0, verify: bool = True) -> Split:
    """60,000 + 10,000 images of clothes: raw (n, 1, 28, 28) uint8, y (n,) int64 in 0..9. The split is the official one."""
    return _idx_set("fashion-mnist", path, _FASHION, _CLOTHES, "Zalando, 2017", _FASHION_HOME, verify)


def mnist(path: str | Path, *, seed: int = 0, verify: bool = True) -> Split:
    """60,000 + 10,000 handwritten digits: raw (n, 1, 28, 28) uint8, y (n,) int64 in 0..9. The split is the official one."""
    return _idx_set("mnist", path, _MNIST, tuple("0123456789"), "LeCun et al., 1998", _MNIST_HOME, verify)


def digits(path: str | Path = "", *, seed: int = 0, verify: bool = True) -> Split:
    """1,437 + 360 digits of 8 x 8 from scikit-learn: raw (n, 64) float32 in 0..1. `seed` draws the split; no path."""
    pixels, labels = _digits()
    names = tuple(f"pixel {row},{column}" for row in range(8) for column in range(8))
    raw = (pixels / 16.0).astype(np.float32)
    data = pixels.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes()
    content = check(Path("sklearn.datasets.load_digits"), data, _DIGITS, verify)
    whole = Dataset("digits", raw, labels.astype(np.int64), names, tuple("0123456789"), "scikit-learn", combined([content]))
    return Split.of(whole, TEST_DIGITS / len(raw), seed)


@cache
def _digits() -> tuple[Array, Array]:
    """Pixels and labels; scikit-learn reads a text file at every call."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ConfigError("the digits need scikit-learn; install edgehold[eval]") from None
    pixels, labels = load_digits(return_X_y=True)
    return pixels, labels


def parse_idx(data: bytes, where: str) -> Array:
    """The uint8 array of an IDX file; `ConfigError` when it is none or its length is not what its header says."""
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 3:
        raise ConfigError(f"{where}: starts with {data[:4].hex()}; an IDX file of bytes starts with 00000801 or 00000803")
    start = 4 + 4 * data[3]
    shape = tuple(int(n) for n in np.frombuffer(data[4:start].ljust(start - 4, b"\0"), ">u4"))
    if len(data) != start + prod(shape):
        raise ConfigError(f"{where}: {len(data)} bytes; its header says {shape}, which is {start + prod(shape)} bytes")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def labels_within(labels: Array, classes: int, where: str) -> Array:
    """int64 labels, all below `classes`."""
    if len(labels) and int(labels.max()) >= classes:
        row = int(np.flatnonzero(labels >= classes)[0])
        raise ConfigError(f"{where}: label {labels[row]} in row {row + 1}; allowed: 0 to {classes - 1}")
    return labels.astype(np.int64)


def _idx_set(
    name: str, path: str | Path, digests: tuple[str, ...], classes: tuple[str, ...], label: str, home: str, verify: bool
) -> Split:
    contents = []
    for file, digest in zip(_FILES, digests, strict=True):
        dotted = file.replace("-idx", ".idx")
        known = Known((file, dotted), (Version(label, digest),), home)
        if Path(path).is_file():
            raise ConfigError(f"{path}: is a file; expected the folder with {', '.join(_FILES)}", field="path")
        contents.append(read(require(path, known, _FOLDERS), known, verify))
    return Split(*(_half(name, contents[at : at + 2], classes) for at in (0, 2)))


def _half(name: str, contents: list[Content], classes: tuple[str, ...]) -> Dataset:
    images, labels = contents
    raw = parse_idx(images.data, str(images.path))
    y = parse_idx(labels.data, str(labels.path))
    if raw.ndim != 3 or raw.shape[1:] != (28, 28):
        raise ConfigError(f"{images.path}: an array of shape {raw.shape}; expected (records, 28, 28)")
    if y.shape != raw.shape[:1]:
        raise ConfigError(f"{labels.path}: labels of shape {y.shape} for {len(raw)} images")
    y = labels_within(y, len(classes), str(labels.path))
    found = sources(contents)
    return Dataset(name, raw[:, None], y, (), classes, found, combined(contents), scaling=Scaling.divide(255))
