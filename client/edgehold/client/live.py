"""Records that are still coming in: whole lines of a pipe or a growing file, as blocks of numbers.

A block is whatever has arrived, so that a slow stream is answered at once and a fast one in large pieces.
"""

import csv
import os
import select
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Protocol

import msgspec
import numpy as np

from edgehold.client.data.columns import CsvTable, find
from edgehold.core.anomaly import Doubles
from edgehold.core.errors import ConfigError

CHUNK = 1 << 20
"""Bytes read at once, at most."""
LINE_LIMIT = 1 << 20
WAIT_S = 0.2
"""How often a growing file is looked at."""
_NUMBERS = msgspec.json.Decoder(list[float])


def lines(descriptor: int, follow: bool) -> Iterator[bytes]:
    """Whole lines as they arrive, each piece ending in a line break (the last one gets one if it has none).

    follow: wait for more at the end of a file, and begin anew when it shrinks; a pipe ends when its writer closes it.
    """
    rest = b""
    while True:
        if not follow:
            select.select([descriptor], [], [])
        data = os.read(descriptor, CHUNK)
        if not data:
            if follow:
                # Whoever turns a log over begins again at its start; half a line of the old one is lost with it.
                if os.fstat(descriptor).st_size < os.lseek(descriptor, 0, os.SEEK_CUR):
                    rest = b""
                    os.lseek(descriptor, 0, os.SEEK_SET)
                else:
                    time.sleep(WAIT_S)
                continue
            if rest:
                yield rest + b"\n"
            return
        whole, found, after = data.rpartition(b"\n")
        if found:
            yield rest + whole + b"\n"
            rest = after
        else:
            rest += data
        if len(rest) > LINE_LIMIT:
            raise ConfigError(f"a line of more than {LINE_LIMIT} bytes without an end; expected records of numbers, one a line")


@dataclass(frozen=True, slots=True)
class Block:
    """x: (n, columns) finite numbers; rows: (n,) which records they are, counted from 1."""

    x: Doubles
    rows: Sequence[int]


class Reader(Protocol):
    """Lines of one format to blocks."""

    def read(self, data: bytes) -> Block:
        """The records of whole lines, possibly none."""


@dataclass
class Bad:
    """Records that cannot be read. skip: count them instead of raising `ConfigError`; first: what was wrong with the first."""

    skip: bool
    count: int = 0
    first: str = ""

    def found(self, message: str) -> None:
        """One more."""
        if not self.skip:
            raise ConfigError(message)
        self.first = self.first or message
        self.count += 1


@dataclass
class CsvReader:
    """Comma-separated records under a header. columns: those wanted, in the model's order; () for all, in the file's.

    where: name of the stream, for messages; names: of its columns, once the header was read.
    """

    columns: Sequence[str]
    where: str
    bad: Bad
    delimiter: str = ","
    names: list[str] = field(default_factory=list)
    _places: list[int] = field(default_factory=list)
    _row: int = 0

    def read(self, data: bytes) -> Block:
        """See `Reader`."""
        data = data.replace(b"\r\n", b"\n")
        data += b"" if data.endswith(b"\n") else b"\n"
        if not self.names:
            head, _, data = data.partition(b"\n")
            self._header(head.removeprefix(b"\xef\xbb\xbf"))
        if data[:1] == b"\n" or b"\n\n" in data:
            data = b"".join(line + b"\n" for line in data.split(b"\n") if line)
        if not data:
            return Block(np.zeros((0, len(self._places))), [])
        x = self._fast(data)
        if x is None:
            return self._slow(data)
        self._row += len(x)
        return Block(x, range(self._row - len(x) + 1, self._row + 1))

    def _header(self, line: bytes) -> None:
        try:
            self.names = [name.strip() for name in _fields(line.decode(), self.delimiter)]
        except UnicodeDecodeError:
            raise ConfigError(f"{self.where}: the header is not UTF-8 text") from None
        if not any(self.names):
            raise ConfigError(f"{self.where}: no header; expected the names of the columns in the first line")
        header = CsvTable(line + b"\n" + line, self.where, delimiter=self.delimiter)  # refuses a name that occurs twice
        self._places = [find(header, name) for name in self.columns or self.names]

    def _fast(self, data: bytes) -> Doubles | None:
        """All records at once, as one JSON list of numbers; None where one of them needs a closer look."""
        width, count = len(self.names), data.count(b"\n")
        if b'"' in data:
            return None
        buffer = np.frombuffer(data, dtype=np.uint8)
        ends = np.flatnonzero((buffer == ord(self.delimiter)) | (buffer == ord("\n")))
        if len(ends) != width * count or (buffer[ends[width - 1 :: width]] != ord("\n")).any():
            return None
        wanted = np.isin(np.arange(width), self._places)
        if not wanted.all():
            buffer = buffer[np.repeat(np.tile(wanted, count), np.diff(ends, prepend=-1))]
        flat = buffer.tobytes().replace(b"\n", b",").replace(self.delimiter.encode(), b",")
        try:
            found = np.array(_NUMBERS.decode(b"[" + flat[:-1] + b"]"))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if len(found) != wanted.sum() * count or not np.isfinite(found).all():
            return None
        # The columns that were kept stand in the file's order.
        return np.asarray(found.reshape(count, -1)[:, np.searchsorted(np.flatnonzero(wanted), self._places)])

    def _slow(self, data: bytes) -> Block:
        found, rows = [], []
        for line in data.split(b"\n")[:-1]:
            self._row += 1
            cells = _fields(line.decode(errors="replace"), self.delimiter)
            if len(cells) != len(self.names):
                self.bad.found(f"{self.where}: row {self._row} has {len(cells)} fields; expected {len(self.names)}")
                continue
            values = [_number(cells[place]) for place in self._places]
            if None in values:
                place = self._places[values.index(None)]
                cell = cells[place].strip()
                what = f"is {cell[:60]!r}" if cell else "is empty"
                name = self.names[place]
                self.bad.found(f"{self.where}: column {name!r}, row {self._row} {what}; expected a finite number")
                continue
            found.append(values)
            rows.append(self._row)
        return Block(np.array(found, dtype=np.float64).reshape(len(found), len(self._places)), rows)


@dataclass
class JsonReader:
    """One JSON object a line. columns: keys wanted, in the model's order; others are not looked at."""

    columns: Sequence[str]
    where: str
    bad: Bad
    _row: int = 0
    _decoder: Any = None

    def __post_init__(self) -> None:
        if not self.columns:
            raise ConfigError("JSON lines have no order of columns: name them with --columns or --task", field="columns")
        fields = [(f"c{at}", float) for at in range(len(self.columns))]
        renamed = {f"c{at}": name for at, name in enumerate(self.columns)}
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("Record", fields, rename=renamed))

    def read(self, data: bytes) -> Block:
        """See `Reader`."""
        try:
            found = [msgspec.structs.astuple(record) for record in self._decoder.decode_lines(data)]
            x = np.array(found, dtype=np.float64).reshape(len(found), len(self.columns))
            if not np.isfinite(x).all():
                return self._slow(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._slow(data)
        self._row += len(x)
        return Block(x, range(self._row - len(x) + 1, self._row + 1))

    def _slow(self, data: bytes) -> Block:
        found: list[tuple[float, ...]] = []
        rows: list[int] = []
        for line in data.split(b"\n"):
            if not line.strip():
                continue
            self._row += 1
            try:
                values = msgspec.structs.astuple(self._decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.bad.found(f"{self.where}: row {self._row}: {self._told(str(error))}")
                continue
            if not all(map(isfinite, values)):
                name = self.columns[[isfinite(value) for value in values].index(False)]
                self.bad.found(f"{self.where}: column {name!r}, row {self._row} is not finite; expected a finite number")
                continue
            found.append(values)
            rows.append(self._row)
        return Block(np.array(found, dtype=np.float64).reshape(len(found), len(self.columns)), rows)

    def _told(self, error: str) -> str:
        what, _, path = error.partition(" - at `$.")
        return f"column {path.rstrip('`')!r}: {what[0].lower()}{what[1:]}" if path else what


def _fields(line: str, delimiter: str) -> list[str]:
    """The fields of one record; none where quotes or line ends stand where they may not."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if isfinite(value) and "_" not in cell else None
