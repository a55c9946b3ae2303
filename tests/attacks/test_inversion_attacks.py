"""Each inversion on a case small enough to know, through the real halves of a method: it wins where nothing protects, and loses
under the product's own noise.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgehold.attacks.eval.data import make_task
from edgehold.attacks.inversion import bins, catalogue, labels, sparse
from edgehold.attacks.inversion.metrics import CEILING, psnr, score, ssim
from edgehold.attacks.inversion.observed import Aim, Observed, observe
from edgehold.attacks.inversion.one_round import private, seen
from edgehold.core.errors import ConfigError
from edgehold.core.rng import stream
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, Schema, Tensor

NET: dict[str, Any] = {"hidden": [128, 48]}
OWN = make_task("digits", -1, 1, model="mlp", net=NET)
SHAPE = (64,)


def public() -> Array:
    assert OWN.test_data is not None
    return np.asarray(OWN.test_data[0])


def device(seed: int, records: int) -> TorchTask:
    return make_task("digits", seed, 20, limit=records, model="mlp", net=NET)


def truth(task: TorchTask) -> tuple[Array, Array]:
    assert task.train_data is not None
    return np.asarray(task.train_data[0]), np.asarray(task.train_data[1])


def aim(records: int, model: Any = OWN, **more: Any) -> Aim:
    return Aim(SHAPE, records, 10, (0.0, 1.0), public(), model=model, **more)


@pytest.mark.parametrize("seed", range(3))
def test_closed_form_reads_a_record_and_not_through_noise(seed: int) -> None:
    task = device(seed, 1)
    x, _ = truth(task)
    attack = catalogue.find("closed-form").invert
    assert score(attack(seen(task, seed), aim(1)).images, x).median > 100
    hidden = attack(private(task, seed, 1), aim(1))
    assert score(hidden.images, x).median < 12
    assert "expected to fail" in hidden.note


@pytest.mark.parametrize("records", [1, 4, 8])
def test_sparse_directions_read_a_whole_batch_and_not_through_noise(records: int) -> None:
    task = device(1, records)
    x, _ = truth(task)
    attack = catalogue.find("sparse").invert
    found = attack(seen(task, 1, batch_size=records), aim(records))
    assert min(score(found.images, x).psnr) > 60
    assert found.objectives == (0.0,), "it knows that it has won, without the truth"
    assert score(attack(private(task, 1, records), aim(records)).images, x).median < 12


def test_sparse_directions_know_their_own_slopes() -> None:
    """By hand: weights (1, 0), (0, 1), (1, 1), (-1, 0.5), (1, -1) and no bias; records a = (2, -1), b = (-1, 2) switch on units
    {0, 2, 4} and {1, 2, 3}: each leaves two off, any mixture of both one at most.
    """
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5], [1.0, -1.0]])
    a, b = np.array([2.0, -1.0]), np.array([-1.0, 2.0])
    columns = np.array([[1.0, 0.0, 3.0, 0.0, 2.0], [0.0, -2.0, 3.0, 1.0, 0.0]])
    wide = np.hstack([np.stack([a, b]), np.zeros((2, 2))])  # layers have more inputs than records
    found = sparse.invert(
        (columns.T @ wide, columns.sum(axis=0)), (np.hstack([weights, np.zeros((5, 2))]), np.zeros(5)), 2, stream(0, "t")
    )
    assert found.exact == 2
    order = np.argsort(-found.inputs[:, 0])
    assert np.allclose(found.inputs[order], wide, atol=1e-9)
    assert np.allclose(found.slopes[order], columns, atol=1e-9)


def test_sparse_directions_of_nothing_and_of_too_much() -> None:
    layer = (np.ones((4, 5)), np.ones(4))
    assert len(sparse.invert((np.zeros((4, 5)), np.zeros(4)), layer, 2, stream(0, "t")).inputs) == 0
    with pytest.raises(ConfigError, match="fewer than units"):
        sparse.invert((np.ones((4, 5)), np.ones(4)), layer, 4, stream(0, "t"))


def test_bins_read_records_that_are_alone_and_the_imprint_shows() -> None:
    task = make_task("digits", 3, 20, limit=12, model="mlp", net={"hidden": [512, 16]})
    own = make_task("digits", -1, 1, model="mlp", net={"hidden": [512, 16]})
    x, _ = truth(task)
    sent = bins.craft(task.initial(3), task.schema, public())
    assert bins.imprinted(sent, task.schema)
    assert not bins.imprinted(task.initial(3), task.schema), "control"
    attack = catalogue.find("bins").invert
    found = attack(seen(task, 3, start=sent, batch_size=12), aim(12, own))
    assert score(found.images, x).above(35) >= 0.75
    plain = attack(seen(task, 3, batch_size=12), aim(12, own))
    assert score(plain.images, x).above(35) == 0.0, "control: it is the imprint that tells"
    assert "no imprint" in plain.note


def test_bins_by_hand() -> None:
    """Thresholds 0, 1, 2; records of mean 0.5 and 2.5 with slopes 1 and 2: rows see both, then the second alone."""
    a, b = np.array([0.25, 0.75]), np.array([2.0, 3.0])
    weight = np.stack([a + 2 * b, 2 * b, 2 * b])
    found = bins.read(weight, np.array([3.0, 2.0, 2.0]), np.array([0.0, 1.0, 2.0]), 2)
    assert sorted(found.tolist()) == [[0.25, 0.75], [2.0, 3.0]]
    assert len(bins.read(np.zeros((3, 2)), np.zeros(3), np.arange(3.0), 2)) == 0
    assert len(bins.read(np.full((3, 2), np.nan), np.zeros(3), np.arange(3.0), 2)) == 0


def smooth() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(96, 10))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def picture(seed: int, records: int = 1, label: int | None = None) -> TorchTask:
    """Digits of 8 x 8 as images."""
    x, y = truth(device(seed, records))
    labels_of = y if label is None else np.full(records, label)
    return TorchTask(smooth, (x.reshape(-1, 1, 8, 8), labels_of), None, nn.functional.cross_entropy)


def image_aim(task: TorchTask, records: int = 1, **more: Any) -> Aim:
    return Aim((1, 8, 8), records, 10, (0.0, 1.0), public().reshape(-1, 1, 8, 8), model=task, restarts=2, **more)


@pytest.mark.parametrize("name", ["dlg", "idlg"])
def test_matching_by_distance_reads_an_image_and_not_through_noise(name: str) -> None:
    task = picture(2)
    x, y = truth(task)
    attack = catalogue.find(name).invert
    found = attack(seen(task, 2), image_aim(task, iterations=60))
    assert score(found.images, x).median > 35
    assert found.labels is not None
    assert found.labels.tolist() == y.tolist()
    assert len(found.objectives) == 2
    assert score(attack(private(task, 2, 1), image_aim(task, iterations=10)).images, x).median < 12


def test_matching_by_cosine_reads_an_image_also_through_local_steps_and_not_through_noise() -> None:
    task = picture(4)
    x, y = truth(task)
    attack = catalogue.find("cosine").invert
    more: dict[str, Any] = {"iterations": 500, "total_variation": 1e-3}
    found = attack(seen(task, 4), image_aim(task, **more))
    assert found.labels is not None
    assert found.labels.tolist() == y.tolist()
    assert score(found.images, x).median > 20
    several = seen(task, 4, local_epochs=3, learning_rate=0.5)
    assert several.steps == 3
    assert score(attack(several, image_aim(task, **more)).images, x).median > 20
    with pytest.raises(ConfigError, match="3 local steps"):
        catalogue.find("dlg").invert(several, image_aim(task)) if several.gradient() is None else None
    with_noise = attack(private(task, 4, 1), image_aim(task, **more))
    assert score(with_noise.images, x).median < 12


def test_the_best_restart_is_chosen_by_the_attackers_objective() -> None:
    task = picture(5)
    found = catalogue.find("idlg").invert(seen(task, 5), image_aim(task, iterations=3))
    one = catalogue.find("idlg").invert(seen(task, 5), Aim((1, 8, 8), 1, 10, model=task, restarts=1, iterations=3))
    assert found.objectives[0] == one.objectives[0], "the same streams"
    assert (found.objectives[0] <= found.objectives[1]) == np.array_equal(found.images, one.images)


def test_hyperfl_is_read_through_the_same_form() -> None:
    task = device(6, 1)
    x, _ = truth(task)
    how: dict[str, Any] = {"embedding": 8, "hidden": 16, "local_epochs": 1}
    attack = catalogue.find("closed-form").invert
    assert score(attack(seen(task, 6, "hyperfl", **how), aim(1)).images, x).median > 100
    hidden = attack(seen(task, 6, "hyperfl", **how, noise_multiplier=1.21), aim(1))
    assert score(hidden.images, x).median < 12
    batch = device(6, 4)
    found = catalogue.find("sparse").invert(seen(batch, 6, "hyperfl", **how, batch_size=4), aim(4))
    assert score(found.images, truth(batch)[0]).median > 60
    with pytest.raises(ConfigError, match="whole model"):
        catalogue.find("cosine").invert(seen(task, 6, "hyperfl", **how), aim(1))


def test_labels_by_hand_and_from_a_batch() -> None:
    # Two records of labels 0 and 2, p = (0.5, 0.25, 0.25) for both: g = p - (1/2, 0, 1/2).
    p = np.array([0.5, 0.25, 0.25])
    assert labels.counts(p - np.array([0.5, 0.0, 0.5]), 2, p).tolist() == [1, 0, 1]
    assert labels.spread(np.array([1, 0, 2])).tolist() == [0, 2, 2]
    assert labels.single(np.array([[1.0, 1.0], [-3.0, 1.0], [0.5, 0.5]])) == 1
    assert labels.counts(np.full(3, np.nan), 2, p).sum() == 2
    with pytest.raises(ConfigError, match="at least 1"):
        labels.counts(p, 0, p)
    task = device(7, 16)
    _, y = truth(task)
    gradient = seen(task, 7, batch_size=16).tensors()[-1]
    task.load(task.initial(7))
    with torch.no_grad():
        confidence = task.module(torch.from_numpy(public())).softmax(1).mean(0).numpy()
    assert np.abs(labels.counts(gradient, 16, confidence) - np.bincount(y, minlength=10)).sum() <= 2


def test_metrics_by_hand() -> None:
    assert psnr(np.full((4, 4), 0.1), np.zeros((4, 4))) == pytest.approx(20.0)
    assert psnr(np.zeros(3), np.zeros(3)) == CEILING
    assert psnr(np.full(3, np.nan), np.zeros(3)) == -CEILING
    image = np.arange(64.0).reshape(8, 8) / 63
    assert ssim(image, image) == pytest.approx(1.0)
    # Constant images a, b have no variance: (2ab + C1) / (a^2 + b^2 + C1) remains.
    assert ssim(np.full((7, 7), 0.5), np.full((7, 7), 1.0)) == pytest.approx((1.0 + 1e-4) / (1.25 + 1e-4))
    # One window, values and their negatives about 0.5: covariance minus the variance; the 49 values of a 7 x 7 image.
    one = np.linspace(0, 1, 49).reshape(7, 7)
    variance = float(one.var(ddof=1))
    assert ssim(one, 1 - one) == pytest.approx((-2 * variance + 9e-4) / (2 * variance + 9e-4))
    assert np.isnan(ssim(np.zeros((4, 4)), np.zeros((4, 4))))


def test_reconstructions_are_matched_so_that_errors_sum_to_least() -> None:
    truth_of = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    found = score(np.array([[0.9, 0.9], [0.1, 0.1]]), truth_of, 1.0, np.array([7, 3]), np.array([3, 7, 1]))
    assert found.match == (1, 0, -1)
    assert found.psnr[:2] == pytest.approx((20.0, 20.0))
    assert found.psnr[2] == -CEILING
    assert found.label_accuracy == pytest.approx(2 / 3)
    assert score(np.zeros((0, 2)), truth_of).median == -CEILING


def test_one_step_is_the_gradient_of_one_batch_and_shows_it() -> None:
    task = device(8, 8)
    x, _ = truth(task)
    one = seen(task, 3, batch_size=1, local_epochs=2, local_steps=1)
    assert (one.steps, one.records) == (1, 1)
    found = catalogue.find("closed-form").invert(one, aim(1)).images
    assert max(psnr(found[0], record) for record in x) > 100
    assert seen(task, 3, batch_size=5, local_steps=1).records == 5
    assert seen(task, 3, batch_size=8, local_epochs=5, local_steps=3).steps == 3
    assert seen(task, 3, batch_size=8, local_epochs=2, local_steps=3).steps == 2


def test_what_cannot_be_inverted_says_why() -> None:
    task = device(8, 2)
    with pytest.raises(ConfigError, match="did you mean"):
        catalogue.find("closed_form")
    with pytest.raises(ConfigError, match="hold no gradient"):
        observe("frl", None, None, task.schema)
    with pytest.raises(ConfigError, match="2 local steps"):
        seen(task, 8, batch_size=1).gradient()
    with pytest.raises(ConfigError, match="ReLU; this attack needs"):
        catalogue.find("dlg").invert(seen(task, 8), aim(2))
    other = Observed(Schema((Tensor("a", (2, 2)), Tensor("b", (2,)))), np.zeros(6), np.zeros(6), 0.1)
    with pytest.raises(ConfigError, match="not the one that was trained"):
        catalogue.find("cosine").invert(other, aim(1))
    with pytest.raises(ConfigError, match="second linear layer"):
        bins.craft(np.zeros(6, np.float32), other.schema, np.ones((3, 2)))
