"""What a matrix plays, and what is refused before anything is."""

from pathlib import Path

import pytest
from tests.support.small_matrix import SMALL

from edgehold.attacks.eval.cells import key
from edgehold.attacks.matrix.grid import Grid, liars_of
from edgehold.attacks.matrix.plan import READY, parse
from edgehold.core.errors import ConfigError, NotGranted


def grid(text: str) -> Grid:
    return Grid(parse(text))


def test_both_controls_are_there_whatever_the_file_says() -> None:
    cells = grid(SMALL).cells()
    for seed in range(2):
        played = {(cell["defence"], cell["attack"]) for cell in cells if cell["seed"] == seed}
        for attack in ("none", "sign_flip", "alie"):
            assert {("average", attack), ("krum", attack), ("median", attack)} <= played
    assert len(cells) == 2 * 3 * 3
    assert len({key(cell) for cell in cells}) == len(cells)


def test_lies_that_only_fit_votes_have_a_stand_in_on_the_average() -> None:
    text = SMALL.replace('"krum", "median"', '"frl"').replace('"sign_flip", "alie"', '"ranks_reverse", "alie"')
    made = grid(text + '[defence.frl]\nmethod = "frl"\nnet = { hidden = [8], bias = false }\n')
    played = {(cell["defence"], cell["attack"]) for cell in made.cells()}
    assert played == {
        ("average", "none"), ("average", "sign_flip x5"), ("average", "alie"), ("frl", "none"), ("frl", "ranks_reverse"),
    }  # fmt: skip
    assert [(defence, threat.label) for _, _, defence, threat in made.pairs()] == [
        ("average", "alie"),
        ("frl", "ranks_reverse"),
    ]


def test_liars_come_on_top_of_the_honest() -> None:
    assert [liars_of(12, share) for share in (0.1, 0.2, 0.3, 0.4)] == [1, 3, 5, 8]
    assert liars_of(3, 0.01) == 1


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (('"alie"', '"aile"'), 'did you mean "alie"'),
        (('"krum"', '"krmu"'), 'did you mean "krum"'),
        (('"krum"', '"nnm+krmu"'), "nnm.krmu"),
        (('knowledge = "K2+A"', 'knowledge = "K3"'), "matrix.knowledge"),
        (('data = ["digits"]', 'data = ["digit"]'), 'did you mean "digits"'),
        (("seeds = 2", "seed = 2"), 'did you mean "seeds"'),
        (("seeds = 2", "seeds = 0"), "matrix.seeds"),
        (("[data.digits]", "[attack.alie]\noptions = { zz = 1 }\n[data.digits]"), "alie"),
        (("[data.digits]", '[attack.almost]\nname = "alie"\n[data.digits]'), "attack.almost"),
        (("[data.digits]", "[sweep]\nshares = [0.3]\nattacks = ['sign_flop']\n[data.digits]"), 'did you mean "sign_flip"'),
        (("[data.digits]", "[defence.average]\nrule = 'krum'\n[data.digits]"), "nobody defends"),
        (("[data.digits]", "[defence.krum]\nmethod = 'frll'\n[data.digits]"), 'did you mean "frl"'),
        (('dataset = "digits"', 'dataset = "fashion-mnist"'), "no folder fashion-mnist"),
        (('"alie"', '"label_flip"]\n[attack.label_flip]\noptions = { target = 3 }\n#'), r"target is the same for all"),
        (('"krum"', '"bulyan"'), "bulyan"),  # 2 liars of 8: it needs 11
    ],
)
def test_what_cannot_be_played_is_refused_by_name(change: tuple[str, str], wanted: str) -> None:
    text = SMALL.replace(*change)
    if "\n#" in change[1]:
        text = text.replace("\n#]\n", "\n")
    with pytest.raises(ConfigError, match=wanted):
        grid(text)


@pytest.mark.parametrize(
    ("granted", "attack"), [("K0", "alie"), ("K1", "mimic"), ("K2", "alie_optimised"), ("K0+A", "fang_trimmed")]
)
def test_an_attack_that_needs_more_than_is_granted_is_refused(granted: str, attack: str) -> None:
    with pytest.raises(NotGranted, match=f"attack {attack} needs"):
        grid(SMALL.replace("K2+A", granted).replace('"alie"', f'"{attack}"'))


def test_comments_do_not_change_the_digest_and_settings_do() -> None:
    assert parse(SMALL).digest == parse("# words\n" + SMALL).digest
    assert parse(SMALL).digest != parse(SMALL.replace("rounds = 1", "rounds = 2")).digest


def test_a_setting_of_one_defence_leaves_the_cells_of_others() -> None:
    before = {key(cell) for cell in grid(SMALL).cells()}
    after = {key(cell) for cell in grid(SMALL.replace('"median"', '"trimmed_mean"')).cells()}
    assert len(before & after) == 12  # the average and krum, with two attacks and none, on two seeds


@pytest.mark.parametrize("name", READY.texts())
def test_ready_matrices_are_legal(name: str, tmp_path: Path) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    made = Grid(parse(READY.text_of(name)), tmp_path)
    assert made.matrix.matrix.name == name
    assert not made.missing


def test_quick_is_as_wide_as_it_says(tmp_path: Path) -> None:
    made = Grid(parse(READY.text_of("quick")))
    assert made.missing == ("fashion-mnist",)
    assert len(made.defences) > 12
    assert len(made.attacks) >= 10
    assert made.matrix.matrix.seeds == 3


def test_a_matrix_that_is_neither_a_file_nor_ready() -> None:
    with pytest.raises(ConfigError, match='did you mean "quick"'):
        READY.text_of("quikc")


def test_the_file_in_the_page_is_legal() -> None:
    page = (Path(__file__).parents[2] / "docs" / "matrix.md").read_text(encoding="utf-8")
    made = grid(page.split("```toml\n")[1].split("```")[0])
    assert list(made.defences) == ["average", "median", "nnm+trimmed_mean", "votes"]
    assert (made.attacks["strong"].card.name, made.attacks["strong"].options, made.attacks["strong"].bar) == (
        "alie",
        {"z": 3.0},
        0.05,
    )
