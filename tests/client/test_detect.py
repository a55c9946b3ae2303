"""`fl-client detect`: live streams in both formats, what is wrong named by row and column, speed, and its end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.testbed import eventually
from edgehold.client import model_file
from edgehold.client.live import Bad, CsvReader, JsonReader
from edgehold.core.anomaly import NEVER, Detector, Reading, names_digest, schema_of
from edgehold.core.errors import ConfigError
from edgehold.server.store.weights_file import header

COLUMNS = ("a", "b", "c")
NAMES = ",".join(COLUMNS)


def saved(path: Path, threshold: float = 4.0, columns: tuple[str, ...] = COLUMNS, **changed: Any) -> Path:
    """A model whose score is b squared + c squared: the subspace is the first axis."""
    d = len(columns)
    schema = schema_of(d, 1)
    parts = {
        "mean": np.zeros(d), "width": np.ones(d), "subspace": np.eye(d, 1), "threshold": np.array([threshold]),
        "reading": Reading("none", 0, names_digest(columns)).values(), **changed,
    }  # fmt: skip
    path.write_bytes(
        header(schema, {"edgehold_run": "r", "edgehold_round": "7"}) + schema.flatten(parts).astype("<f4").tobytes()
    )
    return path


def ran(*arguments: object, given: str = "") -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, objects on standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "edgehold.client", "detect", *map(str, arguments)], input=given, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(tmp_path / "model.safetensors")


def test_csv_and_json_lines_by_hand(model: Path) -> None:
    # Scores 1, 25 and 4: the last one is not above the threshold.
    wanted = [(1, 1.0, False), (2, 25.0, True), (3, 4.0, False)]
    text = "c,kind,b,a\n0,tcp,1,9\n4,udp,3,9\n0,tcp,2,9\n"
    lines = '{"a": 9, "b": 1, "c": 0, "kind": "tcp"}\n{"c": 4, "b": 3, "a": 9}\n\n{"c": 0.0, "b": 2e0, "a": 9}'
    for given, more in ((text, ()), (text.replace("\n", "\r\n"), ()), (lines, ()), (text, ("--alarms-only",))):
        code, found, said = ran(model, "--columns", NAMES, *more, given=given)
        assert code == 0, said
        rows = [(one["record"], one["score"], one["alarm"]) for one in found]
        assert rows == [one for one in wanted if one[2] or not more]
        assert all(one["threshold"] == 4 for one in found)
        assert said.splitlines()[-1] == "3 records; 1 alarms above 4; 0 bad rows skipped"
    # A header with the model's columns and no others needs no list.
    assert [one["score"] for one in ran(model, given=f"{NAMES}\n9,1,0\n")[1]] == [1]
    code, found, said = ran(model, "--threshold", 0.5, "--json", given=f"{NAMES}\n9,1,0\n")
    assert json.loads(said) | {"seconds": 0} == {"records": 1, "alarms": 1, "bad": 0, "seconds": 0, "threshold": 0.5}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("a,b,c\n1,2,3\n1,x,3\n", "column 'b', row 2 is 'x'; expected a finite number"),
        ("a,b,c\n1,2,3\n1,,3\n", "column 'b', row 2 is empty"),
        ("a,b,c\n1,2,nan\n", "column 'c', row 1 is 'nan'"),
        ("a,b,c\n1,2,1e999\n", "column 'c', row 1 is '1e999'"),
        ("a,b,c\n1,2,1_0\n", "column 'c', row 1 is '1_0'"),
        ("a,b,c\n1,2,3\n1,2\n", "row 2 has 2 fields; expected 3"),
        ("a,b,c\n1,2,3,4\n1,2\n", "row 1 has 4 fields; expected 3"),
        ("a,b\n1,2\n", "no column 'c'; it has a, b"),
        ("a,b,c,a\n1,2,3,4\n", "column 'a' occurs more than once"),
        ('{"a": 1, "b": 2, "c": 3}\n{"a": 1, "b": "x", "c": 3}\n', "row 2: column 'b': expected `float`, got `str`"),
        ('{"a": 1, "b": 2}\n', "row 1: Object missing required field `c`"),
        ('{"a": 1, "b": 2, "c": 3\n', "row 1: "),
        ('{"a": 1, "b": 2, "c": 1e999}\n', "row 1"),
    ],
)
def test_bad_input_is_named_by_row_and_column(model: Path, given: str, says: str) -> None:
    code, _, said = ran(model, "--columns", NAMES, given=given)
    assert code == 1
    assert says in said
    assert said.splitlines()[-1].endswith("[config]")


def test_bad_rows_can_be_skipped_and_are_counted(model: Path) -> None:
    given = "a,b,c\n1,2,3\n1,x,3\n1,2\n5,0,1\n"
    code, found, said = ran(model, "--columns", NAMES, "--skip-bad", given=given)
    assert (code, [one["record"] for one in found]) == (0, [1, 4])
    assert "2 records; 1 alarms above 4; 2 bad rows skipped" in said
    assert "first bad row: standard input: column 'b', row 2 is 'x'" in said


def test_wrong_models_and_columns_are_refused(tmp_path: Path, model: Path) -> None:
    crooked = saved(tmp_path / "crooked", subspace=np.zeros((3, 1)))
    short = tmp_path / "short"
    short.write_bytes(model.read_bytes()[:-4])
    other = tmp_path / "other"
    other.write_bytes(b"not a model")
    for path, more, says in (
        (saved(tmp_path / "new", threshold=NEVER), (), "(run r, round 7) has no threshold yet"),
        (crooked, (), "1 columns that span 0 dimensions"),
        (short, (), "bytes; its header describes"),
        (other, (), "not a safetensors file"),
        (tmp_path / "nowhere", (), "nowhere: cannot be read"),
        (model, ("--columns", "a,c,b"), "names and order differ"),
        (model, ("--columns", "a,b"), "2 columns; the model has 3"),
        (model, ("--threshold", "nan"), "expected a finite number"),
        (model, ("--task", "flows", "--columns", "a"), "exclude each other"),
        (model, ("--follow",), "--follow needs a file"),
    ):
        code, found, said = ran(path, *more, given="a,b,c\n1,2,3\n")
        assert (code, found) == (1, []), said
        assert says in said
    for given, says in (("a,b,d\n1,2,3\n", "are not those that the model"), ("a,b\n1,2\n", "2 columns; the model has 3")):
        assert says in ran(model, given=given)[2]
    assert "JSON lines have no order of columns" in ran(model, given='{"a": 1}\n')[2]


def test_columns_of_a_task(tmp_path: Path, model: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b,c\n" + "1,2,3\n" * 5)
    (tmp_path / "client.toml").write_text(
        '[tasks.flows]\ntask = "edgehold.client.data.anomaly:make_task"\n'
        f'options = {{ path = "{table}", components = 1, held_share = 0.2 }}\n'
        '[tasks.numbers]\ntask = "edgehold.client.data.synthetic:make_task"\n'
    )
    code, found, said = ran(model, "--task", "flows", "--home", tmp_path, given="c,b,a\n0,3,1\n")
    assert (code, found[0]["score"]) == (0, 9), said
    assert "has no [tasks.nothing]" in ran(model, "--task", "nothing", "--home", tmp_path)[2]
    assert "says no names of columns" in ran(model, "--task", "numbers", "--home", tmp_path)[2]


def test_a_slow_stream_is_answered_at_once_and_ends_on_ctrl_c(model: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "edgehold.client", "detect", str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("a,b,c\n")
    for number in (1, 2):
        child.stdin.write(f"1,{number},0\n")
        assert json.loads(child.stdout.readline())["record"] == number  # or this test never ends
    child.stdin.write("1,2")  # half a record
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=20)
    assert child.returncode == 0
    assert said == "2 records; 0 alarms above 4; 0 bad rows skipped\n"


def test_a_file_that_grows_and_turns_over(tmp_path: Path, model: Path) -> None:
    live, out = tmp_path / "live.csv", tmp_path / "out"
    live.write_text("a,b,c\n1,3,0\n")
    with out.open("w") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "edgehold.client", "detect", str(model), str(live), "--follow", "--skip-bad"], stdout=file,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        eventually(lambda: out.read_text().count("\n") == 1, 20.0, "the first record")
        with live.open("a") as grows:
            grows.write("1,4,")
            grows.flush()
            time.sleep(0.5)
            assert out.read_text().count("\n") == 1, "half a record is none"
            grows.write("0\n")
        eventually(lambda: out.read_text().count("\n") == 2, 20.0, "the second record")
        live.write_text("1,5,0\n")
        eventually(lambda: out.read_text().count("\n") == 3, 20.0, "the record after the log was turned over")
    finally:
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=20)
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()] == [9, 16, 25]
    assert (child.returncode, said) == (0, "3 records; 3 alarms above 4; 0 bad rows skipped\n")


def test_whoever_stops_reading_ends_it_quietly(tmp_path: Path, model: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,b,c\n" + "1,2,3\n" * 200_000)
    command = f'"{sys.executable}" -m edgehold.client detect {model} {table} | head -n 1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["record"] == 1
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr


def test_fast_and_slow_readers_agree() -> None:
    rng = np.random.default_rng(0)
    x = rng.lognormal(0, 4, (500, 4)).round(3)
    head = b"d,a,b,c\n"
    body = b"".join(",".join(repr(float(v)) for v in row).encode() + b"\n" for row in x)
    quoted = b"".join(b",".join(b'"%s"' % c for c in line.split(b",")) + b"\n" for line in body.splitlines())
    odd = b"".join(b",".join(b"+" + c for c in line.split(b",")) + b"\n" for line in body.splitlines())  # no JSON numbers
    for data in (body, quoted, odd):
        for columns, places in (((), [0, 1, 2, 3]), (("b", "d"), [2, 0]), (("a", "b", "c", "d"), [1, 2, 3, 0])):
            reader = CsvReader(columns, "test", Bad(False))
            whole = reader.read(head + data)
            more = reader.read(data)
            assert np.array_equal(whole.x, x[:, places])
            assert np.array_equal(more.x, x[:, places])
            assert list(whole.rows) + list(more.rows) == list(range(1, 1001))
    lines = b"".join(json.dumps(dict(zip("dabc", row.tolist(), strict=True))).encode() + b"\n" for row in x)
    found = JsonReader(("b", "d"), "test", Bad(False))
    assert np.array_equal(found.read(lines).x, x[:, [2, 0]])
    assert list(found.read(lines).rows) == list(range(501, 1001))
    mixed = Bad(True)
    assert list(JsonReader(("b",), "test", mixed).read(b'{"b": 1}\n{"b": null}\n[]\n{"b": 2}\n').rows) == [1, 4]
    assert mixed.count == 2


def test_the_file_of_a_model_comes_back(model: Path) -> None:
    schema, weights, about = model_file.read(model)
    assert about["edgehold_round"] == "7"
    found = Detector.of(schema, weights)
    assert (found.threshold, found.reading) == (4.0, Reading("none", 0, names_digest(COLUMNS)))
    with pytest.raises(ConfigError, match="cannot be read"):
        model_file.read(model.parent)


def test_two_hundred_thousand_records_a_second() -> None:
    """The pure scorer at 39 columns and 2 components, one core; here with a wide margin (millions on an idle core)."""
    rng = np.random.default_rng(0)
    d, k = 39, 2
    x = rng.lognormal(3, 3, (50_000, d))
    basis = np.linalg.qr(rng.standard_normal((d, k)))[0]
    model = Detector(np.full(d, 3, np.float32), np.full(d, 2, np.float32), basis, 1.0, Reading())
    model.scores(x[:5000])
    spent = []
    for _ in range(3):
        began = time.process_time()
        model.scores(x)
        spent.append(time.process_time() - began)
    assert len(x) / min(spent) > 200_000
