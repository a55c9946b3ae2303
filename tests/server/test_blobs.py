"""Content-addressed files and model files: whole or not there, and other people's readers agree."""

import gc
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from edgehold.core.errors import ConfigError, NotFound, WrongShape
from edgehold.core.vectors import Schema, Tensor
from edgehold.server.store import weights_file
from edgehold.server.store.blobs import BlobStore, FileBlob

VALUES = np.arange(6, dtype="<f4")


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def names(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store._folder.iterdir())


def test_a_blob_is_named_by_what_it_holds(store: BlobStore) -> None:
    sink = store.sink(6)
    sink.write(VALUES[:2])
    sink.write(VALUES[2:].astype(">f8"))  # cast to the sink's type
    vector = sink.finish()
    assert vector.whole().tolist() == VALUES.tolist()
    digest = hashlib.sha256(VALUES.tobytes()).digest()
    assert names(store) == [digest.hex()]
    again = store.open(digest)
    assert (again.digest, again.size, again.read(4, 12)) == (digest, 24, VALUES.tobytes()[4:12])
    assert store.put(VALUES).digest == digest
    assert names(store) == [digest.hex()]
    with pytest.raises(NotFound):
        store.open(bytes(32))


def test_an_unfinished_sink_publishes_nothing_and_leaves_nothing(store: BlobStore) -> None:
    sink = store.sink(6)
    sink.write(VALUES[:5])
    with pytest.raises(WrongShape, match="1 values are missing"):
        sink.finish()
    assert [name[-4:] for name in names(store)] == [".tmp"]
    del sink
    gc.collect()
    assert names(store) == []


def test_what_a_crash_left_half_written_goes_at_the_next_start(tmp_path: Path) -> None:
    kept = BlobStore(tmp_path).put(VALUES)
    (tmp_path / "00ff.tmp").write_bytes(b"half")
    assert names(BlobStore(tmp_path)) == [kept.digest.hex()]


def test_keep_only(store: BlobStore) -> None:
    blobs = [store.put(VALUES + i) for i in range(3)]
    sink = store.sink(1)  # somebody is writing: not an orphan yet
    assert store.keep_only([blobs[1].digest, bytes(32)]) == 2
    assert [name for name in names(store) if not name.endswith(".tmp")] == [blobs[1].digest.hex()]
    sink.write(VALUES[:1])
    sink.finish()
    assert len(names(store)) == 2


def test_what_somebody_has_open_is_not_dropped(store: BlobStore) -> None:
    digest = store.put(VALUES).digest
    gc.collect()
    held: FileBlob | None = store.open(digest)
    store.drop([digest])
    assert names(store) == [digest.hex()]
    assert held is not None
    held = None
    gc.collect()
    store.drop([digest, bytes(32)])
    assert names(store) == []


# Model files.


def written(store: BlobStore, path: Path, schema: Schema, values: Any) -> bytes:
    blob = store.put(values)
    path.write_bytes(weights_file.header(schema, {"made": "here"}) + blob.read(0, blob.size))
    return blob.digest


shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_both_ways_with_the_safetensors_library(tmp_path_factory: pytest.TempPathFactory, found: list[tuple[int, ...]]) -> None:
    tmp_path = tmp_path_factory.mktemp("weights")
    store = BlobStore(tmp_path / "blobs")
    schema = Schema(tuple(Tensor(f"layer.{i}", shape) for i, shape in enumerate(found)))
    arrays = {t.name: np.random.default_rng(i).random(t.shape, dtype=np.float32) for i, t in enumerate(schema.tensors)}
    flat = schema.flatten(arrays)

    digest = written(store, tmp_path / "ours", schema, flat)
    theirs = load_file(tmp_path / "ours")
    assert theirs.keys() == arrays.keys()
    assert all(np.array_equal(theirs[name], arrays[name]) and theirs[name].shape == arrays[name].shape for name in arrays)
    if schema.size:
        assert weights_file.read(tmp_path / "ours", store)[0].digest == schema.digest

    save_file(arrays, tmp_path / "theirs", {"made": "there"})
    if not schema.size:
        with pytest.raises(ConfigError):
            weights_file.read(tmp_path / "theirs", store)
        return
    got, blob = weights_file.read(tmp_path / "theirs", store)
    values = np.frombuffer(blob.read(0, blob.size), "<f4")
    assert {name: value.tolist() for name, value in got.unflatten(values).items()} == {
        name: value.tolist() for name, value in arrays.items()
    }
    if [t.name for t in got.tensors] == [t.name for t in schema.tensors]:
        assert blob.digest == digest


GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F32", "shape": [1, 3], "data_offsets": [8, 20]},
}


def with_a(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "a": {**GOOD["a"], **changes}}


def file_of(entries: Any, body: bytes = VALUES.tobytes()[:20], length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


WRONG: dict[str, bytes] = {
    "empty": b"",
    "shorter than a length": b"\x10\x00\x00",
    "header length 0": file_of(GOOD, length=0),
    "header longer than the file": file_of(GOOD, length=1 << 40),
    "header of 2^64 - 1": file_of(GOOD, length=(1 << 64) - 1),
    "not JSON": file_of(b"{no json at all"),
    "not UTF-8": file_of(b'{"\xff":1}'),
    "deeply nested": file_of(b"[" * 100_000),
    "deeply nested objects": file_of(b'{"a":' * 50_000),
    "a huge number": file_of(b'{"a":' + b"9" * 10_000 + b"}"),
    "a list": file_of([GOOD]),
    "a number": file_of(7),
    "no tensors": file_of({}, b""),
    "tensors of no values": file_of({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, b""),
    "entry is a number": file_of({**GOOD, "a": 1}),
    "no dtype": file_of({**GOOD, "a": {"shape": [2], "data_offsets": [0, 8]}}),
    "no shape": file_of({**GOOD, "a": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "no offsets": file_of({**GOOD, "a": {"dtype": "F32", "shape": [2]}}),
    "float64": file_of(with_a(dtype="F64")),
    "dtype is a number": file_of(with_a(dtype=32)),
    "dtype is a list": file_of(with_a(dtype=["F32"])),
    "shape is a number": file_of(with_a(shape=2)),
    "shape of text": file_of(with_a(shape=["2"])),
    "shape of fractions": file_of(with_a(shape=[2.0])),
    "shape of truths": file_of(with_a(shape=[2, True])),
    "shape of nothing": file_of(with_a(shape=[None])),
    "negative shape": file_of(with_a(shape=[-1, -2])),
    "enormous shape": file_of(with_a(shape=[1 << 62, 1 << 62])),
    "another shape": file_of(with_a(shape=[3])),
    "one offset": file_of(with_a(data_offsets=[0])),
    "three offsets": file_of(with_a(data_offsets=[0, 8, 8])),
    "offsets of text": file_of(with_a(data_offsets=["0", "8"])),
    "offsets of fractions": file_of(with_a(data_offsets=[0.0, 8.0])),
    "offsets overlap": file_of({**GOOD, "b": {"dtype": "F32", "shape": [3], "data_offsets": [4, 16]}}),
    "offsets leave a gap": file_of({**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}}),
    "negative offsets": file_of(with_a(data_offsets=[-8, 0])),
    "file too short": file_of(GOOD, VALUES.tobytes()[:19]),
    "file too long": file_of(GOOD, VALUES.tobytes()),
    "not a number": file_of(GOOD, np.array([0, np.nan, 0, 0, 0], "<f4").tobytes()),
    "infinite": file_of(GOOD, np.array([0, 0, 0, 0, -np.inf], "<f4").tobytes()),
}


def test_the_good_file_is_read(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(file_of({"__metadata__": {"format": "np"}, **GOOD}))
    schema, blob = weights_file.read(tmp_path / "good", store)
    assert [(t.name, t.shape) for t in schema.tensors] == [("a", (2,)), ("b", (1, 3))]
    assert blob.read(0, blob.size) == VALUES.tobytes()[:20]


@pytest.mark.parametrize("case", WRONG)
def test_every_malformed_file_is_refused(store: BlobStore, tmp_path: Path, case: str) -> None:
    (tmp_path / "bad.safetensors").write_bytes(WRONG[case])
    with pytest.raises(ConfigError, match=r"^bad\.safetensors: "):
        weights_file.read(tmp_path / "bad.safetensors", store)
    gc.collect()
    assert names(store) == []
