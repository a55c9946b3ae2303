"""The server's rule as liars work it out: as the rule itself does, on a sample too; and what searches make of it."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import registry, rule
from edgehold.attacks.byzantine.rule import ServerRule
from edgehold.attacks.byzantine.sight import LAST, Sight, moments
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.vectors import Array, MemorySpace, Vector
from edgehold.defenses.baselines.rules import Round, VectorRows, recipe

RULES: dict[str, dict[str, Any]] = {
    "average": {}, "median": {}, "trimmed_mean": {}, "meamed": {}, "krum": {}, "multi_krum": {}, "bulyan": {},
    "geometric_median": {}, "centred_clipping": {"radius": 1.5, "iterations": 2}, "mda": {}, "monna": {"trusted": "c3"},
    "caf": {}, "dnc": {}, "smea": {}, "nnm+trimmed_mean": {}, "nnm+krum": {}, "arc+median": {},
    "clipping+geometric_median": {"clip_to": 2.0}, "sign_majority": {"step": 0.1},
}  # fmt: skip
SIZE = 23


def seen(name: str, options: dict[str, Any], size: int = SIZE, draw: int = 0, honest: int = 9) -> Sight:
    rng = stream(draw, "updates", size)
    table = {f"c{i}": (0.3 + rng.standard_normal(size)).astype(np.float32) for i in range(honest)}
    own = {f"b{i}": rng.standard_normal(size).astype(np.float32) for i in range(2)}
    told = 0 if name == "average" else 2
    memory: dict[str, Array] = {LAST: np.zeros(size, np.float32)}
    model = np.full(size, 0.1, np.float32)
    return Sight(own, table, model, honest + 2, 2, rng, memory, ServerRule(name, told, options))


def harm_of(sight: Sight, lie: Array) -> float:
    """The rule itself, on every update."""
    known = sight.rule
    assert known is not None
    sent = {**sight.others, **dict.fromkeys(sight.own, lie.astype(np.float32))}
    sink = MemorySpace().sink(len(lie), "<f8")
    previous = Vector.of(sight.model - sight.memory[LAST]) if sight.memory else None
    rows = VectorRows([Vector.of(sent[client]) for client in sorted(sent)])
    recipe(known.name, known.options).aggregate(rows, Round(known.liars, (), sorted(sent), previous, stream(0, "draw")), sink)
    return float(np.linalg.norm(sink.finish().whole() - moments(sight.others)[0]))


@pytest.mark.parametrize("name", RULES)
def test_a_line_is_the_rule_itself(name: str) -> None:
    for draw in range(3):
        sight = seen(name, RULES[name], draw=draw)
        middle, spread = moments(sight.others)
        assert sight.rule is not None
        for base, push in ((middle, spread), (np.zeros(SIZE), middle), (middle, -np.sign(middle))):
            line = sight.rule.line(sight, base, push)
            for tau in (-7.0, -0.4, 0.0, 0.3, 1.1, 30.0):
                assert line.score(tau) == pytest.approx(harm_of(sight, base + tau * push), rel=1e-4, abs=1e-6)
                assert line.exact(tau) == line.score(tau)
            assert not line.sampled


@pytest.mark.parametrize("name", ["trimmed_mean", "nnm+median", "krum"])
def test_a_sample_ranks_factors_as_the_whole_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule, "SAMPLE", 400)
    sight = seen(name, {}, 5000)
    middle, spread = moments(sight.others)
    assert sight.rule is not None
    line = sight.rule.line(sight, middle, spread)
    assert line.sampled == (name != "krum")
    taus = (-3.0, -1.0, -0.3, 0.0)
    exact = [line.exact(tau) for tau in taus]
    assert exact == pytest.approx([harm_of(sight, middle + tau * spread) for tau in taus], rel=1e-4, abs=1e-5)
    assert sorted(taus, key=line.score) == sorted(taus, key=lambda tau: exact[taus.index(tau)])


@pytest.mark.parametrize("name", ["krum", "multi_krum", "mda", "bulyan"])
def test_picked_lies_are_picked(name: str) -> None:
    # Far away no lie is kept; at the honest mean all are.
    honest = 9 if name != "bulyan" else 12
    sight = seen(name, {}, honest=honest)
    middle, _ = moments(sight.others)
    assert sight.rule is not None
    line = sight.rule.line(sight, middle, np.ones(SIZE))
    assert line.selects
    assert line.picked(0.0)
    assert not line.picked(50.0)


@pytest.mark.parametrize("name", [name for name in RULES if name != "average"])
@pytest.mark.parametrize("attack", ["ipm_optimised", "alie_optimised"])
def test_searched_factors_do_at_least_what_fixed_ones_do(name: str, attack: str) -> None:
    sight = seen(name, RULES[name], draw=7)
    middle, spread = moments(sight.others)
    base, push = (middle, spread) if attack.startswith("alie") else (np.zeros(SIZE), middle)
    found = harm_of(sight, registry.attack_of(attack, {}).lie(sight)["b0"])
    fixed = [harm_of(sight, base + tau * push) for tau in (-100, -10, -2, -1, -0.5, -0.1, 0, 0.1, 0.5, 1, 2, 10, 100)]
    assert found >= max(fixed) * (1 - 1e-4)


@pytest.mark.parametrize("name", ["krum", "multi_krum", "bulyan", "median", "trimmed_mean", "nnm+krum"])
def test_a_rule_aware_lie_goes_as_far_as_it_is_picked_or_does_most_harm(name: str) -> None:
    sight = seen(name, {}, draw=3, honest=12)
    assert sight.rule is not None
    lie = registry.attack_of("rule_aware", {}).lie(sight)["b0"]
    blind = registry.attack_of("min_max", {}).lie(sight)["b0"]
    middle, _ = moments(sight.others)
    line = sight.rule.line(sight, middle, lie - middle)
    if line.selects:
        assert line.picked(0.999)
        assert not line.picked(1.01)
    else:
        assert harm_of(sight, lie) >= harm_of(sight, blind) * (1 - 1e-6)
    assert harm_of(sight, lie) > 0


def test_with_their_own_updates_alone_liars_play_a_smaller_round() -> None:
    # 8 honest of 12; four liars know four updates: half as many honest ones, so that two lies and two told liars will do.
    rng = stream(0, "own")
    own = {f"b{i}": rng.standard_normal(5).astype(np.float32) for i in range(4)}
    sight = Sight(own, {}, np.zeros(5, np.float32), 12, 4, rng, {}, ServerRule("trimmed_mean", 4))
    middle, spread = moments(own)
    assert sight.rule is not None
    line = sight.rule.line(sight, middle, spread)
    lie = (middle - 3.0 * spread).astype(np.float32)
    sink = MemorySpace().sink(5, "<f8")
    rows = VectorRows([Vector.of(row) for row in (*own.values(), lie, lie)])
    recipe("trimmed_mean").aggregate(rows, Round(2), sink)
    assert line.score(-3.0) == pytest.approx(float(np.linalg.norm(sink.finish().whole() - middle)), rel=1e-5)
    few = replace(sight, own=dict(list(own.items())[:2]), rule=ServerRule("krum", 4))
    with pytest.raises(ConfigError, match="the liars know 2 updates, too few"):
        registry.attack_of("alie_optimised", {}).lie(few)
    with pytest.raises(ConfigError, match="unknown rule"):
        _ = ServerRule("trimed_mean", 2).recipe


def test_a_search_at_a_million_values_takes_seconds_not_minutes() -> None:
    # Far above what it takes (docs/attacks-byzantine.md): fails when inner products or the sample are gone.
    sight = seen("nnm+trimmed_mean", {}, 1_100_000, honest=16)
    began = time.process_time()
    registry.attack_of("alie_optimised", {}).lie(sight)
    assert time.process_time() - began < 6.0
