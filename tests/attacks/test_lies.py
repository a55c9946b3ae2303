"""Lies about changes of the model, worked by hand; and that knowledge is declared, granted and refused."""

from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.byzantine import directions, fang, mimic, min_max, poisoned_fl, registry, relocated
from edgehold.attacks.byzantine.knowledge import K0, K1, K1_RULE, K2, K2_RULE
from edgehold.attacks.byzantine.plot import Plot
from edgehold.attacks.byzantine.rule import ServerRule
from edgehold.attacks.byzantine.search import best, golden, largest
from edgehold.attacks.byzantine.sight import LAST, Sight
from edgehold.core.errors import ConfigError, NotGranted
from edgehold.core.rng import stream
from edgehold.core.vectors import Array

# Three honest clients, two numbers each: mean (2, -1), squared distances 2 + 0, 8, 2; sd (1, 0) and (1, 1).
HONEST = {"b": [1.0, -1.0], "c": [3.0, -1.0], "d": [2.0, -1.0]}
LIARS = {"a": [5.0, 5.0], "e": [7.0, 9.0]}


def rows(table: dict[str, list[float]]) -> dict[str, Any]:
    return {client: np.array(values, np.float32) for client, values in table.items()}


def sight(**how: Any) -> Sight:
    base = Sight(rows(LIARS), rows(HONEST), np.zeros(2, np.float32), 5, 2, stream(0, "liars"))
    return replace(base, **how)


TRIMMED, KRUM = ServerRule("trimmed_mean", 2), ServerRule("krum", 1)
# name, options, what is seen, what every liar sends (None: checked below)
BY_HAND: list[tuple[str, dict[str, Any], dict[str, Any], Any]] = [
    ("zero", {}, {}, {"a": [0, 0], "e": [0, 0]}),
    ("sign_flip", {"scale": 3.0}, {}, {"a": [-15, -15], "e": [-21, -27]}),
    ("sign_flip_mean", {}, {}, {"a": [-2, 1], "e": [-2, 1]}),
    ("sign_flip_mean", {}, {"others": {}}, {"a": [-6, -7], "e": [-6, -7]}),  # the liars' own mean
    ("ipm", {"tau": 0.5}, {}, {"a": [-1, 0.5], "e": [-1, 0.5]}),
    ("alie", {"z": 1.5}, {}, {"a": [0.5, -1], "e": [0.5, -1]}),
    ("alie", {"z": 1.5, "sign": 1}, {}, {"a": [3.5, -1], "e": [3.5, -1]}),
    # Five clients, two liars: supporters 3 - 2 = 1 of 3 honest: z is the normal quantile of 2/3, 0.43073.
    ("alie", {}, {}, {"a": [2 - 0.43073, -1], "e": [2 - 0.43073, -1]}),
    # Widest honest distance 2, squared 4. Along -spread = (-1, 0): |2 - g - x| <= 2 with x in {1, 2, 3}: gamma 1.
    ("min_max", {"direction": "spread"}, {}, {"a": [1, -1], "e": [1, -1]}),
    # Along -sign = (-1, 1): (2 - gamma - 3)^2 + gamma^2 <= 4: 2 gamma^2 + 2 gamma - 3 = 0.
    ("min_max", {"direction": "sign"}, {}, {"a": [2 - (sqrt(7) - 1) / 2, -1 + (sqrt(7) - 1) / 2]}),
    # Sums of squared distances of honest ones: 4 + 1 = 5, 5, 2; about the mean 2. 3 gamma^2 = 5 - 2.
    ("min_sum", {"direction": "spread"}, {}, {"a": [1, -1], "e": [1, -1]}),
    ("min_sum", {"direction": "sign"}, {}, {"a": [2 - sqrt(1 / 2), -1 + sqrt(1 / 2)]}),
    ("mimic", {"warm_up": 0}, {}, {"a": [1, -1], "e": [1, -1]}),
    # All spread lies along the first number: the first direction is exact after one step, c or b is farthest out.
    ("mimic", {}, {}, None),
    ("replay", {"age": 1, "scale": 2.0}, {}, {"a": [10, 10], "e": [14, 18]}),
    # Centre 0: from the mean (2, -1) to it and on, as far as the radius.
    ("relocated", {}, {"rule": ServerRule("centred_clipping", 2, {"radius": 5.0})}, {"a": [-2 * sqrt(5), sqrt(5)]}),
    ("relocated", {"tau": sqrt(5)}, {}, {"a": [-2, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "seen", "sent"), BY_HAND)
def test_by_hand(name: str, options: dict[str, Any], seen: dict[str, Any], sent: Any) -> None:
    found = registry.attack_of(name, options).lie(sight(**seen))
    assert set(found) == set(LIARS)
    for client, values in (sent or {}).items():
        assert found[client] == pytest.approx(values, abs=2e-5)


def test_gaussian_and_not_finite() -> None:
    wide = sight(own={c: np.zeros(40_000, np.float32) for c in "ae"}, model=np.zeros(40_000, np.float32))
    lies = registry.attack_of("gaussian", {"sd": 10.0}).lie(wide)
    # 40,000 values: the sample sd has a relative sd of 1 / sqrt(80,000) = 0.35 %; 5 sd is 1.8 %.
    assert all(lie.std() == pytest.approx(10.0, rel=0.018) for lie in lies.values())
    assert (lies["a"] != lies["e"]).any()
    spoilt = registry.attack_of("not_finite", {"value": float("inf"), "at": -1}).lie(sight())["a"]
    assert np.isinf(spoilt).all()


def test_min_max_is_the_largest_and_min_sum_too() -> None:
    rng = stream(1, "clouds")
    for _ in range(20):
        changes = {f"c{i}": rng.standard_normal(7).astype(np.float32) for i in range(5)}
        points = np.array(list(changes.values()), dtype=np.float64)
        middle, spread = points.mean(axis=0), points.std(axis=0, ddof=1)
        between = ((points[:, None] - points[None]) ** 2).sum(axis=2)
        for push in (direction(middle, spread) for direction in directions.DIRECTIONS.values()):
            known = directions.honest(changes, middle, push)
            most, total = min_max.farthest(known), min_max.summed(known)
            for factor, within in ((1.0, True), (1.001, False)):
                away = ((points - middle - factor * most * push) ** 2).sum(axis=1)
                assert (away.max() <= between.max() * (1 + 1e-9)) == within
                away = ((points - middle - factor * total * push) ** 2).sum(axis=1)
                assert (away.sum() <= between.sum(axis=1).max() * (1 + 1e-9)) == within


def test_best_direction_goes_farthest() -> None:
    lies = [registry.attack_of("min_max", {"direction": one}).lie(sight())["a"] for one in ("unit", "sign", "spread", "best")]
    away = [float(np.linalg.norm(lie - [2, -1])) for lie in lies]
    assert away[3] == max(away[:3])


def test_fang_draws_beyond_the_honest_extreme_on_the_wrong_side() -> None:
    # Rising (2): below the least, 1, down to a half; falling (-1 everywhere): above -1, up to -1/2. A zero mean rises.
    low, high = fang.beyond(np.array([1.0, -3.0, -4.0, 2.0]), np.array([3.0, -1.0, 4.0, 5.0]), np.array([1, -1, 0, -1]), 2.0)
    assert low.tolist() == [0.5, -1.0, -8.0, 5.0]
    assert high.tolist() == [1.0, -0.5, -4.0, 10.0]
    found = registry.attack_of("fang_trimmed", {}).lie(sight(rule=TRIMMED))
    assert all(0.5 <= lie[0] <= 1.0 and -1.0 <= lie[1] <= -0.5 for lie in found.values())
    assert (found["a"] != found["e"]).all()


def test_fang_krum_is_picked_and_twice_as_far_is_not() -> None:
    rng = stream(2, "krum")
    others = {f"c{i}": (rng.normal(0.05, 0.1, 40)).astype(np.float32) for i in range(7)}
    own = {f"x{i}": rng.normal(0.05, 0.1, 40).astype(np.float32) for i in range(2)}
    rule = ServerRule("krum", 2)
    seen = Sight(own, others, np.zeros(40, np.float32), 9, 2, rng, {}, rule)
    lies = registry.attack_of("fang_krum", {}).lie(seen)
    first, second = lies["x0"], lies["x1"]
    length = float(np.abs(first).max())
    signs = np.sign(np.mean(list(others.values()), axis=0))
    assert first == pytest.approx(-length * signs)
    assert np.linalg.norm(second - first) == pytest.approx(1e-3 * np.linalg.norm(first))
    line = rule.line(seen, np.zeros(40), -signs)
    assert line.picked(length)
    assert length < fang.upper(seen, rule)
    assert not line.picked(fang.upper(seen, rule) * 2)
    with pytest.raises(ConfigError, match="made for krum"):
        registry.attack_of("fang_krum", {}).lie(replace(seen, rule=TRIMMED))


def test_mimic_finds_whose_data_stand_out_and_stays_with_it() -> None:
    attack, memory = mimic.Mimic(2), dict[str, Array]()
    rng = stream(4, "mimic")
    copied = []
    for number in range(5):
        # c stands out along the third number, on whichever side; the others differ by noise.
        others = {c: rng.normal(0, 0.1, 6).astype(np.float32) for c in "bcdf"}
        others["c"][2] += 5.0
        seen = sight(others=others, own={"a": np.zeros(6, np.float32)}, memory=memory, model=np.zeros(6, np.float32))
        lie = attack.lie(seen)["a"]
        copied.append(next(c for c in others if (others[c] == lie).all()))
        if number == 1:
            assert abs(memory[mimic.ALONG][2]) > 0.99
    assert len(set(copied[2:])) == 1
    if memory[mimic.ALONG][2] > 0:
        assert copied[-1] == "c"
    gone = attack.lie(sight(others={"z": np.ones(6, np.float32)}, memory=memory))
    assert gone["a"].tolist() == [1.0] * 6  # whom it copied is away


def test_poisoned_fl_by_hand() -> None:
    signs = np.array([1, -1])
    # No lie before: |step| = 5, weights (3, 4) / 5, factor 2.
    assert poisoned_fl.pushed(np.array([3.0, 4.0]), None, signs, 2.0).tolist() == pytest.approx([6.0, -8.0])
    # The last lie (0, 1) explains (0, 5) of the step (3, 4): left are (3, -1), of length sqrt(10).
    found = poisoned_fl.pushed(np.array([3.0, 4.0]), np.array([0.0, 1.0]), signs, 2.0)
    assert found.tolist() == pytest.approx([30 / sqrt(10), -10 / sqrt(10)])
    # A step that is all lie: even weights.
    even = poisoned_fl.pushed(np.array([0.0, 5.0]), np.array([0.0, 2.0]), signs, 1.0)
    assert even.tolist() == pytest.approx([5 / sqrt(2), -5 / sqrt(2)])
    # 99 % point of Binomial(100, 1/2) is 62.
    moved = np.where(np.arange(100) < 62, 1.0, -1.0)
    assert poisoned_fl.shows(moved, np.ones(100))
    assert not poisoned_fl.shows(np.where(np.arange(100) < 61, 1.0, -1.0), np.ones(100))


def test_poisoned_fl_shrinks_when_its_push_does_not_show() -> None:
    attack, memory = poisoned_fl.PoisonedFl(secret=3, every=2), dict[str, Array]()
    signs = poisoned_fl.signs_of(3, 200)
    model = np.zeros(200, np.float32)
    factors, lies = [], []
    for _ in range(16):
        found = attack.lie(sight(own={"a": model}, others={}, model=model, memory=memory))
        lies.append(found.get("a"))
        memory[LAST] = model
        factors.append(float(memory[poisoned_fl.FACTOR][0]))
        model = model - 0.1 * signs  # the server moves against the push
    assert lies[0] is None
    assert all((np.sign(lie) == signs).all() for lie in lies[1:] if lie is not None)
    assert factors[0] == 8.0
    assert factors[2] == pytest.approx(5.6)
    assert factors[-1] == pytest.approx(8.0 * 0.7**7)  # 0.66; one more would be below 0.5
    agreed = poisoned_fl.PoisonedFl(secret=3).lie(sight(own={"a": model}, others={}, model=model + 1, memory={LAST: model}
                                                        | {k: memory[k] for k in memory if k != LAST}))  # fmt: skip
    assert (np.sign(agreed["a"]) == signs).all()


def test_what_follows_the_model_needs_one() -> None:
    for name in ("poisoned_fl", "relocated"):
        with pytest.raises(ConfigError, match="follows the global model"):
            registry.attack_of(name, {} if name == "poisoned_fl" else {"tau": 1.0}).lie(sight(model=None))
    assert registry.attack_of("zero", {}).lie(sight(model=None))["a"].tolist() == [0, 0]


def test_relocated_around_the_last_result() -> None:
    # The model went from 0 to (0, 3): that is the centre. The mean is (2, -1): away from it is (-2, 4), of length sqrt(20).
    seen = sight(model=np.array([0, 3], np.float32), memory={LAST: np.zeros(2, np.float32)})
    lie = relocated.Relocated("opposing", sqrt(5)).lie(seen)["a"]
    assert lie.tolist() == pytest.approx([-1, 5])
    # Without its part along (0, 1) only (-1, 0) is left.
    assert relocated.Relocated("orthogonal", 2.0).lie(seen)["a"].tolist() == pytest.approx([-2, 3])


def test_replay_sends_what_is_old() -> None:
    def play(age: int) -> list[float]:
        attack, memory = registry.attack_of("replay", {"age": age}), dict[str, Array]()
        return [
            float(attack.lie(sight(own={"a": np.full(2, n, np.float32)}, memory=memory))["a"][0]) for n in (1.0, 2.0, 3.0, 4.0)
        ]

    assert play(0) == [1, 1, 1, 1]
    assert play(1) == [1, 1, 2, 3]
    assert play(2) == [1, 1, 1, 2]


# Searches.


def test_golden_sections_and_bisection() -> None:
    tried = golden(lambda x: -((x - 2.7) ** 2), (0.0, 1.0, 2.0, 3.0, 5.0), 12)
    assert best(tried, 1)[0] == pytest.approx(2.7, abs=0.02)
    assert len(tried) == 5 + 13
    rising = golden(lambda x: x, (0.0, 1.0, 2.0), 3, farther=4)
    assert max(x for x, _ in rising) == 32.0
    flat = golden(lambda x: min(x, 1.0), (0.0, 1.0, 2.0), 0, farther=4)
    assert flat == [(0.0, 0.0), (1.0, 1.0), (2.0, 1.0)]
    assert largest(lambda x: x <= 7.3, 1.0) == pytest.approx(7.3, rel=1e-4)
    assert largest(lambda x: x <= 0.0123, 1.0) == pytest.approx(0.0123, rel=1e-3)
    assert largest(lambda x: False, 1.0) == 0.0


# Knowledge.


def test_levels() -> None:
    assert [str(one) for one in (K0, K1, K2, K1_RULE, K2_RULE)] == ["K0", "K1", "K2", "K1+A", "K2+A"]
    K2_RULE.grant(K1, "x")
    for granted, needs in ((K0, K1), (K1, K2), (K2, K1_RULE), (K1_RULE, K2)):
        with pytest.raises(NotGranted, match="attack y needs") as found:
            granted.grant(needs, "attack y")
        assert found.value.code == "not_granted"


@pytest.mark.parametrize("card", [card for card in registry.ATTACKS.values() if card.on_updates], ids=lambda card: card.name)
def test_every_attack_needs_what_its_card_says(card: registry.Card) -> None:
    attack = registry.attack_of(card.name, {})
    assert attack.needs == card.needs
    Plot(frozenset({"a"}), attack, card.needs)
    if card.needs > K0:
        with pytest.raises(NotGranted, match=str(card.needs).replace("+", r"\+")):
            Plot(frozenset({"a"}), attack, K0)


def test_a_rule_that_is_not_granted_is_not_told() -> None:
    with pytest.raises(ConfigError, match="grant the rule"):
        Plot(frozenset({"a"}), registry.attack_of("ipm", {}), K2, TRIMMED)
    for name in ("ipm_optimised", "rule_aware"):
        with pytest.raises(NotGranted, match="harm of a lie"):
            registry.attack_of(name, {}).lie(sight())
    with pytest.raises(NotGranted, match="told the rule itself"):
        registry.attack_of("fang_krum", {}).lie(sight())
    with pytest.raises(NotGranted, match="radius"):
        registry.attack_of("relocated", {}).lie(sight())


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("gaussian", {"sd": 0.0}, "sd = 0"),
        ("not_finite", {"value": 1.0}, "finite"),
        ("sign_flip", {"scale": -1.0}, "above 0"),
        ("sign_flip", {"of": "others"}, "of = 'others'"),
        ("ipm", {"tau": 0.0}, "tau"),
        ("alie", {"sign": 2}, "sign = 2"),
        ("alie", {"z": -1.0}, "z = -1"),
        ("alie_optimised", {"kind": "alei"}, "alie"),
        ("ipm_optimised", {"grid": (2.0, 1.0)}, "grid"),
        ("ipm_optimised", {"steps": -1}, "steps"),
        ("min_max", {"direction": "sgin"}, 'did you mean "sign"'),
        ("rule_aware", {"direction": "up"}, "direction"),
        ("fang_trimmed", {"b": 1.0}, "b = 1"),
        ("mimic", {"warm_up": -1}, "warm_up"),
        ("poisoned_fl", {"factor": 0.0}, "factor"),
        ("poisoned_fl", {"every": 0}, "every"),
        ("replay", {"age": -1}, "age"),
        ("relocated", {"u": "up"}, "u = 'up'"),
        ("relocated", {"tau": 0.0}, "tau"),
        ("mimik", {}, 'did you mean "mimic"'),
        ("ipm", {"taw": 1.0}, "does not take these options"),
        ("label_flip", {}, "changes no updates"),
    ],
)
def test_nonsense_is_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        registry.attack_of(name, options)
