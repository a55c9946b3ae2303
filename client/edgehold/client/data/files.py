"""Files a person downloaded, checked by their unpacked content: however they were compressed, the numbers are the same."""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgehold.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Version:
    """One known content. digest: "sha256:...", "md5:..." or "git:..." (a git blob id), of the unpacked bytes."""

    label: str
    digest: str


@dataclass(frozen=True, slots=True)
class Known:
    """One file of a data set. names: under which it is looked for, plain or with .gz; origin: where a person gets it."""

    names: tuple[str, ...]
    versions: tuple[Version, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class Content:
    """Unpacked bytes. digest: "sha256:..."; version: label of the known version, "" when it was compared with nothing."""

    path: Path
    data: bytes
    digest: str
    version: str


def digest_of(data: bytes, kind: str = "sha256") -> str:
    """ "kind:hex" of the bytes."""
    if kind == "git":
        return "git:" + hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    if kind == "md5":
        return "md5:" + hashlib.md5(data, usedforsecurity=False).hexdigest()
    return "sha256:" + hashlib.sha256(data).hexdigest()


def match(data: bytes, versions: Sequence[Version]) -> Version | None:
    """The known version these bytes are, or None."""
    kinds = {version.digest.partition(":")[0] for version in versions}
    found = {digest_of(data, kind) for kind in kinds}
    return next((version for version in versions if version.digest in found), None)


def locate(root: str | Path, known: Known, folders: Sequence[str] = ("",)) -> Path | None:
    """The file, below a folder or named itself; None when it is not there."""
    base = Path(root).expanduser()
    if base.is_file():
        return base
    places = [base / folder / (name + ending) for folder in folders for name in known.names for ending in ("", ".gz")]
    return next((place for place in places if place.is_file()), None)


def require(root: str | Path, known: Known, folders: Sequence[str] = ("",)) -> Path:
    """`locate`, or `ConfigError` that says what is missing and where a person gets it."""
    found = locate(root, known, folders)
    if found is None:
        what = "is no folder" if not Path(root).expanduser().exists() else "holds none of these"
        raise ConfigError(
            f"{root or '(no path)'}: {what}; expected {' or '.join(known.names)} (plain or .gz). Get it: {known.origin}",
            field="path",
        )
    return found


def unpack(path: Path) -> bytes:
    """The bytes of a file, out of gzip where it is gzip; `ConfigError` when it is damaged."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: damaged gzip ({error}); {path.stat().st_size} bytes on disk. Get it again") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def read(path: Path, known: Known, verify: bool = True) -> Content:
    """The unpacked content, compared with the known versions; `verify=False` takes any, and the digest says so."""
    data = unpack(path)
    return check(path, data, known, verify)


def check(path: Path, data: bytes, known: Known, verify: bool = True) -> Content:
    """`data` as `Content` when it is a known version."""
    digest = digest_of(data)
    if not verify:
        return Content(path, data, digest, "")
    version = match(data, known.versions)
    if version is None:
        have = "; ".join(f"{v.label} ({v.digest})" for v in known.versions)
        listed = f"known: {have}" if have else "no checksum of it is published"
        raise ConfigError(
            f"{path}: the unpacked content is {len(data)} bytes, {digest}, no known version of {known.names[0]}; {listed}. "
            f"Get it: {known.origin}. To load it as it is: verify = false",
            field="path",
        )
    return Content(path, data, digest, version.label)


def combined(contents: Iterable[Content]) -> str:
    """One digest of several files, in their order; "unverified ..." unless every one is a known version."""
    listed = list(contents)
    digest = listed[0].digest if len(listed) == 1 else digest_of("\n".join(c.digest for c in listed).encode())
    return digest if all(c.version for c in listed) else f"unverified {digest}"


def sources(contents: Iterable[Content]) -> str:
    """Names of the files, for `Dataset.source`."""
    return ", ".join(f"{c.path.name} ({c.version})" if c.version else c.path.name for c in contents)
