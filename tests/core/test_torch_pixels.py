"""Images laid out pixel by pixel: the same numbers, and only where no layer can tell."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgehold.client.models import vision
from edgehold.core.task import LocalTraining
from edgehold.core.torch_pixels import as_it_lies, by_pixel, layout_for
from edgehold.core.torch_task import TorchTask


@pytest.mark.parametrize("shape", [(5, 1, 4, 3), (5, 3, 4, 2), (2, 1, 1, 1)])
def test_nothing_but_the_order_in_memory_changes(shape: tuple[int, ...]) -> None:
    images = torch.arange(float(np.prod(shape))).reshape(shape)
    turned = by_pixel(images)
    assert torch.equal(turned, images)
    _, channels, _, width = shape
    assert turned.stride()[1:] == (1, width * channels, channels)
    if channels == 1:  # lies the same either way, so that nothing is copied
        assert turned.data_ptr() == images.data_ptr()


def test_other_records_stay_as_they_are() -> None:
    table = torch.ones(3, 7)
    assert by_pixel(table) is table


class Viewing(nn.Module):
    """Somebody's own layer, which wants its input in one piece."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


class Own(nn.Sequential):
    """Somebody's own chain."""


def pooled(last: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), last, nn.Linear(2 * 3 * 3, 4)]


def test_only_a_narrow_chain_of_known_layers_with_a_pool_is_laid_out_anew() -> None:
    assert layout_for(nn.Sequential(*pooled(nn.Flatten())), "cpu") is by_pixel
    for model in (vision.lenet, vision.small_cnn):
        assert layout_for(model((1, 28, 28), 10), "cpu") is by_pixel
    assert layout_for(vision.conv8((1, 28, 28), 10), "cpu") is as_it_lies
    assert layout_for(nn.Sequential(*pooled(nn.Flatten())), "cuda") is as_it_lies
    assert layout_for(nn.Sequential(*pooled(Viewing())), "cpu") is as_it_lies
    assert layout_for(nn.Sequential(nn.Sequential(*pooled(Viewing()))), "cpu") is as_it_lies
    assert layout_for(Own(*pooled(nn.Flatten())), "cpu") is as_it_lies
    assert layout_for(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4)), "cpu") is as_it_lies
    assert layout_for(vision.resnet((3, 8, 8), 4), "cpu") is as_it_lies


def task_of(model: Callable[[], nn.Module], channels: int) -> TorchTask:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(12, channels, 8, 8)).astype(np.float32)
    y = rng.integers(0, 4, 12)
    return TorchTask(model, (x, y), (x[:5], y[:5]), nn.functional.cross_entropy)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_learns_the_same(channels: int) -> None:
    def layers(last: nn.Module) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 2), nn.ReLU(), nn.MaxPool2d(2, 1), last,
            nn.Linear(6, 4),
        )  # fmt: skip

    class Plain(nn.Flatten):
        """As torch's own, under a name nobody knows."""

    ours, other = task_of(lambda: layers(nn.Flatten()), channels), task_of(lambda: layers(Plain()), channels)
    assert (ours._layout, other._layout) == (by_pixel, as_it_lies)
    start = ours.initial(1)
    how = LocalTraining(epochs=3, batch_size=5, learning_rate=0.3, momentum=0.5)
    got, want = (task.train(start, how, np.random.default_rng(7)) for task in (ours, other))
    assert np.abs(want - start).max() > 0.01
    assert np.allclose(got, want, rtol=0, atol=1e-5)
    assert ours.evaluate(want) == pytest.approx(other.evaluate(want), abs=1e-5)
