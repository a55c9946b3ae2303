"""Uploads at rest: sealed, resumable, unreadable without the key."""

import copy
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehold.core.errors import ConfigError, Conflicting, Corrupted
from edgehold.core.vectors import SLACK
from edgehold.server.store.spool import SALT, RoundKeys, SealedFile

KEY, NAME = bytes(range(32)), b"name of the upload"
DATA = hashlib.shake_256(b"payload").digest(100_003)


def unsealed(path: Path, key: bytes = KEY) -> bytes:
    """The slow obvious reader: one key stream from the start."""
    raw = path.read_bytes()
    derived = HKDF(hashes.SHA256(), 32, raw[:SALT], b"edgehold spool v1" + NAME).derive(key)
    return Cipher(AES256(derived), CTR(bytes(16))).decryptor().update(raw[SALT:])


def filled(path: Path, data: bytes = DATA) -> SealedFile:
    file = SealedFile(path, KEY, NAME)
    file.append(data)
    return file


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=12), st.data())
def test_any_cuts_and_reopenings_give_one_stream(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("spool") / "upload"
    plain = DATA[: sum(sizes)]
    file, start = SealedFile(path, KEY, NAME), 0
    for size in sizes:
        if data.draw(st.booleans()):
            file.close()
            file = SealedFile(path, KEY, NAME)
            assert file.size == start
        file.append(plain[start : start + size])
        start += size
    assert unsealed(path) == plain
    assert file.digest() == hashlib.sha256(plain).digest()
    first = data.draw(st.integers(0, len(plain)))
    last = data.draw(st.integers(first, len(plain)))
    assert file.read(first, last) == plain[first:last]
    file.close()


def test_counter_at_odd_offsets(tmp_path: Path) -> None:
    file = filled(tmp_path / "upload")
    for start in (0, 1, 15, 16, 17, 31, 4095, 65_535, 65_537):
        assert file.read(start, start + 33) == DATA[start : start + 33]
    file.close()


def test_an_overlap_must_be_the_same_bytes(tmp_path: Path) -> None:
    file = filled(tmp_path / "upload")
    file.match(17, DATA[17:5000])
    file.match(0, DATA)
    with pytest.raises(Conflicting, match="bytes 17 to 19"):
        file.match(17, bytes([DATA[17] ^ 1, DATA[18]]))
    file.close()


def test_equal_payloads_look_different_at_rest(tmp_path: Path) -> None:
    one, two = filled(tmp_path / "one"), filled(tmp_path / "two")
    a, b = ((tmp_path / name).read_bytes() for name in ("one", "two"))
    assert a[:SALT] != b[:SALT]
    # 100,003 random bytes agree in about one of 256 places: 391, with a deviation of 20.
    assert sum(x == y for x, y in zip(a[SALT:], b[SALT:], strict=True)) < 600
    assert DATA[:16] not in a
    one.close()
    two.close()


def test_another_key_or_name_reads_noise(tmp_path: Path) -> None:
    filled(tmp_path / "upload").close()
    for key, name in ((bytes(32), NAME), (KEY, b"other")):
        file = SealedFile(tmp_path / "upload", key, name)
        assert file.size == len(DATA)
        assert file.digest() != hashlib.sha256(DATA).digest()
        with pytest.raises(Corrupted):
            file.verify(hashlib.sha256(DATA).digest())
        file.close()


def test_a_damaged_byte_is_found_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    filled(path).close()
    raw = bytearray(path.read_bytes())
    raw[50_000] ^= 1
    path.write_bytes(raw)
    file = SealedFile(path, KEY, NAME)
    with pytest.raises(Corrupted):
        file.verify(hashlib.sha256(DATA).digest())
    file.close()


def test_a_file_cut_inside_its_salt_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    filled(path, b"").close()
    path.write_bytes(path.read_bytes()[: SALT - 3])
    file = SealedFile(path, KEY, NAME)
    assert file.size == 0
    file.append(DATA)
    file.close()
    assert unsealed(path) == DATA


def test_discard_removes_and_close_may_come_twice(tmp_path: Path) -> None:
    file = filled(tmp_path / "upload")
    file.discard()
    file.close()
    assert not (tmp_path / "upload").exists()


def test_round_keys(tmp_path: Path) -> None:
    keys = RoundKeys(tmp_path / "keys")
    assert keys.find("r.1.1") is None
    one = keys.create("r.1.1")
    assert (len(one), keys.create("r.1.1"), keys.find("r.1.1")) == (32, one, one)
    assert keys.create("r.1.2") != one
    assert (tmp_path / "keys" / "r.1.1").stat().st_mode & 0o777 == 0o600
    keys.destroy_all_but({"r.1.2"})
    assert keys.find("r.1.1") is None
    keys.destroy("r.1.2")
    keys.destroy("r.1.2")
    assert keys.find("r.1.2") is None
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="memory-backed"):
        RoundKeys(tmp_path / "file" / "keys")


def test_reads_into_place_equal_reads_and_touch_nothing_else(tmp_path: Path) -> None:
    """Across the parts in which it works, at odd offsets, with ciphers used again, and from several threads at once."""
    file = filled(tmp_path / "upload", DATA * 2)

    def read(start: int) -> None:
        for size in (0, 1, 15, 16, 17, 65_535, 65_536, 65_537, 140_000):
            stop = min(start + size, len(DATA) * 2)
            out = memoryview(bytearray(b"x" * (stop - start + SLACK)))
            file.read_into(start, stop, out)
            assert out[: stop - start] == (DATA * 2)[start:stop]
            assert bytes(out[stop - start :]) == b"x" * SLACK

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, [0, 1, 15, 16, 17, 65_535, 65_537, 100_001] * 3))
    short = memoryview(bytearray(40 + SLACK))
    with pytest.raises(Corrupted, match="ends 10 bytes short"):
        file.read_into(file.size - 30, file.size + 10, short)
    file.close()


def test_another_process_reads_the_same_upload_and_cannot_write_it(tmp_path: Path) -> None:
    file = filled(tmp_path / "upload")
    again = copy.copy(file)  # by the same way as to another process
    assert (again.size, again.read(17, 5000)) == (len(DATA), DATA[17:5000])
    with pytest.raises(OSError, match="Bad file descriptor"):
        again.append(b"more")
    again.close()
    file.discard()
    with pytest.raises(ConfigError, match="in the same place"):
        copy.copy(file)
