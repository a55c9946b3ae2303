"""`fl-client infer`: a model that was handed over, on records of a file or of a stream. onnxruntime and NumPy alone."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgehold.client import identity, received
from edgehold.client.config import Home
from edgehold.client.deployed import Deployed, Rolling
from edgehold.client.live import Bad, Block, CsvReader, JsonReader, Reader, lines
from edgehold.client.received import Received
from edgehold.client.stream import nobody_reads, opened, stopping
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array

PREFIX = "deployed:"
_BLOCK = 1024


@dataclass
class Counts:
    """records: that were run; bad: skipped ones; updates: models that took over meanwhile; model: manifest's SHA-256."""

    records: int = 0
    bad: int = 0
    updates: int = 0
    model: str = ""

    def told(self) -> str:
        """One line."""
        more = f"; {self.updates} models took over" if self.updates else ""
        return f"{self.records} records, {self.bad} bad rows skipped{more}; model {self.model[:16]}"


@dataclass(frozen=True)
class Wish:
    """model: a folder, or "deployed:TASK". scores: write all outputs, not only what they decide."""

    model: str
    scores: bool = False
    skip_bad: bool = False
    delimiter: str = ","


def follow(name: str, home: Path) -> Rolling | Received:
    """The model that a command line names, checked with the identity of this device."""
    places = Home(home)
    credentials = identity.load(places.identity)
    if name.startswith(PREFIX):
        return Rolling(Deployed(places.deployed, name.removeprefix(PREFIX), credentials))
    if not Path(name).is_dir():
        raise ConfigError(
            f"{name}: no folder; name one that `fl-server export` wrote, or {PREFIX}TASK for what is deployed", field="model"
        )
    return received.opened(Path(name), credentials)


def infer(wish: Wish, home: Path, source: str, follow_file: bool, out: IO[str], counts: Counts) -> None:
    """Run what comes in until it ends, or until Ctrl-C or SIGTERM; one JSON object a line. source: path, "-" for stdin."""
    found = follow(wish.model, home)
    rolling = found if isinstance(found, Rolling) else None
    model = found.model if isinstance(found, Rolling) else found
    counts.model = model.bundle.digest
    bad = Bad(wish.skip_bad)
    with opened(source) as descriptor, stopping():
        try:
            for block in _blocks(wish, model, source, descriptor, follow_file and source != "-", bad):
                if rolling is not None and rolling.fresh():
                    model, counts.updates, counts.model = rolling.model, counts.updates + 1, rolling.model.bundle.digest
                if rolling is not None and rolling.problem:
                    print(f"deployed model not taken over: {rolling.problem}", file=sys.stderr)
                    rolling.problem = ""
                _write(out, model, block, wish.scores)
                counts.records, counts.bad = counts.records + len(block.rows), bad.count
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            nobody_reads()
    counts.bad = bad.count
    if bad.first:
        print(f"first bad row: {bad.first}", file=sys.stderr)


def _blocks(wish: Wish, model: Received, source: str, descriptor: int, follow_file: bool, bad: Bad) -> Iterator[Block]:
    """Records as they come: a .npy file by its first bytes, JSON arrays or objects by theirs, else CSV."""
    where = "standard input" if source == "-" else source
    if source != "-":
        with Path(source).open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                yield from _saved(Path(source))
                return
    pieces = lines(descriptor, follow_file)
    first = next(pieces, b"")
    if not first:
        return
    columns, start = model.manifest.columns, first.lstrip()[:1]
    reader: Reader
    if start == b"[":
        reader = ArrayReader(int(np.prod(model.graph.shape)), where, bad)
    elif start == b"{":
        reader = JsonReader(columns, where, bad)
    else:
        reader = CsvReader(columns, where, bad, wish.delimiter)
    for piece in chain((first,), pieces):
        yield reader.read(piece)


def _saved(path: Path) -> Iterator[Block]:
    try:
        whole = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ConfigError(f"{path}: no array can be read: {error}; save it with numpy.save, without objects") from None
    if whole.ndim < 1 or whole.dtype.kind not in "fiu":
        raise ConfigError(f"{path}: an array of {whole.dtype} and shape {list(whole.shape)}; records of numbers are expected")
    for start in range(0, len(whole), _BLOCK):
        part = np.array(whole[start : start + _BLOCK])
        yield Block(part, range(start + 1, start + len(part) + 1))


@dataclass
class ArrayReader:
    """One JSON array a line, flat or nested: `count` numbers of a record in C order."""

    count: int
    where: str
    bad: Bad
    _row: int = 0

    def read(self, data: bytes) -> Block:
        """See `live.Reader`."""
        found, rows = [], []
        for line in data.split(b"\n"):
            if not line.strip():
                continue
            self._row += 1
            values = _numbers(line)
            if values is None or values.size != self.count:
                what = "is no array of finite numbers" if values is None else f"has {values.size} numbers"
                self.bad.found(f"{self.where}: row {self._row} {what}; expected {self.count}")
                continue
            found.append(values.reshape(-1))
            rows.append(self._row)
        return Block(np.array(found, dtype=np.float64).reshape(len(found), self.count), rows)


def _numbers(line: bytes) -> Array | None:
    try:
        values = np.array(json.loads(line), dtype=np.float64)
    except (ValueError, TypeError, RecursionError):
        return None
    return values if np.isfinite(values).all() else None


def _write(out: IO[str], model: Received, block: Block, scores: bool) -> None:
    if not len(block.rows):
        return
    outputs = model.graph(block.x)
    said = "".join(json.dumps(one) + "\n" for one in told(model, block.rows, outputs, scores))
    out.write(said)
    out.flush()


def told(model: Received, rows: Any, outputs: Array, scores: bool) -> Iterator[dict[str, Any]]:
    """What is written of each record."""
    decision = model.decided(outputs)
    names = received.labelled(model, decision)
    flat = np.asarray(outputs, dtype=np.float64).reshape(len(outputs), -1)
    shorten: Callable[[float], float] = lambda value: float(f"{value:.6g}")  # noqa: E731
    for at, row in enumerate(rows):
        said: dict[str, Any] = {"record": row}
        if model.manifest.threshold is not None:
            said |= {"score": shorten(flat[at, 0]), "alarm": names[at]}
        elif names:
            said |= {"class": names[at]}
            if decision is not None and decision.ndim == 1:
                said["score"] = shorten(float(flat[at].max()))
        if scores or not names:
            said["outputs"] = [shorten(value) for value in flat[at]]
        yield said
