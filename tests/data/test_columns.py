"""The CSV reader against Python's own, and what it refuses."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehold.client.data.columns import CsvTable, codes, matrix, vocabulary
from edgehold.core.errors import ConfigError

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=6).map(
    lambda text: text.strip(" ")
)


@given(st.integers(1, 4).flatmap(lambda w: st.lists(st.lists(CELL, min_size=w, max_size=w), min_size=1, max_size=12)))
@settings(deadline=None, max_examples=200)
def test_reads_what_the_csv_module_writes(rows: list[list[str]]) -> None:
    names = [f"c{at}" for at in range(len(rows[0]))]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([names, *rows])
    table = CsvTable(text.getvalue().encode(), "t.csv")
    assert table.names == tuple(names)
    assert table.rows == len(rows)
    for at, name in enumerate(names):
        assert [cell.decode() for cell in table.text(name).tolist()] == [row[at].strip(" ") for row in rows]


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30))
@settings(deadline=None)
def test_numbers_are_pythons(values: list[float]) -> None:
    table = CsvTable(("x,y\n" + "\n".join(f"{v!r}, {v:.3e} " for v in values)).encode(), "t.csv")
    assert table.numbers("x").tolist() == values
    assert table.numbers("y").tolist() == [float(f"{v:.3e}") for v in values]


def test_marks_line_ends_and_headers_of_real_files() -> None:
    plain = CsvTable(b"a,b\n1,x\n2,y", "t")
    for data in (b"\xef\xbb\xbfa,b\r\n1,x\r\n2,y\r\n", b"a,b\n1,x\n2,y\n\n", b'"a","b"\n"1","x"\n2,"y"\n'):
        table = CsvTable(data, "t")
        assert table.names == plain.names == ("a", "b")
        assert table.numbers("a").tolist() == [1, 2]
        assert table.text("b").tolist() == [b"x", b"y"]
    assert CsvTable(b"1;2", "t", ["a", "b"], ";").numbers("b").tolist() == [2]


def test_missing_cells_become_nan_only_when_named() -> None:
    table = CsvTable(b"a\n1\n?\n3", "t")
    assert np.isnan(table.numbers("a", ("?",))).tolist() == [False, True, False]
    with pytest.raises(ConfigError, match=r"t: column 'a', row 2 is '\?'; expected a finite number"):
        table.numbers("a")


@pytest.mark.parametrize("cell", ["nan", "inf", "-Infinity", "1e999", "1_000", "0x10", "tcp", ""])
def test_a_bad_number_is_named_with_column_and_row(cell: str) -> None:
    table = CsvTable(f"id,bytes\n1,5\n2,6\n3,{cell}\n4,x".encode(), "flows.csv")
    with pytest.raises(ConfigError, match="flows.csv: column 'bytes', row 3 is") as caught:
        table.numbers("bytes")
    assert caught.value.field == "bytes"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"a,b\n", "a header but no record"),
        (b"a,b\n1,2\n3\n", "row 2 has 1 fields; expected 2"),
        (b"a,b\n1,2,3\n", "row 1 has 3 fields; expected 2"),
        (b"a,a\n1,2\n", "'a' occurs more than once"),
        (b'a,b\n1,"2\n', "not closed"),
        (b"a,\xff\n1,2\n", "not UTF-8"),
    ],
)
def test_a_broken_table_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CsvTable(data, "t.csv")


def test_without_a_header_rows_count_from_the_first_line() -> None:
    with pytest.raises(ConfigError, match="row 2 has 1 fields; expected 2"):
        CsvTable(b"1,2\n3", "t", ["a", "b"])
    with pytest.raises(ConfigError, match="no column 'c'; it has a, b"):
        CsvTable(b"1,2", "t", ["a", "b"]).text("c")


def test_text_columns_become_codes_and_columns() -> None:
    table = CsvTable(b"n,p\n1,udp\n2,tcp\n3,icmp", "t")
    assert vocabulary(table, "p") == ("icmp", "tcp", "udp")
    # The order of the vocabulary counts, not the alphabet: udp is 0.
    assert codes(table, "p", ("udp", "tcp", "icmp")).tolist() == [0, 1, 2]
    assert codes(table, "p", ("udp", "tcp"), strict=False).tolist() == [0, 1, -1]
    with pytest.raises(ConfigError, match="column 'p', row 3 is 'icmp'; allowed: udp, tcp"):
        codes(table, "p", ("udp", "tcp"))
    x, names = matrix(table, ["n"], {"p": ("udp", "tcp")})
    assert names == ("n", "p=udp", "p=tcp")
    assert x.dtype == np.float32
    assert x.tolist() == [[1, 1, 0], [2, 0, 1], [3, 0, 0]]


def test_a_number_beyond_32_bits_is_named() -> None:
    with pytest.raises(ConfigError, match="column 'n', row 2 is 1e[+]300; too large"):
        matrix(CsvTable(b"n\n1\n1e300", "t"), ["n"], {})
