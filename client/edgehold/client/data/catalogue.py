"""Every data set by name, with what suits it; nothing here imports PyTorch."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgehold.client.data import cifar, custom, images, intrusion, moon, people, sensors, text
from edgehold.client.data.dataset import Split
from edgehold.client.data.names import one_of
from edgehold.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Entry:
    """load: (path, *, seed, verify, ...) -> `Split`. model: the usual one. scale: "none", "standard" or "log".

    skewed: some classes are rare, so accuracy alone says little. official: split into training and test part by its makers, so
    that every seed loads the same.
    """

    load: Callable[..., Split]
    model: str
    scale: str = "none"
    skewed: bool = False
    official: bool = False


DATASETS: dict[str, Entry] = {
    "digits": Entry(images.digits, "mlp"),
    "moon": Entry(moon.moon, "mlp"),
    "mnist": Entry(images.mnist, "small-cnn", official=True),
    "fashion-mnist": Entry(images.fashion_mnist, "small-cnn", official=True),
    "cifar10": Entry(cifar.cifar10, "resnet", official=True),
    "unsw-nb15": Entry(intrusion.unsw_nb15, "mlp", "log", skewed=True),
    "nsl-kdd": Entry(intrusion.nsl_kdd, "mlp", "log", skewed=True),
    "iot-ids": Entry(intrusion.iot_ids, "mlp", "log", skewed=True),
    "ton-iot": Entry(intrusion.ton_iot, "mlp", "log", skewed=True),
    "adult": Entry(people.adult, "logistic", "log", skewed=True),
    "heart-disease": Entry(people.heart_disease, "logistic", "standard"),
    "wisdm": Entry(sensors.wisdm, "mlp", "standard", skewed=True),
    "smartwatch": Entry(sensors.smartwatch, "mlp"),
    "beijing-air": Entry(sensors.beijing_air, "mlp", "standard"),
    "shakespeare": Entry(text.shakespeare, "char-gru"),
    "imdb": Entry(text.imdb, "bag-of-words"),
    "table": Entry(custom.table, "mlp", "standard"),
}


def load(dataset: str, path: str = "", seed: int = 0, verify: bool = True, data: Mapping[str, Any] | None = None) -> Split:
    """A data set by name. data: the loader's own options; `ConfigError` lists them when one is unknown.

    seed: of the split into training and test part, where the data set has none of its own.
    """
    entry = DATASETS[one_of("dataset", dataset, DATASETS)]
    options = dict(data or {})
    known = list(inspect.signature(entry.load).parameters)
    for name in options:
        one_of(f"data of {dataset}: option", name, [n for n in known if n not in ("path", "seed", "verify")])
    try:
        return entry.load(path, seed=seed, verify=verify, **options)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ConfigError(f"data of {dataset}: {error}", field="data") from None
