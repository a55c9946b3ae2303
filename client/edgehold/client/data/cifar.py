"""CIFAR-10 in its binary version, its Python batches, or as lossless sheets; all three are checked as the binary version.

Python batches are pickles. They are read by an unpickler that builds nothing but lists, texts, numbers and stand-ins for
arrays: no name in the file is ever looked up.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgehold.client.data.dataset import Array, Dataset, Scaling, Split
from edgehold.client.data.files import Content, Known, Version, check, combined, locate, sources, unpack
from edgehold.client.data.images import labels_within, parse_idx
from edgehold.core.errors import ConfigError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html, the binary version (or torchvision.datasets.CIFAR10)"
_BATCHES = {
    "data_batch_1": "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2": "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3": "sha256:bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4": "sha256:014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5": "sha256:755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch": "sha256:8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
_RECORD = 3073
_PER_SHEET = 100


def cifar10(path: str | Path, *, seed: int = 0, verify: bool = True) -> Split:
    """50,000 + 10,000 colour images: raw (n, 3, 32, 32) uint8, y (n,) int64 in 0..9. The split is the official one."""
    if Path(path).is_file():
        raise ConfigError(f"{path}: is a file; expected the folder with data_batch_1.bin and five more", field="path")
    contents = {name: _batch(path, name, digest, verify) for name, digest in _BATCHES.items()}
    train = [content for name, content in contents.items() if name != "test_batch"]
    return Split(_dataset(train), _dataset([contents["test_batch"]]))


def _batch(path: str | Path, name: str, digest: str, verify: bool) -> Content:
    """One batch as the bytes of the binary version: a label byte and 3,072 bytes of planes for each image."""
    known = Known((name + ".bin", name, name + ".webp"), (Version("Krizhevsky, 2009", digest),), _HOME)
    found = locate(path, known, _FOLDERS)
    if found is None:
        raise ConfigError(f"{path}: holds none of {', '.join(known.names)} (plain or .gz). Get it: {_HOME}", field="path")
    form: Callable[[Path, str], bytes]
    form = _from_sheet if found.suffix == ".webp" else _as_is if ".bin" in found.suffixes else _from_pickle
    content = check(found, form(found, name), known, verify)
    if not content.data or len(content.data) % _RECORD:
        raise ConfigError(f"{found}: {len(content.data)} bytes; the binary version has {_RECORD} per image. Get it: {_HOME}")
    return content


def _as_is(path: Path, name: str) -> bytes:
    return unpack(path)


def _dataset(contents: list[Content]) -> Dataset:
    records = [np.frombuffer(content.data, np.uint8).reshape(-1, _RECORD) for content in contents]
    sizes = [len(part) for part in records]
    raw, labels = np.empty((sum(sizes), 3, 32, 32), np.uint8), np.empty(sum(sizes), np.int64)
    at = 0
    for part, content in zip(records, contents, strict=True):
        raw[at : at + len(part)] = part[:, 1:].reshape(-1, 3, 32, 32)
        labels[at : at + len(part)] = labels_within(part[:, 0], len(CLASSES), str(content.path))
        at += len(part)
    found = sources(contents)
    return Dataset("cifar10", raw, labels, (), CLASSES, found, combined(contents), scaling=Scaling.divide(255))


def _from_sheet(path: Path, name: str) -> bytes:
    """A 3200 x 3200 picture, image k at row k // 100 and column k % 100; labels in an IDX file beside it."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise ConfigError(
            f"{path}: sheets need Pillow (the extra `edgehold[tables]`); or use the binary version. {_HOME}"
        ) from None
    try:
        with Image.open(path) as picture:
            size = picture.size
            sheet = np.asarray(picture.convert("RGB")) if size == (3200, 3200) else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no picture: {error}") from None
    if sheet is None:
        raise ConfigError(f"{path}: a picture of {size[0]} x {size[1]}; expected 3200 x 3200")
    part = "test" if name == "test_batch" else "train"
    known = Known((f"{part}-labels-idx1-ubyte",), (), _HOME)
    place = locate(path.parent, known)
    if place is None:
        raise ConfigError(f"{path.parent}: no {known.names[0]}(.gz) beside {path.name}")
    labels = parse_idx(unpack(place), str(place))
    first = 0 if part == "test" else (int(name[-1]) - 1) * _PER_SHEET**2
    labels = labels[first : first + _PER_SHEET**2]
    if labels.shape != (_PER_SHEET**2,):
        raise ConfigError(f"{place}: {len(labels)} labels for {name}; expected {_PER_SHEET**2}")
    tiles = sheet.reshape(_PER_SHEET, 32, _PER_SHEET, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, _RECORD - 1)
    return _records(labels, tiles)


def _records(labels: Array, planes: Array) -> bytes:
    records = np.empty((len(labels), _RECORD), np.uint8)
    records[:, 0] = labels
    records[:, 1:] = planes
    return records.tobytes()


class _Raw:
    """Stands in for an array while a pickle is read: keeps what it was given and interprets nothing."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Kind(_Raw):
    """Stands in for a dtype."""

    def __init__(self, name: Any = None, *rest: Any) -> None:
        self.name = name


def _reconstruct(*ignored: Any) -> _Raw:
    return _Raw()


def _encode(text: str, *ignored: Any) -> bytes:
    """How Python 3 writes bytes into old pickles."""
    if not isinstance(text, str):
        raise pickle.UnpicklingError("bytes that are no text")
    return text.encode("latin-1")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Raw,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _STAND_INS.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of images needs; nothing was run")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it asks for an object outside the file")


def _from_pickle(path: Path, name: str) -> bytes:
    """A Python batch: {b"data": (n, 3072) uint8, b"labels": n integers}; every other class in it is refused."""
    try:
        batch = _Unpickler(io.BytesIO(unpack(path)), encoding="bytes").load()
    except ConfigError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise ConfigError(f"{path}: no Python batch of CIFAR-10: {error}. Get it: {_HOME}") from None
    found = {_text(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    labels, pixels = found.get("labels"), found.get("data")
    if not isinstance(labels, list) or not all(type(n) is int and 0 <= n < len(CLASSES) for n in labels):
        raise ConfigError(f"{path}: no list of labels 0 to {len(CLASSES) - 1} under 'labels'. Get it: {_HOME}")
    state = pixels.state if isinstance(pixels, _Raw) else None
    if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], _Kind)):
        raise ConfigError(f"{path}: no array under 'data'. Get it: {_HOME}")
    _, shape, kind, by_column, data = state
    wide = _RECORD - 1
    if _text(kind.name) != "u1" or by_column is not False or shape != (len(labels), wide) or not isinstance(data, bytes):
        raise ConfigError(f"{path}: 'data' is {_text(kind.name)} of shape {shape}; expected u1 of ({len(labels)}, {wide})")
    if len(data) != len(labels) * wide:
        raise ConfigError(f"{path}: {len(data)} bytes of pixels for {len(labels)} images")
    return _records(np.array(labels, np.uint8), np.frombuffer(data, np.uint8).reshape(-1, wide))


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
