"""Audits in a matrix: which cells there are, what is said of them, where the data are missing."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support.small_matrix import SMALL, made_up

from edgehold.attacks.eval.app import main
from edgehold.attacks.eval.cells import Cell, key
from edgehold.attacks.matrix import play, run
from edgehold.attacks.matrix.audited import audited
from edgehold.attacks.matrix.grid import Grid, named
from edgehold.attacks.matrix.plan import READY, parse
from edgehold.attacks.matrix.play import Outcome
from edgehold.core.errors import ConfigError

AUDITS = """
[audits]
dataset = "digits"
pool = 40
devices = 2
rounds = 1
net = { hidden = [8] }
test_limit = 50
shadows = 4
seeds = 2
epsilons = [1.0, 8.0]
one_run = [2.0]
canaries = 200
[audits.subject.open]
[audits.subject.noisy]
method = "dp_sgd"
epsilon = 4.0
settings = { rate = 0.2, steps = 2 }
"""
TEXT = SMALL + AUDITS
WANTED = {("membership", "open"): 2, ("membership", "noisy"): 2, ("curve", "noisy"): 4, ("one_run", "dp_sgd"): 2}


def facts_of(cell: Cell) -> dict[str, float]:
    """Made up, told apart by seed: AUC 0.7 and 0.8; 30 % and 50 % of members found at 0.1 % false alarms by all but `loss`."""
    if "audit" not in cell:
        return made_up(cell)
    seed = cell["seed"]
    if cell["audit"] == "one_run":
        return {"claimed": 2.0, "ceiling": 5.0, "epsilon_lower": 0.5 + 2 * seed, "correct": 90.0, "guesses": 100.0}
    found = {"accuracy": 0.6 + 0.1 * seed, "accuracy_members": 0.9}
    if cell["audit"] == "curve":
        return found | {"epsilon": cell["epsilon"] - 0.01 * seed}
    for name in ("loss", "offline", "online", "ranked"):
        found |= {f"{name}_auc": 0.7 + 0.1 * seed, f"stranger_{name}_auc": 0.5}
        if name != "loss":
            rate = 0.3 + 0.2 * seed
            found |= {f"{name}_tpr_0.001": rate, f"{name}_tpr_0.001_low": rate - 0.02, f"{name}_tpr_0.001_high": rate + 0.03}
    found |= {"roc_0.001": 0.3, "roc_0.1": 0.6}
    return found | ({"epsilon": 4.0} if cell["subject"] == "noisy" else {})


def test_cells_of_audits_and_what_replays_them() -> None:
    grid = Grid(parse(TEXT))
    cells = grid.audits()
    count = {(kind, subject): 0 for kind, subject in WANTED}
    for cell in cells:
        count[cell["audit"], cell["subject"]] += 1
    assert count == WANTED
    assert [cell["audit"] for cell in cells] == sorted(
        (cell["audit"] for cell in cells), key=["membership", "curve", "one_run"].index
    )
    digests = {key(cell) for cell in cells}
    assert len(digests) == len(cells)
    assert named(cells[-1]) == "audit one-run dp_sgd epsilon 2 seed 1"
    more = {key(cell) for cell in Grid(parse(TEXT.replace("seeds = 2\nepsilons", "seeds = 3\nepsilons"))).audits()}
    assert digests < more, "another seed changes no cell that is there"
    other = Grid(parse(TEXT.replace("[audits.subject.noisy]", "[audits.subject.more]\n[audits.subject.noisy]"))).audits()
    assert digests < {key(cell) for cell in other}, "nor does another subject"
    deeper = {key(cell) for cell in Grid(parse(TEXT.replace("shadows = 4", "shadows = 6"))).audits()}
    assert len(digests & deeper) == 6, "shadow models are nothing to curves and one-run audits"
    assert not Grid(parse(SMALL)).audits()


def test_rows_by_hand() -> None:
    grid = Grid(parse(TEXT))
    outcomes = {key(cell): Outcome(facts_of(cell), 0.1, "abc") for cell in grid.audits()}
    found = audited(grid.matrix.audits, outcomes)
    assert [(one.subject, one.attack) for one in found.membership][:2] == [("open", "loss"), ("open", "offline")]
    loss, offline = found.membership[:2]
    assert loss.auc.mean == pytest.approx(0.75)
    assert loss.at_tenth is None
    assert loss.epsilon is None
    assert offline.at_tenth is not None
    assert (offline.at_tenth.mean, offline.at_tenth.low, offline.at_tenth.high) == pytest.approx((0.4, 0.28, 0.53))
    assert offline.at_one is None
    assert {one.epsilon for one in found.membership if one.subject == "noisy"} == {4.0}
    (bound,) = found.bounds
    assert (bound.lower.mean, bound.largest, bound.above, bound.runs) == (1.5, 2.5, 1, 2)
    assert [(one.method, one.epsilon) for one in found.points] == [("dp_sgd", 1.0), ("dp_sgd", 8.0)]
    assert found.points[0].accuracy.mean == pytest.approx(0.65)
    assert not audited(grid.matrix.audits, {})
    assert not audited(None, outcomes)


def test_the_page_has_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Cell] = []

    def attempt(cell: Cell, data: Path | None) -> Outcome:
        played.append(cell)
        return Outcome(facts_of(cell), 0.1, "abc1234")

    monkeypatch.setattr(run, "attempt", attempt)
    path, out = tmp_path / "small.toml", tmp_path / "out"
    path.write_text(TEXT)
    done = CliRunner().invoke(main, ["matrix", str(path), "--out", str(out), "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert sum("audit" in cell for cell in played) == sum(WANTED.values())
    page, facts = (out / "report.html").read_text(), json.loads((out / "report.json").read_text())
    assert facts["cells"] == len(played)
    assert len(facts["audits"]) == sum(WANTED.values())
    for told in ("0.750 [0.700, 0.800]", "40.00 [28.00, 53.00]", "not enough non-members", "1 of 2", "LiRA online", "2.500"):
        assert told in page, told
    assert 'id="audits"' in page
    assert (out / "curve.png").stat().st_size
    assert (out / "roc.png").stat().st_size


def test_cells_are_really_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each kind through the engine; one that crashes is told as one."""
    by_kind = {cell["audit"]: cell for cell in Grid(parse(TEXT)).audits() if cell["subject"] != "open"}
    for kind, names in (
        ("membership", {"accuracy", "epsilon", "online_auc", "stranger_loss_auc"}), ("curve", {"accuracy", "epsilon"}),
        ("one_run", {"claimed", "epsilon_lower", "ceiling"}),
    ):  # fmt: skip
        outcome = play.attempt(by_kind[kind], None)
        assert not outcome.error, outcome.error
        assert names <= set(outcome.facts)
    assert not any("tpr" in name for name in play.attempt(by_kind["membership"], None).facts), "20 non-members carry no rate"
    assert play.attempt(by_kind["curve"], None).facts["epsilon"] == pytest.approx(8.0, rel=1e-3)
    crashed = play.attempt(by_kind["curve"] | {"study": {}}, None)
    assert crashed.error
    assert not crashed.facts


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("canaries = 200", "canaries = 20"), "at least 100"),
        (("[audits.subject.open]", "membership = ['opem']\n[audits.subject.open]"), "did you mean"),
        (("epsilon = 4.0\n", ""), "there is none"),
        (("shadows = 4", "shadows = 5"), "both are even"),
        (('dataset = "digits"\npool', 'dataset = "fashion-mnist"\npool'), "optional = true"),
    ],
)
def test_what_cannot_be_audited_is_refused(changed: tuple[str, str], says: str) -> None:
    assert changed[0] in TEXT
    with pytest.raises(ConfigError, match=says):
        Grid(parse(TEXT.replace(*changed)))


def test_without_its_data_the_rest_is_played() -> None:
    grid = Grid(parse(TEXT.replace('dataset = "digits"\npool', 'optional = true\ndataset = "fashion-mnist"\npool')))
    assert {cell["audit"] for cell in grid.audits()} == {"one_run"}
    assert grid.missing == ("of the audits",)


@pytest.mark.parametrize("name", ["quick", "full"])
def test_ready_matrices_have_audits(name: str) -> None:
    audits = parse(READY.text_of(name)).audits
    assert audits is not None
    audits.must_be_sound()
    assert audits.private
    assert set(audits.attacked) > set(audits.private.values()), "a subject without noise stands beside those with"
