"""Anybody's own table."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.client.data.custom import table
from edgehold.client.data.files import digest_of
from edgehold.core.errors import ConfigError

CSV = b"bytes,proto,site,verdict\n1,udp,b,good\n2,tcp,a,bad\n3,udp,b,bad\n4,tcp,a,good\n"


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    place = tmp_path / "flows.csv"
    place.write_bytes(CSV)
    return place


def _load(place: Path, **changes: Any) -> Any:
    options: dict[str, Any] = {"label": "verdict", "classes": ["good", "bad"], "categories": {"proto": ["udp", "tcp"]}}
    return table(place, **(options | {"group": "site", "split": "time", "test_share": 0.25} | changes))


def test_a_table_by_hand(flows: Path) -> None:
    split = _load(flows)
    assert split.train.features == ("bytes", "proto=udp", "proto=tcp")
    assert split.train.x.tolist() == [[1, 1, 0], [2, 0, 1], [3, 1, 0]]
    assert split.test.x.tolist() == [[4, 0, 1]]
    assert split.train.y.tolist() == [0, 1, 1]
    assert split.train.group_names == ("a", "b")
    assert split.train.groups.tolist() == [1, 0, 1]
    assert split.train.digest == "unverified " + digest_of(CSV)
    assert _load(flows, sha256=digest_of(CSV)[7:]).train.digest == digest_of(CSV)
    with pytest.raises(ConfigError, match="no known version"):
        _load(flows, sha256="0" * 64)


def test_a_number_to_predict_and_a_test_file(flows: Path) -> None:
    split = _load(flows, label="bytes", classes=(), group="", numbers=[], test_path=flows)
    assert split.train.y.tolist() == split.test.y.tolist() == [1, 2, 3, 4]
    assert split.train.y.dtype == np.float32
    assert split.train.classes == ()
    assert split.train.groups is None


def test_values_from_the_file_where_none_are_declared(flows: Path) -> None:
    assert _load(flows, categories={"proto": []}).train.features == ("bytes", "proto=tcp", "proto=udp")
    other = flows.with_name("more.csv")
    other.write_bytes(CSV.replace(b"4,tcp", b"4,sctp"))
    assert _load(flows, categories={"proto": []}, test_path=other).test.x[3].tolist() == [4, 0, 0]
    with pytest.raises(ConfigError, match="more.csv: column 'proto', row 4 is 'sctp'; allowed: udp, tcp"):
        _load(flows, test_path=other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "verdct"}, "no column 'verdct'; it has bytes, proto, site, verdict"),
        ({"classes": ["good"]}, "column 'verdict', row 2 is 'bad'; allowed: good"),
        ({"classes": ()}, "column 'verdict', row 1 is 'good'; expected a finite number"),
        ({"categories": {"proto": ["udp"]}}, "column 'proto', row 2 is 'tcp'; allowed: udp"),
        ({"categories": {}}, "column 'proto', row 1 is 'udp'; expected a finite number"),
        ({"group": "sight"}, "no column 'sight'"),
        ({"numbers": ["bytes", "verdict"]}, "among the features too"),
        ({"numbers": [], "categories": {}}, "no feature columns"),
        ({"test_share": 0.0}, "leaves nothing"),
        ({"split": "half"}, "allowed: random, time"),
        ({"delimiter": ";;"}, "one ASCII character"),
    ],
)
def test_a_wrong_schema_names_the_column(flows: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _load(flows, **changes)


def test_holes_are_refused_unless_named_and_then_filled_by_the_training_mean(flows: Path) -> None:
    flows.write_bytes(CSV.replace(b"\n2,", b"\n,"))
    with pytest.raises(ConfigError, match="column 'bytes', row 2 is empty"):
        _load(flows)
    split = _load(flows, missing=[""])
    assert split.train.features[-1] == "bytes missing"
    assert split.train.x[:, 0].tolist() == [1, 2, 3]  # (1 + 3) / 2; the test record's 4 is not in it
    assert split.train.x[:, -1].tolist() == [0, 1, 0]
    assert split.test.x[:, -1].tolist() == [0]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flows.parquet").write_bytes(b"PAR1....PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="flows.parquet: Parquet files need pyarrow"):
        _load(tmp_path / "flows.parquet")


def test_parquet_gives_what_the_csv_gives(flows: Path, tmp_path: Path) -> None:
    arrow: types.ModuleType = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import importlib

    parquet = importlib.import_module("pyarrow.parquet")
    columns = {
        "bytes": [1, 2, 3, 4],
        "proto": ["udp", "tcp", "udp", "tcp"],
        "site": ["b", "a", "b", "a"],
        "verdict": ["good", "bad", "bad", "good"],
    }
    parquet.write_table(arrow.table(columns), tmp_path / "flows.parquet")
    one, other = _load(tmp_path / "flows.parquet"), _load(flows)
    assert np.array_equal(one.train.x, other.train.x)
    assert np.array_equal(one.test.y, other.test.y)
    parquet.write_table(arrow.table(columns | {"bytes": [1, None, 3, 4]}), tmp_path / "flows.parquet")
    with pytest.raises(ConfigError, match="column 'bytes', row 2 is empty"):
        _load(tmp_path / "flows.parquet")
    assert _load(tmp_path / "flows.parquet", missing=[""]).train.x[:, 0].tolist() == [1, 2, 3]
    parquet.write_table(arrow.table(columns | {"bytes": [1.0, 2.0, float("nan"), 4.0]}), tmp_path / "flows.parquet")
    with pytest.raises(ConfigError, match="column 'bytes', row 3 is 'nan'; expected a finite number"):
        _load(tmp_path / "flows.parquet")
    assert _load(tmp_path / "flows.parquet", missing=["nan"]).train.x[:, -1].tolist() == [0, 0, 1]
    parquet.write_table(arrow.table(columns | {"proto": [[1], [2], [3], [4]]}), tmp_path / "flows.parquet")
    with pytest.raises(ConfigError, match="column 'proto' is list<.*>; expected numbers or text"):
        _load(tmp_path / "flows.parquet")
    (tmp_path / "flows.parquet").write_bytes((tmp_path / "flows.parquet").read_bytes()[:-20])
    with pytest.raises(ConfigError, match="damaged Parquet"):
        _load(tmp_path / "flows.parquet")
