"""Reference models: exact sizes, no hidden state, and oracles for what is written out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgehold.client.models import MODELS, make_model, parameters
from edgehold.core.errors import ConfigError
from edgehold.core.task import LocalTraining
from edgehold.core.torch_task import TorchTask

IMAGE, COLOUR = (1, 28, 28), (3, 32, 32)

SIZES = [
    ("logistic", (64,), 10, {}, 64 * 10 + 10, 64 * 10),
    ("mlp", (64,), 10, {}, 64 * 64 + 64 + 64 * 10 + 10, 64 * 64 + 64 * 10),
    ("mlp", IMAGE, 10, {"hidden": [200, 200]}, 784 * 200 + 200 + 200 * 200 + 200 + 2010, 784 * 200 + 200 * 200 + 2000),
    ("lenet", IMAGE, 10, {}, 1_625_866, 1_625_632),
    ("small-cnn", IMAGE, 10, {}, 26_010, 25_920),
    ("small-cnn", COLOUR, 10, {}, 37_274, 37_184),
    ("conv8", COLOUR, 10, {}, 5_278_282, 5_275_840),
    ("resnet", COLOUR, 10, {}, 77_850, 77_360),
    ("resnet", COLOUR, 10, {"blocks": 3}, 272_282, 270_896),
    ("char-gru", (80,), 65, {}, 61_897, 61_064),
    ("bag-of-words", (256,), 2, {}, 8192 * 32 + 32 * 2 + 2, 8192 * 32 + 32 * 2),
]


def _records(shape: tuple[int, ...], name: str, count: int = 3) -> torch.Tensor:
    symbols = {"char-gru": 65, "bag-of-words": 8192}.get(name)
    generator = torch.Generator().manual_seed(0)
    if symbols:
        return torch.randint(0, symbols, (count, *shape), generator=generator)
    return torch.rand((count, *shape), generator=generator)


@pytest.mark.parametrize(("name", "shape", "outputs", "options", "biased", "bare"), SIZES)
def test_size_outputs_and_no_state(
    name: str, shape: tuple[int, ...], outputs: int, options: dict[str, Any], biased: int, bare: int
) -> None:
    for bias, size in ((True, biased), (False, bare)):
        model = make_model(name, shape, outputs, bias=bias, **options)
        assert parameters(model) == size
        assert not list(model.buffers())
        assert any("bias" in key for key in model.state_dict()) == bias
        scores = model(_records(shape, name))
        assert scores.shape == ((3, *shape, outputs) if name == "char-gru" else (3, outputs))
        assert torch.isfinite(scores).all()


def test_every_model_has_a_size_here() -> None:
    assert {row[0] for row in SIZES} == set(MODELS)


@pytest.mark.parametrize("name", ["lenet", "small-cnn", "resnet", "char-gru", "bag-of-words"])
def test_a_record_alone_scores_as_in_a_batch_and_has_its_own_gradient(name: str) -> None:
    shape, outputs = {"char-gru": ((9,), 65), "bag-of-words": ((9,), 2)}.get(name, ((3, 16, 16), 10))
    model: Any = make_model(name, shape, outputs)
    records = _records(shape, name)
    together = model(records)
    assert torch.allclose(together[1:2], model(records[1:2]), atol=1e-5)
    values = {key: value.detach() for key, value in model.named_parameters()}

    def score(weights: dict[str, torch.Tensor], record: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(model, weights, (record[None],)).square().mean()
        return found

    each = torch.func.vmap(torch.func.grad(score), in_dims=(None, 0))(values, records)
    alone = torch.func.grad(score)(values, records[2])
    assert all(torch.allclose(each[key][2], alone[key], atol=1e-5) for key in values)


def test_the_gru_is_the_gru() -> None:
    model: Any = make_model("char-gru", (9,), 11, embedding=5, hidden=7)
    oracle: Any = nn.GRU(5, 7, batch_first=True)
    with torch.no_grad():
        oracle.weight_ih_l0.copy_(model.inward.weight)
        oracle.weight_hh_l0.copy_(model.across.weight)
        oracle.bias_ih_l0.copy_(model.inward.bias)
        oracle.bias_hh_l0.copy_(model.across.bias)
    x = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(model(x), model.outward(oracle(model.embedding(x))[0]), atol=1e-6)


def test_bag_of_words_ignores_order_and_the_end() -> None:
    model = make_model("bag-of-words", (4,), 2, buckets=50)
    one, other = torch.tensor([[3, 7, 0, 0]]), torch.tensor([[0, 7, 0, 3]])
    assert torch.allclose(model(one), model(other))
    assert torch.allclose(model(one), model(one[:, :2]))
    assert not torch.allclose(model(one), model(torch.tensor([[3, 3, 0, 0]])))
    assert torch.isfinite(model(torch.zeros(1, 4, dtype=torch.int64))).all()


@pytest.mark.parametrize("name", ["small-cnn", "resnet", "char-gru", "bag-of-words"])
def test_a_task_fits_a_handful_of_records(name: str) -> None:
    shape, outputs = {"small-cnn": ((1, 16, 16), 3), "resnet": ((3, 8, 8), 3), "char-gru": ((5,), 4)}.get(name, ((6,), 3))
    options = {"char-gru": {"hidden": 16}, "bag-of-words": {"buckets": 30}, "resnet": {"width": 8}}.get(name, {})
    generator = torch.Generator().manual_seed(0)
    if name == "char-gru":
        x = torch.randint(0, 4, (8, 5), generator=generator)
        y = x.roll(-1, 1)
    else:
        words = name == "bag-of-words"
        x = torch.randint(1, 30, (8, 6), generator=generator) if words else torch.rand((8, *shape), generator=generator)
        y = torch.arange(8) % 3

    def loss(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(scores.reshape(-1, outputs), targets.flatten())

    task = TorchTask(lambda: make_model(name, shape, outputs, **options), (x, y), (x, y), loss)
    start = task.initial(0)
    how = LocalTraining(epochs=150, batch_size=8, learning_rate=0.5 if len(shape) == 1 else 0.1, momentum=0.9)
    trained = task.train(start, how, np.random.default_rng(0))
    assert task.evaluate(trained)["loss"] < 0.5 * task.evaluate(start)["loss"]


def test_wrong_requests_are_named() -> None:
    with pytest.raises(ConfigError, match="model = 'lennet'; did you mean \"lenet\""):
        make_model("lennet", IMAGE, 10)
    with pytest.raises(ConfigError, match="model 'mlp' does not take these options: .*depth"):
        make_model("mlp", (4,), 2, depth=3)
    with pytest.raises(ConfigError, match=r"takes images \(channels, height, width\) of at least 16 x 16"):
        make_model("conv8", (3, 8, 8), 10)
    with pytest.raises(ConfigError, match="takes images"):
        make_model("lenet", (784,), 10)
    with pytest.raises(ConfigError, match="takes texts"):
        make_model("char-gru", (1, 28, 28), 10)
    with pytest.raises(ConfigError, match="groups a divisor of width"):
        make_model("resnet", COLOUR, 10, width=12)
    with pytest.raises(ConfigError, match=r"hidden = \[0\]"):
        make_model("mlp", (4,), 2, hidden=[0])
