"""Every method by name. Loads only the half asked for: a device never imports a server half, nor the other way round."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import numpy as np

from edgehold.core.config import suggest
from edgehold.core.contract import ClientSide, Codec, Masked, Method, ServerSide
from edgehold.core.errors import ConfigError
from edgehold.core.task import Task
from edgehold.core.vectors import FloatArray, Schema

METHODS: Mapping[str, str] = {
    "bristle": "edgehold.defenses.bristle",
    "dp_ef_sgd": "edgehold.defenses.dp_ef_sgd",
    "dp_fedavg": "edgehold.defenses.baselines.dp_fedavg",
    "dp_sgd": "edgehold.defenses.baselines.dp_sgd",
    "fedavg": "edgehold.defenses.baselines.fedavg",
    "fedpca": "edgehold.defenses.fedpca",
    "floral": "edgehold.defenses.floral",
    "frl": "edgehold.defenses.frl",
    "hidenseek": "edgehold.defenses.hidenseek",
    "hyperfl": "edgehold.defenses.hyperfl",
    "noise_robust_admm": "edgehold.defenses.noise_robust_admm",
}
"""Name in a plan -> package that holds its record `METHOD`."""


def names() -> list[str]:
    """Names of all methods, in ascending order."""
    return sorted(METHODS)


def method(name: str) -> Method:
    """The record of a method; `ConfigError` with the nearest name for an unknown one."""
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}{suggest(name, names())}", field="method.name")
    return cast(Method, import_module(METHODS[name]).METHOD)


def client_side(name: str) -> ClientSide[Any, Any, Any]:
    """The device half."""
    return cast(ClientSide[Any, Any, Any], _module(name, "client").client_side())


def server_side(name: str, settings: Any, schema: Schema, seed: int) -> ServerSide[Any, Any, Any]:
    """The server half. settings: of the method's own type; seed: the plan's `run.seed`, which every order carries."""
    return cast(ServerSide[Any, Any, Any], _module(name, "server").server_side(settings, schema, seed))


def codec(name: str, settings: Any = None) -> Codec[Any, Any]:
    """The codec. settings: the plan's on the server; None on a device, which knows no plan and decodes orders only."""
    return cast(Codec[Any, Any], _module(name, "codec").codec(settings))


def masked(name: str) -> Masked:
    """How updates of the method are summed under masks; `ConfigError` for one whose updates never are."""
    try:
        return cast(Masked, _module(name, "masked"))
    except ModuleNotFoundError:
        raise ConfigError(f"updates of method {name!r} cannot be summed under masks", field="privacy.masked") from None


def first_weights(name: str, settings: Any, task: Task, seed: int) -> FloatArray:
    """Weights that a run starts with, (schema.size,) float32: the method's own, where it makes some, else the task's."""
    if method(name).first_weights:
        return np.asarray(_module(name, "initial").initial(task, settings, seed), dtype="<f4")
    return np.asarray(task.initial(seed), dtype="<f4")


VOTED = ("frl", "hidenseek")
"""Methods whose model is a vote on weights that a seed draws: they have a module `vote`."""


def vote(name: str) -> Any:
    """How a vote on a method's weights becomes weights again: a module with `draw` and `left` (`edgehold.core.vote_file`).

    `ConfigError` for a method whose model is more than a vote.
    """
    if name not in VOTED:
        raise ConfigError(
            f"method {name!r} trains weights, and a vote file holds none; hand its model over as onnx (votes: "
            f"{', '.join(VOTED)})",
            field="format",
        )
    return _module(name, "vote")


def accounts(name: str) -> Any:
    """What a private method costs and how much noise it takes: a module with `noise_for` and `epsilon_after`.

    `ConfigError` for a method that adds no noise.
    """
    if not method(name).needs(None).charges:
        private = ", ".join(one for one in names() if method(one).needs(None).charges)
        raise ConfigError(
            f"method {name!r} adds no noise, so that nothing is charged; private ones: {private}", field="method.name"
        )
    try:
        return _module(name, "accounts")
    except ModuleNotFoundError:
        raise ConfigError(f"method {name!r} cannot say beforehand how much noise a budget takes", field="method.name") from None


def _module(name: str, half: str) -> Any:
    return import_module(f"{method(name).package}.{half}")
