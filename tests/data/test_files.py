"""Checksums are of the unpacked content; every refusal says what was found, what is known and where to get it."""

import gzip
import hashlib
import subprocess
from pathlib import Path

import pytest

from edgehold.client.data.files import Known, Version, combined, digest_of, read, require, unpack
from edgehold.core.errors import ConfigError

DATA = b"a,b\n1,2\n"
KNOWN = Known(
    ("set.csv", "other.csv"),
    (Version("first", digest_of(b"old")), Version("second", digest_of(DATA, "md5"))),
    "https://example.org/set",
)


def test_plain_and_any_gzip_of_it_are_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(DATA)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "other.csv.gz").write_bytes(gzip.compress(DATA, 1, mtime=5))
    plain = read(require(tmp_path, KNOWN), KNOWN)
    packed = read(require(tmp_path / "packed", KNOWN), KNOWN)
    assert plain.digest == packed.digest == "sha256:" + hashlib.sha256(DATA).hexdigest()
    assert plain.version == packed.version == "second"
    assert require(tmp_path / "set.csv", KNOWN) == tmp_path / "set.csv"


def test_git_blob_ids_are_gits() -> None:
    blob = subprocess.run(["git", "hash-object", "--stdin"], input=DATA, capture_output=True, check=True).stdout
    assert digest_of(DATA, "git") == "git:" + blob.decode().strip()


def test_another_content_is_refused_with_all_a_person_needs(tmp_path: Path) -> None:
    place = tmp_path / "set.csv"
    place.write_bytes(DATA + b"3,4\n")
    with pytest.raises(ConfigError) as caught:
        read(place, KNOWN)
    for part in (str(place), "12 bytes", digest_of(DATA + b"3,4\n"), "first (sha256:", "second (md5:", "example.org", "verify"):
        assert part in str(caught.value)
    loose = read(place, KNOWN, verify=False)
    assert combined([loose]) == "unverified " + digest_of(DATA + b"3,4\n")


def test_a_known_file_read_without_verifying_is_not_called_verified(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(DATA)
    assert combined([read(tmp_path / "set.csv", KNOWN, verify=False)]).startswith("unverified ")


def test_one_unverified_file_marks_the_whole_set(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_bytes(DATA)
    good, loose = read(tmp_path / "set.csv", KNOWN), read(tmp_path / "set.csv", KNOWN, verify=False)
    assert combined([good, good]).startswith("sha256:")
    assert combined([good, loose]).startswith("unverified sha256:")


def test_a_missing_file_names_place_and_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds none of these; expected set.csv or other.csv \(plain or .gz\).*example.org"):
        require(tmp_path, KNOWN)
    with pytest.raises(ConfigError, match="is no folder"):
        require(tmp_path / "nowhere", KNOWN)


@pytest.mark.parametrize("damage", ["short", "flipped", "head"])
def test_damaged_gzip_is_named(tmp_path: Path, damage: str) -> None:
    packed = bytearray(gzip.compress(b"hello world" * 50))
    if damage == "short":
        packed = packed[:-9]
    else:
        packed[{"flipped": -6, "head": 2}[damage]] ^= 0xFF
    (tmp_path / "set.csv.gz").write_bytes(bytes(packed))
    with pytest.raises(ConfigError, match=f"damaged gzip .* {len(packed)} bytes on disk"):
        unpack(tmp_path / "set.csv.gz")
