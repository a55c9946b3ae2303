"""The commands: what is kept, what is played again, what the page holds."""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.small_matrix import SMALL, Interrupt, made_up

from edgehold.attacks.eval.app import main
from edgehold.attacks.eval.cells import Cell
from edgehold.attacks.matrix import play, run
from edgehold.attacks.matrix.grid import Grid
from edgehold.attacks.matrix.judge import judge
from edgehold.attacks.matrix.page import facts_of
from edgehold.attacks.matrix.plan import parse
from edgehold.attacks.matrix.store import Store

CELLS = 18


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_one_command_from_file_to_page_and_nothing_is_played_twice(small: Path, fake: list[Cell], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call("matrix", small, "--out", out, "--workers", "1")
    assert done.exit_code == 0, done.output
    assert len(fake) == CELLS
    names = ("report.html", "report.json", "cells.csv", "verdicts.csv", "worst.png", "heat.png")
    assert all((out / name).stat().st_size for name in names)
    again = call("matrix", small, "--out", out, "--workers", "1")
    assert again.exit_code == 0
    assert len(fake) == CELLS
    small.write_text(SMALL.replace("seeds = 2", "seeds = 3"))
    assert call("matrix", small, "--out", out, "--workers", "1").exit_code == 0
    assert len(fake) == CELLS + 9  # one seed more: only its cells


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    small: Path, interrupt: Interrupt, tmp_path: Path, request: pytest.FixtureRequest
) -> None:  # fmt: skip
    out = tmp_path / "out"
    interrupt(5)
    stopped = call("matrix", small, "--out", out, "--workers", "1")
    assert stopped.exit_code == 130
    assert f"5 of {CELLS} cells" in stopped.stderr
    assert f"fl-eval matrix {small} --out {out}" in stopped.stderr
    assert "13 cells are not played yet" in (out / "report.html").read_text()
    played = request.getfixturevalue("fake")
    assert call("matrix", small, "--out", out, "--workers", "1").exit_code == 0
    assert len(played) == CELLS - 5


@pytest.mark.parametrize("cells", [1, 3])
def test_a_report_on_very_little_is_written_all_the_same(
    cells: int, small: Path, interrupt: Interrupt, tmp_path: Path
) -> None:  # fmt: skip
    interrupt(cells)
    assert call("matrix", small, "--out", tmp_path / "out", "--workers", "1").exit_code == 130
    assert f"{CELLS - cells} cells are not played yet" in (tmp_path / "out" / "report.html").read_text()


def test_a_cell_that_crashes_is_told_and_the_rest_goes_on(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, broken = tmp_path / "out", [True]

    def played(cell: Cell, data: Any) -> dict[str, float]:
        if broken[0] and (cell["defence"], cell["attack"], cell["seed"]) == ("krum", "alie", 1):
            raise ZeroDivisionError("a planted crash")
        return made_up(cell)

    monkeypatch.setattr(play, "play", played)
    done = call("matrix", small, "--out", out, "--workers", "1", "--json")
    assert done.exit_code == 3
    told = json.loads(done.stdout)
    assert (told["failed"], told["cells"], told["waiting"]) == (1, CELLS, 0)
    page = (out / "report.html").read_text()
    assert "planted crash" in page
    assert str(Path(play.__file__).parent) not in page  # no folders of this machine
    broken[0] = False
    assert call("matrix", small, "--out", out, "--workers", "1").exit_code == 0
    assert "planted crash" not in (out / "report.html").read_text()


def test_refused_knowledge_plays_nothing(small: Path, fake: list[Cell], tmp_path: Path) -> None:
    small.write_text(SMALL.replace("K2+A", "K0"))
    refused = call("matrix", small, "--out", tmp_path / "out")
    assert refused.exit_code == 1
    assert "attack alie needs K1" in refused.stderr
    assert "[not_granted]" in refused.stderr
    assert not fake
    assert not (tmp_path / "out").exists()


def test_without_ray_the_command_says_what_to_install(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    refused = call("matrix", small, "--out", tmp_path / "out", "--ray", "10.0.0.7:6379")
    assert refused.exit_code == 1
    assert "edgehold[ray]" in refused.stderr


def test_the_page_holds_every_figure_and_asks_nobody(small: Path, fake: list[Cell], tmp_path: Path) -> None:
    small.write_text(SMALL + "[sweep]\nshares = [0.3]\n")
    out = tmp_path / "out"
    call("matrix", small, "--out", out, "--workers", "1")
    page = (out / "report.html").read_text()
    for cell in fake:
        assert f"{made_up(cell)['accuracy']:.4f}" in page
    facts = json.loads((out / "report.json").read_text())
    for one in facts["verdicts"]:
        if one["share"] == 0.2:
            assert f"{one['value']['mean']:.3f}" in page
    for one in facts["worst"]:
        assert f"{one['value']['mean']:.3f} [{one['value']['low']:.3f}, {one['value']['high']:.3f}]" in page
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"data:image/png;base64,[\w+/=]+", "", page))
    links = re.findall(r'(?:href|src|srcset)="([^"]*)"', page)
    assert links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert all(re.search(r'alt="[^"]{20,}"', tag) for tag in re.findall(r"<img [^>]*>", page))
    assert page.count("<img ") == 6  # worst case, heat map, curves, each in light and dark
    anchors = {link for link in links if link.startswith("#")}
    assert all(f'id="{link[1:]}"' in page for link in anchors)
    with (out / "cells.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(fake) == facts["cells"]


def test_several_shares_are_drawn_without_a_table_for_curves(small: Path, fake: list[Cell], tmp_path: Path) -> None:
    small.write_text(SMALL.replace('data = ["digits"]', 'data = ["digits"]\nshares = [0.2, 0.3]', 1))
    done = call("matrix", small, "--out", tmp_path / "out", "--workers", "1")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "share.png").stat().st_size
    assert "met at every share: sign_flip, alie." in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_defence_is_not_credited_with_an_attack_that_does_not_work(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    def idle(cell: Cell, data: Any) -> play.Outcome:
        # It spares the average and hurts everybody else: still nobody is judged by it.
        alie = {"accuracy": 0.93 if cell["defence"] == "average" else 0.1} if cell["attack"] == "alie" else {}
        return play.Outcome(made_up(cell) | alie, 0.1, "abc1234")

    monkeypatch.setattr(run, "attempt", idle)
    out = tmp_path / "out"
    call("matrix", small, "--out", out, "--workers", "1")
    facts = json.loads((out / "report.json").read_text())
    words = {(one["defence"], one["attack"]): one["word"] for one in facts["verdicts"]}
    assert words["krum", "alie"] == words["median", "alie"] == words["average", "alie"] == "no effect"
    assert words["krum", "sign_flip"] != "no effect"
    assert {one["attack"] for one in facts["worst"]} == {"sign_flip"}
    assert [one["hurt"] for one in facts["worst"]] == [[], ["alie"], ["alie"]]
    assert "hurts it" in (out / "report.html").read_text()


def test_what_was_read_back_from_updates_is_shown(small: Path, fake: list[Cell], tmp_path: Path) -> None:
    out, images = tmp_path / "out", tmp_path / "images"
    images.mkdir()
    (images / "one.png").write_bytes(b"\x89PNG not really")
    result = {"run": "r", "method": "fedavg", "attack": "sparse",
              "results": [{"client": "c0000", "round": 1, "median_psnr": 151.2, "note": "", "picture": "one.png"}]}  # fmt: skip
    (images / "result.json").write_text(json.dumps(result))
    call("matrix", small, "--out", out, "--workers", "1")
    assert call("report", out, "--inversion", images / "result.json").exit_code == 0
    assert "median 151.2 dB" in (out / "report.html").read_text()
    (images / "one.png").unlink()
    refused = call("report", out, "--inversion", images / "result.json")
    assert refused.exit_code == 1
    assert "fl-eval invert" in refused.stderr


def test_a_report_on_nothing_is_refused(tmp_path: Path) -> None:
    refused = call("report", tmp_path)
    assert refused.exit_code == 1
    assert "no matrix was played here" in refused.stderr


def test_checking_plays_nothing(small: Path, fake: list[Cell], tmp_path: Path) -> None:
    found = call("matrix", small, "--out", tmp_path / "out", "--check", "--json")
    assert json.loads(found.stdout)["cells"] == CELLS
    assert not fake
    assert not (tmp_path / "out").exists()
    shown = call("matrix", "quick", "--show")
    assert parse(shown.stdout).matrix.name == "quick"
    assert call("matrix", "--list").stdout.startswith("full ")


VOTES = """
[matrix]
name = "votes"
seeds = 1
knowledge = "K2+A"
data = ["digits"]
defences = ["median", "frl", "hidenseek"]
attacks = ["alie_optimised", "label_flip_pair", "backdoor_bars", "ranks_reverse", "signs_invert"]
[data.digits]
dataset = "digits"
honest = 6
rounds = 3
limit = 60
partition = "iid"
net = { hidden = [16] }
training = { learning_rate = 0.5 }
[defence.frl]
method = "frl"
net = { hidden = [16], bias = false }
[defence.hidenseek]
method = "hidenseek"
net = { hidden = [32], bias = false }
"""


def test_the_same_matrix_gives_the_same_facts(tmp_path: Path) -> None:
    """Really played: lies on changes, records, rankings and bits."""
    made = Grid(parse(VOTES))
    found = []
    for name in ("one", "two"):
        store = Store(tmp_path / name)
        done = run.play_all(made, VOTES, store, None, 1)
        assert (done.failed, done.stopped) == (0, False), [one.error for one in store.outcomes().values()]
        facts = facts_of(made, judge(made, store.outcomes()))
        store.close()
        for one in facts["runs"] + facts["prices"]:
            one.pop("seconds")
        found.append(facts)
    assert found[0] == found[1]
    by_place = {(one["defence"], one["attack"]): one["facts"] for one in found[0]["runs"]}
    assert len(by_place) == found[0]["cells"] == 17
    lied = [(defence, attack) for defence, attack in by_place if attack != "none"]
    assert all(by_place[place] != by_place[place[0], "none"] for place in lied)  # every lie changed something


class Cluster:
    """Stands for Ray where it is not installed: the calls that are made, and one cell whose process is lost."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.up = False

    def init(self, address: str | None, **how: Any) -> None:
        if address == "nobody:1":
            raise ConnectionError("refused")
        self.up, self.address = True, address

    def remote(self, **how: Any) -> Any:
        assert how["num_cpus"] == 1
        assert how["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"
        cluster = self

        def wrap(work: Any) -> Any:
            class Handle:
                @staticmethod
                def remote(cell: Cell, data: Any) -> int:
                    cluster.asked.append((work, cell, data))
                    return len(cluster.asked) - 1

            return Handle

        return wrap

    def wait(self, waiting: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        return waiting[-1:], waiting[:-1]

    def get(self, one: int) -> play.Outcome:
        work, cell, data = self.asked[one]
        if one == 3:
            raise self.exceptions.RayError("node died")
        done: play.Outcome = work(cell, data)
        return done

    def shutdown(self) -> None:
        self.up = False


def test_cells_go_to_a_cluster_and_a_lost_one_is_told(
    small: Path, fake: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    cluster = Cluster()
    monkeypatch.setitem(sys.modules, "ray", cluster)
    done = call("matrix", small, "--out", tmp_path / "out", "--ray", "10.0.0.7:6379")
    assert done.exit_code == 3, done.output
    assert (cluster.address, cluster.up, len(cluster.asked)) == ("10.0.0.7:6379", False, CELLS)
    assert "node died" in (tmp_path / "out" / "report.html").read_text()
    assert call("matrix", small, "--out", tmp_path / "out", "--workers", "1").exit_code == 0
    refused = call("matrix", small, "--out", tmp_path / "other", "--ray", "nobody:1")
    assert refused.exit_code == 1
    assert "no cluster answers there" in refused.stderr
