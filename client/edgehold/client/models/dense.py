"""Models of rows of numbers."""

from collections.abc import Sequence
from math import prod

from torch import nn

from edgehold.core.errors import ConfigError


def logistic(shape: tuple[int, ...], outputs: int, bias: bool = True, zeros: bool = False) -> nn.Sequential:
    """One linear layer; with one output, linear regression. zeros: all weights start at 0, as convex problems may."""
    model = mlp(shape, outputs, (), bias)
    if zeros:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    return model


def mlp(shape: tuple[int, ...], outputs: int, hidden: Sequence[int] = (64,), bias: bool = True) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between; records of more than one axis are laid out flat first."""
    if any(width < 1 for width in hidden):
        raise ConfigError(f"hidden = {list(hidden)}; every width must be at least 1", field="hidden")
    layers: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
    width = prod(shape)
    for wide in hidden:
        layers += [nn.Linear(width, wide, bias=bias), nn.ReLU()]
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, outputs, bias=bias))
