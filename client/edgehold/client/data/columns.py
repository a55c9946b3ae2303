"""Tables by column: a CSV reader of whole arrays instead of Python loops, and text columns as numbers.

Rows are counted from 1 at the first record; every complaint names column and row.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgehold.client.data.dataset import FloatArray, IntArray
from edgehold.core.errors import ConfigError

_COMMA, _LINE, _QUOTE, _SPACE = b',\n" '
_MOST_CELL_BYTES = 1 << 30

Cells = NDArray[np.bytes_]


class Table(Protocol):
    """Columns by name, from whatever file."""

    where: str
    names: tuple[str, ...]
    rows: int

    def text(self, name: str) -> Cells:
        """(rows,) UTF-8 bytes, without blanks at the ends; b"" where there is nothing."""

    def numbers(self, name: str, missing: Sequence[str] = ()) -> NDArray[np.float64]:
        """(rows,) finite numbers; NaN where the cell is one of `missing`; `ConfigError` for any other text."""


class CsvTable:
    """A comma-separated file as one byte array and the place of every field in it; quoted fields are understood.

    header: names of the columns where the file has none. delimiter: one ASCII character.
    """

    def __init__(self, data: bytes, where: str, header: Sequence[str] | None = None, delimiter: str = ",") -> None:
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\n':
            raise ConfigError(f"delimiter = {delimiter!r}; expected one ASCII character", field="delimiter")
        text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").strip(b"\n")
        if not text:
            raise ConfigError(f"{where}: empty; expected records of comma-separated fields")
        self.where = where
        self._buffer = np.frombuffer(text + b"\n", np.uint8)
        ends = self._field_ends(ord(delimiter))
        lines = np.flatnonzero(self._buffer[ends] == _LINE)
        counts = np.diff(lines, prepend=-1)
        width = len(header) if header is not None else int(counts[0])
        wrong = np.flatnonzero(counts != width)
        if len(wrong):
            row = int(wrong[0]) + (header is not None)
            raise ConfigError(f"{where}: row {row} has {counts[wrong[0]]} fields; expected {width}")
        # A field starts behind the end of the one before; ends of quoted line breaks are not among them.
        starts = np.concatenate([np.zeros(1, ends.dtype), ends[:-1] + 1]).reshape(-1, width)
        self._starts, self._ends = starts, ends.reshape(-1, width)
        if header is None:
            self.names: tuple[str, ...] = ()
            cells = [self._gather(starts[:1, c], self._ends[:1, c])[0] for c in range(width)]
            self._starts, self._ends = starts[1:], self._ends[1:]
            header = [_decoded(cell, where) for cell in cells]
        self.names = tuple(header)
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ConfigError(f"{where}: column {twice!r} occurs more than once")
        self.rows = len(self._starts)
        if not self.rows:
            raise ConfigError(f"{where}: a header but no record")

    def text(self, name: str) -> Cells:
        """See `Table`."""
        column = find(self, name)
        return self._gather(self._starts[:, column], self._ends[:, column])

    def numbers(self, name: str, missing: Sequence[str] = ()) -> NDArray[np.float64]:
        """See `Table`."""
        return to_numbers(self.text(name), self.where, name, missing)

    def _field_ends(self, delimiter: int) -> IntArray:
        buffer = self._buffer
        marks = (buffer == delimiter) | (buffer == _LINE)
        quotes = buffer == _QUOTE
        self._quoted = bool(quotes.any())
        if self._quoted:
            inside = np.bitwise_xor.accumulate(quotes)
            if inside[-1]:
                raise ConfigError(f"{self.where}: a quoted field is not closed")
            marks &= ~inside
        return np.flatnonzero(marks)

    def _gather(self, starts: IntArray, ends: IntArray) -> Cells:
        """Fields of one column side by side, padded with zero bytes."""
        buffer, starts, ends = self._buffer, starts.copy(), ends.copy()
        self._trim(starts, ends)
        if self._quoted:
            full = (ends - starts > 1) & (buffer[starts] == _QUOTE) & (buffer[ends - 1] == _QUOTE)
            starts += full
            ends -= full
            self._trim(starts, ends)
        lengths = ends - starts
        width = max(1, int(lengths.max()))
        if width * len(starts) > _MOST_CELL_BYTES:
            raise ConfigError(f"{self.where}: a field of {width} bytes among {len(starts)} rows; too long for a table")
        cells = np.zeros((len(starts), width), np.uint8)
        shortest = int(lengths.min())
        for at in range(width):
            if at < shortest:
                cells[:, at] = buffer[starts + at]
            else:
                rows = np.flatnonzero(lengths > at)
                cells[rows, at] = buffer[starts[rows] + at]
        found = cells.view(f"S{width}")[:, 0]
        if self._quoted and (pairs := np.flatnonzero(np.char.find(found, b'""') >= 0)).size:
            found[pairs] = [cell.replace(b'""', b'"') for cell in found[pairs].tolist()]
        return found

    def _trim(self, starts: IntArray, ends: IntArray) -> None:
        buffer = self._buffer
        while (blank := (starts < ends) & (buffer[starts] == _SPACE)).any():
            starts += blank
        while (blank := (starts < ends) & (buffer[ends - 1] == _SPACE)).any():
            ends -= blank


def find(table: Table, name: str) -> int:
    """Index of a column; `ConfigError` that lists what there is."""
    if name not in table.names:
        shown = ", ".join(table.names[:60])
        raise ConfigError(f"{table.where}: no column {name!r}; it has {shown}", field=name)
    return table.names.index(name)


def to_numbers(cells: Cells, where: str, name: str, missing: Sequence[str] = ()) -> NDArray[np.float64]:
    """Text as finite float64, NaN for cells among `missing`."""
    gone = np.isin(cells, [m.encode() for m in missing]) if missing else np.zeros(len(cells), bool)
    clean = np.where(gone, b"0", cells) if gone.any() else cells
    try:
        values: NDArray[np.float64] = clean.astype(np.float64)
        bad = ~np.isfinite(values)
        if (clean.view(np.uint8) == ord("_")).any():  # Python reads 1_000 as a number; nobody else does
            bad |= np.char.find(clean, b"_") >= 0
    except ValueError:
        bad = np.array([not _is_number(cell) for cell in clean.tolist()])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        shown = cells[row].decode(errors="replace")
        what = "is empty" if not shown else f"is {shown!r}"
        raise ConfigError(f"{where}: column {name!r}, row {row + 1} {what}; expected a finite number", field=name)
    values[gone] = np.nan
    return values


def codes(table: Table, name: str, vocabulary: Sequence[str], strict: bool = True) -> IntArray:
    """(rows,) position of each cell in `vocabulary`; another value is -1, or with `strict` a `ConfigError`."""
    cells = table.text(name)
    words = np.array([word.encode() for word in vocabulary])
    order = np.argsort(words)
    at = np.minimum(np.searchsorted(words[order], cells), len(words) - 1)
    found = np.where(words[order][at] == cells, order[at], -1).astype(np.int64)
    if strict and (found < 0).any():
        row = int(np.flatnonzero(found < 0)[0])
        shown = ", ".join(vocabulary[:40])
        value = cells[row].decode(errors="replace")
        raise ConfigError(f"{table.where}: column {name!r}, row {row + 1} is {value!r}; allowed: {shown}", field=name)
    return found


def vocabulary(table: Table, name: str) -> tuple[str, ...]:
    """Distinct values of a text column, sorted."""
    return tuple(_decoded(word, table.where) for word in np.unique(table.text(name)))


def matrix(
    table: Table,
    numbers: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    missing: Sequence[str] = (),
    strict: Collection[str] = (),
) -> tuple[FloatArray, tuple[str, ...]]:
    """(rows, features) float32 and the features' names: numbers first, then one column of 0 and 1 per category value.

    categories: column -> its values. A value outside them is all zeros, or in a column of `strict` a `ConfigError`.
    """
    names = [*numbers, *(f"{name}={value}" for name, values in categories.items() for value in values)]
    x = np.zeros((table.rows, len(names)), np.float32)
    for at, name in enumerate(numbers):
        x[:, at] = _single(table.numbers(name, missing), table.where, name)
    at = len(numbers)
    for name, values in categories.items():
        found = codes(table, name, values, name in strict)
        rows = np.flatnonzero(found >= 0)
        x[rows, at + found[rows]] = 1
        at += len(values)
    return x, tuple(names)


def _single(values: NDArray[np.float64], where: str, name: str) -> NDArray[Any]:
    large = np.abs(values) > np.finfo(np.float32).max
    if large.any():
        row = int(np.flatnonzero(large)[0])
        raise ConfigError(f"{where}: column {name!r}, row {row + 1} is {values[row]}; too large for 32 bits", field=name)
    return values.astype(np.float32)


def _is_number(cell: bytes) -> bool:
    try:
        return b"_" not in cell and bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def _decoded(cell: bytes, where: str) -> str:
    try:
        return bytes(cell).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {bytes(cell)!r} is not UTF-8 text") from None
