"""The frame of the benchmarks works: rows, JSON, tables, docs. Nothing here says how fast anything is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import frame, limit

from edgehold.core.errors import ConfigError

ROW = frame.Row("a round", 0.25, "s", target=0.3, limit=0.1, load=1.5, note="three rounds")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(frame.ROOT / "scripts" / "bench"), *arguments]
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(("value", "target", "holds"), [(1.0, 1.0, True), (1.1, 1.0, False), (9.0, None, True)])
def test_a_row_holds_up_to_its_target(value: float, target: float | None, holds: bool) -> None:
    row = frame.Row("x", value, "s", target)
    assert row.holds is holds
    assert row.as_dict()["holds"] is holds


def test_a_row_may_have_to_reach_its_target_instead() -> None:
    row = frame.Row("x", 12.0, "dB", 35.0, at_least=True)
    assert not row.holds
    assert frame.Row("x", 35.0, "dB", 35.0, at_least=True).holds
    assert frame.cells(frame.result([row], {}, "")["rows"][0])[2:4] == (">= 35 dB", "NO")


def test_a_result_carries_rows_machine_and_commit() -> None:
    found = frame.result([ROW], frame.machine(), frame.commit())
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"rows", "machine", "commit"}
    row = found["rows"][0]
    assert {key: row[key] for key in ("work", "value", "unit", "target", "holds")} == {
        "work": "a round", "value": 0.25, "unit": "s", "target": 0.3, "holds": True,
    }  # fmt: skip
    assert row["ratio"] == 2.5
    assert int(found["machine"]["cores"]) >= 1


def test_tables_show_every_cell() -> None:
    found = frame.result([ROW, frame.Row("b", 1234.5, "MiB")], {"cpu": "x"}, "abc")
    lines = frame.table(found["rows"]).splitlines()
    assert [len(lines), lines[0].split()[0]] == [3, "work"]
    assert frame.cells(found["rows"][0]) == ("a round", "0.25 s", "0.3 s", "yes", "0.1 s (x 2.5)", "1.5", "three rounds")
    assert frame.cells(found["rows"][1])[:4] == ("b", "1234 MiB", "", "")
    assert "| a round | 0.25 s | 0.3 s | yes |" in frame.markdown(found)
    missed = frame.result([frame.Row("c", 2.0, "s", 1.0)], {}, "")["rows"][0]
    assert frame.cells(missed)[3] == "NO"


def test_rows_beside_a_peer_have_columns_of_their_own() -> None:
    with_peer = frame.Row("a", 2.0, "s", limit=1.0, load=1.0, note="n", against="P", peer=5.0)
    without = frame.Row("b", 2.0, "s", note="P: not installable", against="P")
    rows = frame.result([with_peer, without, frame.Row("c", 3.0, "s")], {}, "")["rows"]
    assert rows[0]["times"] == 2.5
    assert "peer" not in rows[2]  # results without peers stay what they were
    assert frame.beside(rows[0]) == ("a", "2 s", "5 s (P)", "x 2.5", "1 s (x 2)", "1", "n")
    assert frame.beside(rows[1])[:4] == ("b", "2 s", "- (P)", "")
    assert frame.table(rows).splitlines()[0].split()[:3] == ["work", "ours", "peer"]
    assert frame.table(rows[2:]).splitlines()[0].split()[:3] == ["work", "value", "target"]


def test_promises_of_an_earlier_result_are_held_against_a_new_one() -> None:
    def result(**values: float) -> list[dict[str, object]]:
        rows = [frame.Row(work, value, "s", target=100.0) for work, value in values.items()]
        return frame.result([*rows, frame.Row("told", values["a"], "s")], {}, "")["rows"]  # type: ignore[no-any-return]

    old = [*result(a=1.0, b=1.0, gone=1.0), frame.Row("least", 10.0, "dB", 5.0, at_least=True).as_dict()]
    new = [*result(a=1.09, b=1.2), frame.Row("least", 8.0, "dB", 5.0, at_least=True).as_dict()]
    compared = {row["work"]: row for row in frame.against(old, new)}
    assert {work: row["holds"] for work, row in compared.items()} == {"a": True, "b": False, "gone": False, "least": False}
    assert compared["b"]["worse"] == pytest.approx(0.2)
    assert compared["least"]["worse"] == pytest.approx(0.2)
    assert compared["gone"]["worse"] is None
    assert frame.told(list(compared.values())).splitlines()[-1].startswith("3 of 4 promised numbers")


def test_against_an_earlier_result_on_the_command_line(tmp_path: Path) -> None:
    kept = frame.RESULTS / "votes.json"
    slower = json.loads(kept.read_text(encoding="utf-8"))
    promised = next(row for row in slower["rows"] if row["target"] is not None and not row.get("at_least"))
    promised["value"] /= 2  # what it once was
    (tmp_path / "once.json").write_text(json.dumps(slower), encoding="utf-8")
    same = bench("votes", "--from", str(kept), "--against", str(kept))
    assert "\n0 of " in same.stdout, same.stderr
    worse = bench("votes", "--from", str(kept), "--against", str(tmp_path / "once.json"))
    assert worse.returncode == 1
    assert "+100.0 %" in worse.stdout


def test_the_docs_keep_all_but_the_table() -> None:
    text = "before\n<!-- bench rounds -->\nold\nolder\n<!-- /bench rounds -->\nafter\n"
    new = frame.replaced(text, "rounds", "new")
    assert new == "before\n<!-- bench rounds -->\nnew\n<!-- /bench rounds -->\nafter\n"
    assert frame.replaced(new, "rounds", "old\nolder") == text
    assert frame.replaced("<!-- bench a -->\n<!-- /bench a -->", "a", "new") == "<!-- bench a -->\nnew\n<!-- /bench a -->"
    with pytest.raises(ConfigError, match="no place for 'other'"):
        frame.replaced(text, "other", "new")


@pytest.mark.parametrize("name", frame.BENCHMARKS)
def test_the_docs_show_the_results_that_are_kept(name: str) -> None:
    page = getattr(frame.find(name), "DOCS", frame.DOCS)
    text = page.read_text(encoding="utf-8")
    file = frame.RESULTS / f"{name}.json"
    if not file.exists():
        _, place, rest = text.partition(f"<!-- bench {name} -->")
        assert place
        assert not rest.partition(f"<!-- /bench {name} -->")[0].strip(), "a table without the result it was made from"
        return
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert frame.replaced(text, name, frame.markdown(kept)) == text, f"./scripts/bench {name} --from RESULT --write-docs"


@pytest.mark.parametrize("name", frame.BENCHMARKS)
def test_every_benchmark_has_a_name_and_a_summary(name: str) -> None:
    found = frame.find(name)
    assert name == found.NAME
    assert 10 < len(found.SUMMARY) < 100


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="rounds"):
        frame.find("round")


def test_the_limit_moves_every_byte() -> None:
    assert limit.seconds(2, 3_000_001, 2) > 0.0


def test_list_and_unknown_names_on_the_command_line() -> None:
    listed = bench("--list")
    assert (listed.returncode, listed.stdout.split()[0]) == (0, "rounds")
    wrong = bench("round")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "rounds" in wrong.stderr


@pytest.mark.parametrize(("only", "work", "wanted", "some"), [
    ("", "cosine", True, True), ("cos", "cosine", True, True), ("Cosine, sigmoid LeNet", "cosine", False, True),
    ("cosine", "labels", False, False), ("labels, cosine", "cosine", False, False),
])  # fmt: skip
def test_rows_are_picked_by_a_part_of_their_name_and_groups_by_how_it_begins(
    only: str, work: str, wanted: bool, some: bool
) -> None:
    options = frame.Options(only=only)
    assert (options.wants(work), options.wants_any(work)) == (wanted, some)


def test_a_text_that_picks_nothing_is_answered_with_what_there_is() -> None:
    done = bench("private", "--only", "no such row")
    assert done.returncode == 2
    assert "private step" in done.stderr
    assert "no such row" in done.stderr


@pytest.mark.slow
def test_tiny_rounds_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "rounds.json"
    done = bench("rounds", "--quick", "--only", "2 clients", "--json", str(file), "--folder", str(tmp_path))
    assert "round, 2 clients x 4 KB" in done.stdout, done.stderr
    assert "..." in done.stderr  # progress while it works
    found = json.loads(file.read_text(encoding="utf-8"))
    assert set(found) == {"rows", "machine", "commit"}
    for row in found["rows"]:
        assert {"work", "value", "unit", "target", "holds"} <= set(row)
        assert row["value"] > 0
    again = bench("rounds", "--from", str(file))
    assert again.stdout == done.stdout
