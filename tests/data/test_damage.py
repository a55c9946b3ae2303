"""Bytes changed at random in any file: a data set or a `ConfigError`, never another exception."""

import json
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehold.client.data import cifar, custom, images, intrusion, sensors, text
from edgehold.client.data.names import KDD_FEATURES, WISDM_CLASSES
from edgehold.core.errors import ConfigError


def _npz() -> bytes:
    import io

    held = io.BytesIO()
    x = np.ones((60, 6), np.float32)
    np.savez(held, X=x, offsets=np.arange(0, 61, 20), y=np.arange(3), subject=np.arange(3))
    return held.getvalue()


def _idx() -> bytes:
    return bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 28, 28)) + bytes(2 * 784)


def _kdd() -> bytes:
    fixed = {"protocol_type": "tcp", "service": "http", "flag": "SF"}
    return b"\n".join((",".join(fixed.get(n, "1") for n in KDD_FEATURES) + ",normal,20").encode() for _ in range(3))


def _arff() -> bytes:
    rows = [f'{n},{n % 3},0.5,?,"{WISDM_CLASSES[n % 6]}"' for n in range(10)]
    return "\n".join([*(f'@attribute "{n}" numeric' for n in ("UNIQUE_ID", "user", "a", "b")), "@data", *rows]).encode()


def _batch() -> bytes:
    return pickle.dumps({b"labels": [1, 2], b"data": np.zeros((2, 3072), np.uint8)}, protocol=2)


def _pair(folder: Path, one: str, other: str, data: bytes, good: bytes) -> None:
    (folder / one).write_bytes(data)
    (folder / other).write_bytes(good)


def _fashion(folder: Path, data: bytes) -> Any:
    for part in ("train", "t10k"):
        _pair(folder, f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte", data, b"\0\0\x08\x01\0\0\0\x02\0\x01")
    return images.fashion_mnist(folder, verify=False)


def _cifar(folder: Path, data: bytes) -> Any:
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(data)
    return cifar.cifar10(folder, verify=False)


def _one(name: str, load: Callable[..., Any], **options: Any) -> Callable[[Path, bytes], Any]:
    def run(folder: Path, data: bytes) -> Any:
        (folder / name).write_bytes(data)
        return load(folder, verify=False, **options)

    return run


def _nsl(folder: Path, data: bytes) -> Any:
    _pair(folder, "KDDTrain+_20Percent.txt", "KDDTest+.txt", data, _kdd())
    return intrusion.nsl_kdd(folder, verify=False)


def _imdb(folder: Path, data: bytes) -> Any:
    _pair(folder, "imdb_train_10000.jsonl", "imdb_test_5000.jsonl", data, data)
    return text.imdb(folder, verify=False)


def _table(folder: Path, data: bytes) -> Any:
    (folder / "t.csv").write_bytes(data)
    return custom.table(folder / "t.csv", label="y", classes=["0", "1"], categories={"p": []}, group="g")


FORMS: dict[str, tuple[bytes, Callable[[Path, bytes], Any]]] = {
    "idx": (_idx(), _fashion),
    "pickle": (_batch(), _cifar),
    "npz": (_npz(), _one("smartwatch_shoulder.npz", sensors.smartwatch, window=10, stride=5)),
    "kdd": (_kdd(), _nsl),
    "arff": (_arff(), _one("WISDM_ar_v1.1_transformed.arff", sensors.wisdm)),
    "plays": (b"A:\nto be or not\n\nB:\nto be\n" * 9, _one("input.txt", text.shakespeare, length=3, min_characters=9)),
    "reviews": (b"".join(json.dumps({"text": "a b", "label": n % 2}).encode() + b"\n" for n in range(3)), _imdb),
    "table": (b'n,p,g,y\n1,"a ""b""",x,0\n2,c,y,1\n3,a,x,1\n4,c,y,0\n5,a,x,0\n', _table),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_undamaged_file_loads(form: str, tmp_path: Path) -> None:
    good, load = FORMS[form]
    assert len(load(tmp_path, good).train) > 0


@pytest.mark.parametrize("form", FORMS)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=3))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_a_damaged_file_is_refused_by_name_or_loads(form: str, changes: list[tuple[float, bytes, int]]) -> None:
    good, load = FORMS[form]
    # Long files end in plain pixels: most changes go where the structure is.
    data, reach = bytearray(good), min(len(good), 400)
    for place, new, drop in changes:
        at = int(place * reach)
        data[at : at + drop] = new
    with tempfile.TemporaryDirectory() as folder:
        try:
            split = load(Path(folder), bytes(data))
        except ConfigError:
            return
    assert np.isfinite(split.train.raw).all()
