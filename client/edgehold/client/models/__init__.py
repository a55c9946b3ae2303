"""Reference models by name: parameters only, so that averaging two models of one kind is a model of that kind.

Group normalisation stands where batch normalisation is usual: running statistics are no parameters and differ per device.
`bias=False` leaves out every bias and every affine weight of a normalisation, for methods that train masks or signs.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from edgehold.client.models import dense, text, vision
from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError

MODELS: dict[str, Callable[..., nn.Module]] = {
    "logistic": dense.logistic,
    "mlp": dense.mlp,
    "lenet": vision.lenet,
    "small-cnn": vision.small_cnn,
    "conv8": vision.conv8,
    "resnet": vision.resnet,
    "char-gru": text.char_gru,
    "bag-of-words": text.bag_of_words,
}


def make_model(name: str, shape: Sequence[int], outputs: int, **options: Any) -> nn.Module:
    """A fresh model. shape: of one record, without the batch; outputs: numbers per record (or per place in a text)."""
    if name not in MODELS:
        raise ConfigError(f"model = {name!r}{suggest(name, list(MODELS))}", field="model")
    try:
        return MODELS[name](tuple(shape), outputs, **options)
    except TypeError as error:
        raise ConfigError(f"model {name!r} does not take these options: {error}", field="net") from None


def parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in model.parameters())
