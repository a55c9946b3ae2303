"""Reading a record from an update: it must succeed where nothing protects, and fail under noise, or no defeat counts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgehold.attacks.eval.data import make_task
from edgehold.attacks.inversion import analytic, hypernetwork
from edgehold.attacks.inversion.analytic import Verdict, input_of, judge
from edgehold.core.contract import Cohort
from edgehold.core.errors import ConfigError
from edgehold.core.hyper import code, generated
from edgehold.core.rng import stream
from edgehold.core.torch_task import TorchTask
from edgehold.core.vectors import Array, Schema, Tensor, Vector
from edgehold.defenses import registry
from edgehold.defenses.hyperfl.client import HyperFLClient
from edgehold.defenses.hyperfl.state import Settings, layout_of

NET: dict[str, Any] = {"hidden": [48, 24]}
SMALL: dict[str, Any] = {"embedding": 8, "hidden": 16, "local_epochs": 1, "weight_decay": 5e-4, "momentum": 0.5}
EVERYTHING = make_task("digits", -1, 1, model="mlp", net=NET)


def one_record(seed: int) -> tuple[TorchTask, Array]:
    task = make_task("digits", seed, 20, limit=1, model="mlp", net=NET)
    assert task.train_data is not None
    assert task.samples == 1
    return task, np.asarray(task.train_data[0]).reshape(-1)


def data() -> Array:
    assert EVERYTHING.test_data is not None
    return np.asarray(EVERYTHING.test_data[0])


def sent(method: str, settings: Any, task: TorchTask, seed: int) -> tuple[Any, Any, Any]:
    """Order, update, and the local state before it."""
    server = registry.server_side(method, settings, task.schema, seed)
    order = server.open(server.start(Vector.of(task.initial(seed))), Cohort(1, ("c",)))
    client = HyperFLClient(draw=lambda: b"test") if method == "hyperfl" else registry.client_side(method)
    rng = stream(seed, "client")
    local = client.begin(order, task, rng)
    return order, client.work(order, local, task, rng)[1], local


def noisy(update: Any, multiplier: float, seed: int) -> Any:
    """Gaussian noise as differential privacy would add it: `multiplier` times the norm that one update may have."""
    delta = update.delta.whole()
    noise = stream(seed, "noise").standard_normal(len(delta)) * multiplier * float(np.linalg.norm(delta))
    return replace(update, delta=Vector.of((delta + noise).astype(np.float32)))


ATTACKS: list[tuple[str, Any, Any]] = [
    ("hyperfl", Settings(**SMALL), hypernetwork.invert),
    ("hyperfl", Settings(**SMALL, rank=4), hypernetwork.invert),
    ("fedavg", registry.method("fedavg").settings(learning_rate=0.1, weight_decay=1e-3, momentum=0.5), analytic.invert),
]


@pytest.mark.parametrize(("method", "settings", "attack"), ATTACKS)
@pytest.mark.parametrize("seed", range(5))
def test_a_record_is_read_exactly_and_not_under_noise(method: str, settings: Any, attack: Any, seed: int) -> None:
    task, record = one_record(seed)
    order, update, _ = sent(method, settings, task, seed)
    verdict = judge(attack(order, update, task.schema), record, data())
    assert verdict.exact, verdict
    assert not verdict.failed
    for multiplier in (0.1, 1.0):
        hidden = judge(attack(order, noisy(update, multiplier, seed), task.schema), record, data())
        assert hidden.failed, (multiplier, hidden)
        assert not hidden.exact


@pytest.mark.parametrize("seed", range(5))
def test_a_record_is_not_read_from_private_methods(seed: int) -> None:
    """With the product's own noise, at epsilon 8 for the round; the same readings succeed without it (above)."""
    task, record = one_record(seed)
    private = Settings(**SMALL, noise_multiplier=1.21)
    order, update, _ = sent("hyperfl", private, task, seed)
    assert judge(hypernetwork.invert(order, update, task.schema), record, data()).failed
    how = registry.method("dp_sgd").settings(
        clip=1.0, noise_multiplier=0.61, sampling="bins", bins=1, batch_size=1, learning_rate=0.1
    )
    order, update, _ = sent("dp_sgd", how, task, seed)
    plain = registry.method("fedavg").settings(learning_rate=0.1)
    asked = sent("fedavg", plain, task, seed)[0]
    assert judge(analytic.invert(asked, update, task.schema), record, data()).failed
    loud = registry.method("dp_sgd").settings(
        clip=1e3, noise_multiplier=1e-9, sampling="bins", bins=1, batch_size=1, learning_rate=0.1
    )
    order, update, _ = sent("dp_sgd", loud, task, seed)
    assert judge(analytic.invert(asked, update, task.schema), record, data()).exact, "control: it is the noise that hides"


@pytest.mark.parametrize("rank", [0, 4])
def test_gradient_code_and_weights_of_the_extractor_are_read(rank: int) -> None:
    task, _ = one_record(3)
    order, update, local = sent("hyperfl", Settings(**SMALL, rank=rank), task, 3)
    found = hypernetwork.read(order, update, task.schema)
    layout = layout_of(task.schema, order.training)
    z = code(layout, order.phi, local.v)
    theta = np.concatenate(list(generated(layout, order.phi, z)))
    assert np.allclose(found.z, z, rtol=0, atol=1e-4 * z.max())
    assert np.allclose(found.theta, theta, rtol=0, atol=1e-4)
    assert float(np.abs(theta).max()) > 0.1, "control: the weights are far from 0"


def test_several_epochs_expose_what_fedavg_exposes() -> None:
    """The input of the first layer is still read from a path of steps over one record."""
    task, record = one_record(4)
    order, update, _ = sent("hyperfl", Settings(**{**SMALL, "local_epochs": 5, "weight_decay": 0.0}), task, 4)
    assert judge(hypernetwork.invert(order, update, task.schema), record, data()).exact


def test_an_input_by_hand() -> None:
    # dL/db = (1, -2), x = (3, 4): dL/dW = ((3, 4), (-6, -8)).
    assert input_of(np.array([[3.0, 4.0], [-6.0, -8.0]]), np.array([1.0, -2.0])).tolist() == [3.0, 4.0]
    assert np.isnan(input_of(np.zeros((2, 2)), np.zeros(2))).all()
    # Records 0 and 2: mean 1, variance 1. Reading (1, 1) for (2, 2) is an error of 1; nothing at all is a defeat too.
    assert judge(np.ones(2), np.full(2, 2.0), np.array([[0.0, 0.0], [2.0, 2.0]])) == Verdict(1.0, 1.0)
    assert Verdict(float("nan"), 1.0).failed


def test_a_model_that_begins_otherwise_is_refused() -> None:
    schema = Schema((Tensor("a.weight", (2, 3, 3, 3)), Tensor("a.bias", (2,)), Tensor("b.weight", (2, 2))))
    with pytest.raises(ConfigError, match="a linear layer with bias is needed"):
        analytic.first_layer(schema.tensors)
