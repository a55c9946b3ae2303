"""A data set that is loaded, checked and dealt once per process, for processes that play many devices."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from edgehold.client.data.catalogue import DATASETS, load
from edgehold.client.data.dataset import Split
from edgehold.client.data.deal import Deal, deal
from edgehold.core.errors import ConfigError

_OPTIONS = ("partition", "alpha", "shards", "min_records", "scale", "seed", "verify", "data")


def deal_once(dataset: str, path: str, devices: int, how: Mapping[str, Any]) -> Deal:
    """How: further arguments of `edgehold.client.data.deal:deal` that may be given here; `ConfigError` names another one."""
    if unknown := sorted(set(how) - set(_OPTIONS)):
        raise ConfigError(f"unknown option {unknown[0]!r}; allowed: {', '.join(_OPTIONS)}", field=unknown[0])
    return _kept(dataset, path, devices, json.dumps(how, sort_keys=True))


@lru_cache(maxsize=4)
def _kept(dataset: str, path: str, devices: int, how: str) -> Deal:
    return deal(dataset, path, devices=devices, source=_loaded, **json.loads(how))


def _loaded(dataset: str, path: str, seed: int, verify: bool, data: Mapping[str, Any] | None) -> Split:
    if dataset in DATASETS and DATASETS[dataset].official:
        return _official(dataset, path, verify, json.dumps(dict(data or {}), sort_keys=True))
    return load(dataset, path, seed, verify, data)


@lru_cache(maxsize=2)
def _official(dataset: str, path: str, verify: bool, data: str) -> Split:
    return load(dataset, path, 0, verify, json.loads(data))
