"""A data set that is loaded, checked and dealt once per process, for processes that play many devices."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

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
    return deal(dataset, path, devices=devices, **json.loads(how))
