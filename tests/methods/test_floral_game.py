"""FLORAL's numbers: projection, kernels, features and game, by hand, against slow versions and generic solvers."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.svm import SVC
from tests.support.games import draw, moons

from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Schema, Tensor
from edgehold.defenses.floral import game
from edgehold.defenses.floral.features import Fourier, Head, Nystrom, head_of, schema_of
from edgehold.defenses.floral.game import Rules, Turn, attacked, bias_of, play, signs
from edgehold.defenses.floral.kernels import RbfKernel, largest_eigenvalue, rbf
from edgehold.defenses.floral.projection import Array, project, released

# The projection.


def slow(z: Array, y: Array, cost: float) -> Array:
    """By bisection, as in the specification."""
    low = -(np.abs(z).max() + cost + 1)
    high = -low
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if (y * np.clip(z - mu * y, 0, cost)).sum() > 0 else (low, mu)
    return np.asarray(np.clip(z - mu * y, 0, cost))


def test_a_projection_by_hand() -> None:
    # y z = 3, -1; both move by mu = 1: lam = 2, 2. With C = 1.5 mu is anywhere in 0.5..1.5, and both are at C.
    assert project(np.array([3.0, 1.0]), np.array([1.0, -1.0]), 10.0).tolist() == [2.0, 2.0]
    assert project(np.array([3.0, 2.0]), np.array([1.0, -1.0]), 1.5).tolist() == [1.5, 1.5]
    assert project(np.array([-3.0, -2.0]), np.array([1.0, -1.0]), 1.5).tolist() == [0.0, 0.0]


def test_the_projection_is_feasible_idempotent_and_the_nearest_point() -> None:
    """200 problems, z far outside and repeated values among them, against bisection; 40 of them against a generic solver
    too.
    """
    rng, empty = np.random.default_rng(0), 0
    for number in range(200):
        n, cost = int(rng.integers(1, 25)), float(10 ** rng.uniform(-2, 2))
        z = rng.standard_normal(n) * 10 ** rng.uniform(-2, 3 if number % 5 else 6)
        z = np.round(z) if number % 3 == 0 else z
        y = np.where(rng.random(n) < rng.random(), 1.0, -1.0)
        lam = project(z, y, cost)
        assert lam.min() >= 0
        assert lam.max() <= cost
        assert abs(y @ lam) <= 1e-8
        assert np.abs(project(lam, y, cost) - lam).max() <= 1e-9
        if abs(y.sum()) == n:
            empty += 1
            assert not lam.any()
            continue
        assert np.abs(lam - slow(z, y, cost)).max() <= 1e-6 * max(1.0, np.abs(z).max() / 1e6)
        if number % 5 == 1:
            near = np.clip(z, -3 * cost, 3 * cost)
            found = minimize(
                lambda v, near=near: 0.5 * ((v - near) ** 2).sum(), np.full(n, cost / 2), jac=lambda v, near=near: v - near,
                bounds=[(0, cost)] * n, constraints={"type": "eq", "fun": lambda v, y=y: y @ v, "jac": lambda v, y=y: y},
                method="SLSQP", options={"ftol": 1e-16, "maxiter": 1000},
            )  # fmt: skip
            assert np.abs(project(near, y, cost) - found.x).max() <= 1e-6 * max(1.0, cost)
    assert empty >= 5, "control: one class was empty now and then"


def test_the_released_projection_agrees_where_it_arrives_and_may_stop_outside() -> None:
    rng = np.random.default_rng(1)
    y = np.where(np.arange(40) % 2, 1.0, -1.0)
    near = rng.uniform(0.2, 0.8, 40)
    assert np.abs(released(near, y, 1.0) - project(near, y, 1.0)).max() < 1e-9
    far = np.where(y > 0, 1e6, -1e6) + rng.standard_normal(40)  # nothing inside: steps of C, a million away
    assert abs(y @ released(far, y, 1.0)) > 1
    assert abs(y @ project(far, y, 1.0)) < 1e-8


# Kernels and features.


def test_products_need_no_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = moons(130)
    vectors = np.random.default_rng(2).standard_normal((130, 3))
    whole = np.exp(-0.7 * ((x[:, None] - x[None]) ** 2).sum(2))
    monkeypatch.setattr("edgehold.defenses.floral.kernels._ROWS", 17)
    seen: list[int] = []
    for kept in (1 << 28, 0):
        kernel = RbfKernel(x, 0.7, kept)
        assert np.allclose(kernel.product(vectors), whole @ vectors, rtol=0, atol=1e-12)
        seen += [len(block) for _, block in kernel.rows()]
        true = np.linalg.eigvalsh(whole)[-1]
        assert 0.98 * true <= largest_eigenvalue(kernel) <= true * (1 + 1e-12)
    assert max(seen) == 17
    assert RbfKernel(x, 0.7, 8 * 130**2 - 1)._whole is None


@pytest.mark.parametrize("count", [64, 512])
def test_fourier_features_are_near_the_kernel_and_public(count: int) -> None:
    """Bar of the specification: rms <= 1.2 / sqrt(m), about 1/3 above what is expected; off the diagonal, over five seeds."""
    x = np.random.default_rng(0).random((200, 64))
    wanted = rbf(x, x, 0.1)
    errors = []
    for seed in range(5):
        phi = Fourier(64, 0.1, count, seed)(x)
        errors.append((phi @ phi.T - wanted)[np.triu_indices(200, 1)])
    assert 0.1 / np.sqrt(count) < np.sqrt(np.mean(np.square(errors))) <= 1.2 / np.sqrt(count)
    assert np.array_equal(Fourier(64, 0.1, count, 3)(x), Fourier(64, 0.1, count, 3)(x))
    assert not np.array_equal(Fourier(64, 0.1, count, 3)(x), Fourier(64, 0.1, count, 4)(x))


def test_nystrom_features_are_exact_on_their_landmarks() -> None:
    x, _ = moons(60)
    landmarks = np.vstack([x[:30], x[:1]])  # one of them twice
    mapped = Nystrom(landmarks, 0.5)
    phi = mapped(x)
    wanted = rbf(x, x, 0.5)
    assert np.allclose(phi[:30] @ phi[:30].T, wanted[:30, :30], rtol=0, atol=1e-6)
    assert (
        np.square(phi @ phi.T - wanted).mean()
        < np.square(Fourier(2, 0.5, 31, 0)(x) @ Fourier(2, 0.5, 31, 0)(x).T - wanted).mean()
    )


def test_the_name_of_the_tensor_says_what_a_head_weighs() -> None:
    schema = schema_of(Fourier(64, 0.1, 512, 7), 2)
    assert schema.tensors == (Tensor("fourier inputs=64 gamma=0.1 seed=7", (513, 1)),)
    assert head_of(schema) == Head("fourier", 64, 0.1, "7", 512, 1)
    assert head_of(schema).classes == 2
    ten = schema_of(Nystrom(np.ones((5, 3)), 1e-07), 10)
    assert ten.tensors[0].shape == (6, 10)
    assert (head_of(ten).kind, head_of(ten).gamma, len(head_of(ten).mark)) == ("nystrom", 1e-7, 16)
    assert schema_of(Nystrom(np.zeros((5, 3)), 1e-07), 10).digest != ten.digest
    with pytest.raises(ConfigError, match="1 classes; FLORAL separates two or more"):
        schema_of(Fourier(2, 0.1, 4, 0), 1)
    with pytest.raises(ConfigError, match=r"has the tensors 0.weight \[2, 3\]"):
        head_of(Schema((Tensor("0.weight", (2, 3)),)))
    with pytest.raises(ConfigError, match=r"records of shape \(2, 3\); these features take rows of 64"):
        Fourier(64, 0.1, 4, 0)(np.zeros((2, 3)))


# The game.


def dual(kernel: Array, signed: Array) -> float:
    return float(0.5 * signed @ kernel @ signed - np.abs(signed).sum())


def test_without_an_attacker_it_is_a_support_vector_machine() -> None:
    """The dual objective never rises, and ends where scikit-learn's solver ends, to 1e-4 of its value; so does the decision."""
    x, y = moons(80)
    kernel = RbfKernel(x, 0.5)
    whole = rbf(x, x, 0.5)
    values: list[float] = []
    rules = Rules(1.0, 10_000, 0, 0, step=1 / np.linalg.eigvalsh(whole)[-1], averaged=False)
    result = play(kernel, y, 1, rules, draw, watch=lambda turn: values.append(dual(whole, turn.signed[:, 0])))
    assert (np.diff(values) <= 1e-12).all()
    solver = SVC(C=1.0, kernel="precomputed", tol=1e-8).fit(whole, y)
    theirs = np.zeros(80)
    theirs[solver.support_] = solver.dual_coef_[0]
    assert abs(values[-1] / dual(whole, theirs) - 1) < 1e-4
    scores = whole @ result.weights[:, 0]
    assert np.abs(scores - (solver.decision_function(whole) - solver.intercept_)).max() < 2e-2
    # Control: after three rounds it was somewhere else.
    assert abs(values[2] / dual(whole, theirs) - 1) > 0.05


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(("flips", "budget"), [(4, 9), (9, 9), (30, 60), (0, 0)])
def test_flips_are_of_the_given_labels_and_inside_the_budget(outputs: int, flips: int, budget: int) -> None:
    rng = np.random.default_rng(3)
    x, y = moons(50)
    given = y if outputs == 1 else rng.integers(0, 3, 50)
    turns: list[Turn] = []
    play(RbfKernel(x, 0.5), given, outputs, Rules(2.0, 30, flips, budget), draw, watch=turns.append)
    assert (turns[0].labels == given).all(), "nobody attacks before there are weights"
    for before, now in zip(turns, turns[1:], strict=False):
        weights = np.abs(before.signed).sum(1)
        top = min(budget, int((weights > game.SUPPORT).sum()))
        changed = np.flatnonzero(now.labels != given)
        assert len(changed) == min(flips, top)
        if len(changed):
            assert weights[changed].min() >= np.sort(weights)[-top] > game.SUPPORT
        lam, signs_ = np.abs(now.signed), signs(now.labels, outputs)
        assert np.abs((now.signed).sum(0)).max() <= 1e-8  # labels' lam = 0, with the labels it was trained on
        assert (now.signed * signs_ >= 0).all()
        assert lam.max() <= 2.0
    assert (turns[-1].labels != given).any() == bool(flips)


def test_with_several_classes_a_flip_goes_to_the_best_rival() -> None:
    given = np.array([0, 1, 2, 0])
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 9.0, 1.0], [5.0, 4.0, 9.0], [1.0, 1.0, 0.0]])
    rules = Rules(1.0, 1, 4, 4)
    assert attacked(given, np.ones((4, 3)), scores, rules, draw(1)).tolist() == [2, 2, 0, 1]
    # A record weighs the sum over outputs: only the third has any weight.
    lam = np.zeros((4, 3))
    lam[2] = [0.0, 2e-5, 0.0]
    assert attacked(given, lam, scores, rules, draw(1)).tolist() == [0, 1, 0, 0]
    assert signs(np.array([0, 2]), 3).tolist() == [[1, -1, -1], [-1, -1, 1]]
    assert signs(np.array([0, 1]), 1).tolist() == [[-1], [1]]


def test_ties_are_broken_at_random_or_by_place_as_released() -> None:
    given, lam = np.zeros(20, np.int64), np.ones((20, 1))
    for form, least in ((False, 15), (True, 3)):
        rules = Rules(1.0, 1, 3, 3, released=form)
        seen = {int(i) for t in range(40) for i in np.flatnonzero(attacked(given, lam, lam, rules, draw(t)))}
        assert (len(seen) >= least) if not form else (seen == {0, 1, 2})


def test_the_bias_is_the_mean_residual_over_all_support_vectors() -> None:
    lam = np.array([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0]])
    y = np.array([[1.0, -1.0], [1.0, -1.0], [-1.0, -1.0]])
    scores = np.array([[9.0, 0.0], [0.5, 0.0], [0.5, 0.0]])
    assert bias_of(lam, y, scores).tolist() == [-0.5, -1.0]  # the second has none: over all records
    assert bias_of(lam, y, scores, released=True).tolist() == [-0.5, 0.0]


def test_the_read_out_is_the_mean_of_two_thirds_or_the_last_round() -> None:
    x, y = moons(40)
    turns: list[Turn] = []
    result = play(RbfKernel(x, 0.5), y, 1, Rules(5.0, 10, 4, 8), draw, watch=turns.append)
    assert np.allclose(result.weights, np.mean([turn.signed for turn in turns[3:]], axis=0), rtol=0, atol=1e-12)
    assert np.allclose(result.bias, np.mean([turn.bias for turn in turns[3:]], axis=0), rtol=0, atol=1e-12)
    last = play(RbfKernel(x, 0.5), y, 1, Rules(5.0, 10, 4, 8, averaged=False), draw)
    assert np.array_equal(last.weights, turns[-1].signed)
    assert np.array_equal(last.last, result.last)


def test_the_released_form_takes_a_tenth_of_a_step_every_hundredth_round() -> None:
    """From round 99 on, with the same weights: the hundredth step is a tenth as long, the next one is whole again."""
    x, y = moons(30)
    kernel = RbfKernel(x, 0.5)
    rules = Rules(1e3, 1, 0, 0, step=1e-4, averaged=False, released=True)
    start = play(kernel, y, 1, replace(rules, plays=98), draw).last
    lengths = []
    for played in (98, 99, 100):
        lengths.append(np.abs(play(kernel, y, 1, rules, draw, start, played).last - start).max())
    assert lengths[0] == pytest.approx(10 * lengths[1], rel=1e-3)
    assert lengths[0] == lengths[2]
    exact = [play(kernel, y, 1, replace(rules, released=False), draw, start, at).last for at in (98, 99)]
    assert np.array_equal(exact[0], exact[1])


def test_a_game_goes_on_where_it_stopped() -> None:
    x, _ = moons(40)
    y = np.random.default_rng(0).integers(0, 3, 40)
    rules = Rules(5.0, 8, 4, 8)
    whole = play(RbfKernel(x, 0.5), y, 3, replace(rules, plays=16), draw)
    half = play(RbfKernel(x, 0.5), y, 3, rules, draw)
    rest = play(RbfKernel(x, 0.5), y, 3, rules, draw, half.last, 8)
    assert np.allclose(rest.last, whole.last, rtol=0, atol=1e-9)


def test_a_class_that_is_absent_leaves_no_weights_and_says_the_other_class() -> None:
    x, _ = moons(20)
    for label in (0, 1):
        result = play(RbfKernel(x, 0.5), np.full(20, label), 1, Rules(10.0, 20, 3, 6), draw)
        assert not result.weights.any()
        assert result.bias == pytest.approx([1.0 if label else -1.0])
    three = play(RbfKernel(x, 0.5), np.arange(20) % 2, 3, Rules(10.0, 20, 0, 0), draw)  # nobody is of class 2
    assert three.weights[:, :2].any(axis=0).all()
    assert not three.weights[:, 2].any()
    assert three.bias[2] == pytest.approx(-1.0)
