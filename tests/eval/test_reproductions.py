"""Reproductions: the quick ones hold here and now, and a defence that is none does not pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgehold.attacks.eval.cells import Played, play_all
from edgehold.attacks.eval.reproductions import (
    Options,
    fedavg,
    fedpca,
    find,
    floral,
    frl,
    hyperfl,
    masked_votes,
    noise_robust_admm,
    noise_robust_admm_tables,
    robust_rules,
)
from edgehold.core.errors import ConfigError


@pytest.mark.slow
def test_fedavg_on_even_data_is_within_a_point_of_central_training() -> None:
    options = Options(3, quick=True)
    report = fedavg.judge(options, play_all("fedavg", fedavg.cells(options), None, None, 1))
    assert report.holds, report.text()


@pytest.mark.slow
def test_the_average_falls_and_mixing_holds_on_digits() -> None:
    options = Options(1, quick=True)
    played = play_all("robust_rules", robust_rules.cells(options), None, None, 1)
    report = robust_rules.judge(options, played)
    assert report.holds, report.text()
    # Were the defence as open as the average, the same bars would not hold.
    open_ = [_swap(one, played) for one in played]
    assert not robust_rules.judge(options, open_).holds
    # And were the attacks harmless, neither: nothing would have been withstood.
    calm = [Played(one.cell, played[0].value, 0.0, "") for one in played]
    assert [bar.holds for bar in robust_rules.judge(options, calm).bars] == [True] * 4 + [False]
    assert "proves nothing" in robust_rules.judge(options, calm).notes[0]


@pytest.mark.slow
def test_votes_hold_on_digits_where_the_average_falls() -> None:
    options = Options(3, quick=True)
    played = play_all("frl", frl.cells(options), None, None, 1)
    report = frl.judge(options, played)
    assert report.holds, report.text()
    # Had the votes fallen like the average, the bar would not hold.
    fallen = next(p.value for p in played if p.cell["attack"] == frl.BOOST)
    swapped = [Played(p.cell, {**p.value, **fallen}, 0.0, "") if p.cell["attack"] == "reverse" else p for p in played]
    assert [bar.holds for bar in frl.judge(options, swapped).bars] == [True, True, False, True, True]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_votes_under_masks_hold_below_the_bound_and_fall_where_one_liar_decides() -> None:
    options = Options(1, quick=True)
    played = play_all("masked_votes", masked_votes.cells(options), None, None, 1)
    report = masked_votes.judge(options, played)
    assert report.holds, report.text()

    def bars(change: Callable[[Played], dict[str, float]]) -> list[bool]:
        return [bar.holds for bar in masked_votes.judge(options, [replace(p, value=change(p)) for p in played]).bars]

    # Had the sums given another model, had the lie done nothing, or the median not helped, a bar would not hold.
    assert bars(lambda p: {"differs": 1.0} if "differs" in p.value else p.value)[0] is False
    high = next(p.value for p in played if p.cell["lie"] == "none")
    low = next(p.value for p in played if p.cell["groups"] == "one" and p.cell["lie"] == "swing")
    assert bars(lambda p: high if p.cell["groups"] == "one" and "accuracy" in p.value else p.value)[1::2] == [False] * 2
    assert bars(lambda p: low if p.cell["groups"] == "six" and p.cell["lie"] == "swing" else p.value)[2::2] == [False] * 2


@pytest.mark.slow
def test_generated_models_hold_on_digits_and_updates_give_records_away() -> None:
    options = Options(2, quick=True)
    played = play_all("hyperfl", hyperfl.cells(options), None, None, 1)
    report = hyperfl.judge(options, played)
    assert report.holds, report.text()

    def bars(change: Callable[[Played], dict[str, float]]) -> list[bool]:
        return [bar.holds for bar in hyperfl.judge(options, [replace(p, value=change(p)) for p in played]).bars]

    # Were HyperFL as FedAvg is, or had the reader read nothing, or everything in spite of the noise, the bars would not hold.
    fallen = min(p.value["accuracy"] for p in played if p.cell["method"] == "fedavg")
    assert bars(lambda p: {**p.value, "accuracy": fallen} if p.cell["method"] == "hyperfl" else p.value)[:3] == [False] * 3
    assert bars(lambda p: {**p.value, "largest": 1.0} if "largest" in p.value else p.value)[3:] == [False, True]
    assert bars(lambda p: {**p.value, "smallest_share": 0.0} if "largest" in p.value else p.value)[3:] == [True, False]


def test_clients_of_hyperfl_have_three_classes_and_nobodys_records() -> None:
    from edgehold.attacks.eval.reproductions.hyperfl_fleet import fleet_of, held, own

    fleet, seen = fleet_of(1), set[bytes]()
    assert held(3) == [9, 0, 1]
    for index, name in enumerate(fleet):
        task = own(fleet, name)
        assert task.samples == 40
        assert task.train_data is not None
        assert task.test_data is not None
        inputs, targets = (np.asarray(part) for part in task.train_data)
        assert set(targets.tolist()) == set(np.asarray(task.test_data[1]).tolist()) == set(held(index))
        rows = {row.tobytes() for row in inputs}
        assert not rows & seen
        assert not rows & {row.tobytes() for row in np.asarray(task.test_data[0])}
        seen |= rows


def _fedpca(ratio: dict[str, float], auc: float = 0.9) -> list[Played]:
    """Outcomes of every way on one set, as far as the bars look at them."""
    names = ("angle", "false_positive_rate", "precision", "recall", "f1", "accuracy", "all_alarm_f1")
    found = []
    for seed in range(4):
        rest = dict.fromkeys(names, 0.3) | {"auc": auc}
        for way in ("fedpg", "fedpg, 30 %", "fedpg_paper"):
            cell = {"dataset": "nsl-kdd", "way": way, "seed": seed}
            found.append(Played(cell, {**rest, "ratio": ratio[way]}, 0.0, ""))
        controls = {f"{way}: {name}": value for way in fedpca.CONTROLS for name, value in {**rest, "auc": 0.9}.items()}
        controls |= {f"{way}: ratio": ratio.get(way, 1.3) for way in fedpca.CONTROLS}
        found.append(Played({"dataset": "nsl-kdd", "way": "controls", "seed": seed}, controls, 0.0, ""))
    return found


def test_subspaces_are_judged_by_loss_and_can_fail(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs nsl-kdd or unsw-nb15"):
        fedpca.cells(Options(1))
    (tmp_path / "nsl-kdd").mkdir()
    cells = fedpca.cells(Options(2, data=tmp_path))
    assert len(cells) == 2 * 2 * (len(fedpca.RUNS) + 1)  # sets, seeds, ways
    assert str(tmp_path) not in str(cells)
    sound = {"fedpg": 1.0, "fedpg, 30 %": 1.001, "fedpg_paper": 1.01, "no dual": 1.09, "central": 1.0}

    def bars(auc: float = 0.9, **changed: float) -> list[bool]:
        return [bar.holds for bar in fedpca.judge(Options(4), _fedpca(sound | changed, auc)).bars]

    assert bars() == [True] * 7
    assert bars(**{"fedpg": 1.0002}) == [False, *[True] * 6]
    assert bars(**{"fedpg, 30 %": 1.003}) == [True, True, False, *[True] * 4]
    assert bars(**{"fedpg_paper": 1.2}) == [*[True] * 4, False, True, True]
    assert bars(**{"no dual": 1.04}) == [*[True] * 5, False, True]
    assert bars(auc=0.89) == [*[True] * 6, False]


@pytest.mark.slow
def test_subspaces_hold_on_network_traffic(flows: Path) -> None:
    options = Options(2, quick=True, data=flows)
    report = fedpca.judge(options, play_all("fedpca", fedpca.cells(options), flows, None, 1))
    assert report.holds, report.text()
    rows = {row[0] for row in report.tables[0].rows}
    assert {"random subspace", "alarm at every record", "central", "no dual"} <= rows


@pytest.mark.slow
def test_the_game_is_told_beside_its_control_and_every_bar_can_fail() -> None:
    """One seed. The third bar, on the largest dual weights, is missed on the card and asserted nowhere."""
    options = Options(1, quick=True)
    played = play_all("floral", floral.cells(options), None, None, 1)
    report = floral.judge(options, played)
    holds = [bar.holds for bar in report.bars]
    assert [*holds[:2], *holds[3:]] == [True] * 6, report.text()
    assert all("control, k 0" in table.heads for table in report.tables[:2])

    def bars(change: Callable[[Played], dict[str, float]]) -> list[bool]:
        return [bar.holds for bar in floral.judge(options, [replace(p, value=change(p)) for p in played]).bars]

    def game(p: Played) -> bool:
        return bool(p.cell.get("flips"))

    # Were the game as bad as guessing, no gain would hold; were it as good as anything can be, all would.
    assert bars(lambda p: {**p.value, "accuracy": 0.5} if game(p) else p.value)[:5] == [False] * 5
    assert bars(lambda p: {**p.value, "accuracy": 1.0} if game(p) else p.value)[:5] == [True] * 5
    assert bars(lambda p: {**p.value, "rms": 0.1})[5:] == [False, True]
    assert bars(lambda p: {**p.value, "bytes_up": 2069.0})[5:] == [True, False]


def test_all_tables_of_the_game_have_cells_that_determine_their_runs() -> None:
    cells = floral.cells(Options(2))
    keys = [tuple(sorted(cell.items(), key=str)) for cell in cells]
    assert len(set(keys)) == len(keys)
    assert {cell.get("task") for cell in cells} == {None, "3 vs 8", "odd/even", "moon"}
    every = [cell for cell in cells if cell["part"] == "fleet" and cell["seed"] == 1]
    assert len(every) == len(floral.FLEETS) * (len(floral.HEADS) + len(floral.COUPLED) + len(floral.MEDIAN))
    # Wherever a game is played, the same one is played without an attacker.
    for cell in cells:
        if cell.get("flips") and not cell.get("released"):
            assert {**cell, "flips": 0.0} in cells


def _swap(one: Played, played: list[Played]) -> Played:
    """A defended cell with the undefended outcome."""
    if one.cell["rule"] == "average":
        return one
    twin = {**one.cell, "rule": "average", "withstand": 0}
    return Played(one.cell, next(p.value for p in played if p.cell == twin), 0.0, "")


@pytest.mark.slow
def test_a_cell_on_fashion_mnist(real: Path) -> None:
    options = Options(1, data=real)
    cell = {**robust_rules.cells(options)[0], "rounds": 3}
    assert (cell["dataset"], cell["rule"], cell["attack"]) == ("fashion-mnist", "average", "none")
    assert robust_rules.play(cell, real)["accuracy"] > 0.4  # chance is 0.1


def test_the_full_table_is_full_and_every_cell_determines_its_run() -> None:
    options = Options(5, data=Path("/nowhere"))
    cells = robust_rules.cells(options)
    keys = [tuple(sorted(cell.items())) for cell in cells]
    assert len(set(keys)) == len(keys)
    seen = {(c["rule"], c["attack"], c["liars"], c["partition"]) for c in cells}
    for rule in robust_rules.RULES:
        for attack in robust_rules.ATTACKS:
            for liars in (1, 2, 3, 4):
                for partition in ("iid", "dirichlet 0.1", "one class"):
                    assert (rule, attack, liars, partition) in seen
    judged = [c for c in cells if (c["rule"], c["liars"], c["partition"]) == (robust_rules.DEFENCE, 2, "iid")]
    assert sorted({c["seed"] for c in judged}) == [0, 1, 2, 3, 4]
    assert "/nowhere" not in str(cells)


@pytest.mark.parametrize(("name", "dataset", "rows"), [("frl_fashion", "fashion-mnist", 10), ("frl_cifar10", "cifar10", 4)])
def test_long_studies_have_their_cells_and_can_fail(tmp_path: Path, name: str, dataset: str, rows: int) -> None:
    study = find(name)
    with pytest.raises(ConfigError, match=f"needs {dataset}"):
        study.cells(Options(1))
    (tmp_path / dataset).mkdir()
    cells = study.cells(Options(2, data=tmp_path))
    assert len(cells) == 2 * rows  # two seeds
    assert str(tmp_path) not in str(cells)

    def outcome(frl: float) -> list[Played]:
        fallen = [c["attack"] == "update x -5" and c["rule"] == "average" for c in cells]
        held = [frl if c["attack"] == "reverse" else 0.1 if low else 0.8 for c, low in zip(cells, fallen, strict=True)]
        return [Played(c, {"accuracy": value}, 0.0, "") for c, value in zip(cells, held, strict=True)]

    assert study.judge(Options(2), outcome(0.75)).holds
    assert [bar.holds for bar in study.judge(Options(2), outcome(0.7)).bars] == [True, False, True]


def test_registered_reproductions_keep_the_interface() -> None:
    for name in ("fedavg", "robust_rules"):
        one = find(name)
        assert name == one.NAME
        assert one.SUMMARY
        assert one.cells(Options(1, quick=True))
    with pytest.raises(ConfigError, match="no reproduction"):
        find("nothing")


def test_every_cell_of_the_noisy_links_determines_its_run_and_finds_its_row(tmp_path: Path) -> None:
    (tmp_path / "beijing-air").mkdir()
    cells = noise_robust_admm.cells(Options(2, data=tmp_path))
    keys = [tuple(sorted(cell.items(), key=str)) for cell in cells]
    assert len(set(keys)) == len(keys)
    assert str(tmp_path) not in str(cells)
    value = {f"nmsd_{n}": -20.0 for n in (200, 300, 500, 1000, 2000)} | {"alone": -16.0, "ratio": 1.0}
    played = [Played(cell, value, 0.0, "") for cell in cells]
    authors, loud, quiet = noise_robust_admm.judge(Options(2), played).tables
    # Each kind of run stands in one row, and every number of the independent simulation beside one of ours.
    kinds = {tuple(sorted((k, v) for k, v in cell.items() if k != "seed")) for cell in cells}
    assert len(authors.rows) + len(loud.rows) - 1 + len(quiet.rows) == len(kinds) - 1  # stations alone; drift
    told = [row[5] for row in authors.rows]
    assert sorted(filter(None, told)) == sorted(noise_robust_admm_tables.AUTHORS.values())
    assert all(row[3] == "never" for row in quiet.rows)
    exact = [replace(p, value=value | {"exact": 577.0}) for p in played]
    assert all(row[3] == "577" for row in noise_robust_admm.judge(Options(2), exact).tables[2].rows)


@pytest.mark.slow
def test_anchored_consensus_holds_over_noise_and_the_paper_s_form_ends_where_it_did() -> None:
    options = Options(1, quick=True)
    played = play_all("noise_robust_admm", noise_robust_admm.cells(options), None, None, 1)
    report = noise_robust_admm.judge(options, played)
    assert report.holds, report.text()
    # Had the quiet link been as loud as the other, or memory bought nothing, the bars would not hold.
    loud = next(p.value for p in played if p.cell.get("form") == "rerce")
    same = [replace(p, value=loud) if p.cell["kind"] == "authors" else p for p in played]
    assert [bar.holds for bar in noise_robust_admm.judge(options, same).bars] == [True, False, False, True, True, True]
