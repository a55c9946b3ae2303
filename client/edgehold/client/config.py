"""What the device brings, in `client.toml`: its tasks by name, and how it transfers and logs.

```toml
[tasks.digits]
task = "edgehold.client.data.digits:make_task"     # package.module:function, called once with the options
options = { part = 3, parts = 10 }
dataset = "patients"                               # whose privacy budget it spends; left out: the task's own name

[transfer]                                         # every key may be left out
stall_s = 20.0

[peers]                                            # left out: peers are read through the server, and do not read here
listen = "0.0.0.0:7443"
advertise = "ward-3.example.org:7443"

[log]
format = "json"
level = "info"
```

Nothing in this file is ever set by the server: a task's name is all that travels.
"""

import importlib
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgehold.core.config import Config, convert, read_toml
from edgehold.core.errors import ConfigError
from edgehold.core.plan import Name, Positive

ADDRESS = re.compile(r"(.+):[0-9]{1,5}")


class TaskTable(Config, frozen=True, kw_only=True):
    """[tasks.NAME]: the function that makes the device's `Task`, and its keyword arguments.

    dataset: name of the data behind it, under which the policy keeps a privacy budget; by default the task's own name.
    """

    task: str
    dataset: Name | None = None
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class AdversaryTable(Config, frozen=True, kw_only=True):
    """[adversary]: red teams only. A factory of a `core.contract.Adversary` that wraps the honest client half."""

    entry: str
    options: dict[str, Any] = msgspec.field(default_factory=dict)


class TransferTable(Config, frozen=True, kw_only=True):
    """[transfer]: progress deadlines.

    stall_s: a transfer that moves nothing for so long is given up and resumed.
    receipt_s: how long the server may take over the receipt once it has every byte.
    """

    stall_s: Positive = 20.0
    receipt_s: Positive = 120.0


class LogTable(Config, frozen=True, kw_only=True):
    """[log]"""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class PeersTable(Config, frozen=True, kw_only=True):
    """[peers]: whether this device reads its peers' updates from them directly, and lets them read its own.

    Without the table it does neither and reads through the server. listen: host:port to be read at; left out: it only reads.
    advertise: host:port at which peers reach it; left out: as in `listen`. patience_s: how long it waits for senders that
    cannot be reached, where the plan has nobody else to ask.
    """

    listen: str | None = None
    advertise: str | None = None
    patience_s: Positive = 10.0


class ClientConfig(Config, frozen=True, kw_only=True):
    """A whole client.toml."""

    tasks: dict[Name, TaskTable] = msgspec.field(default_factory=dict)
    adversary: AdversaryTable | None = None
    transfer: TransferTable = TransferTable()
    peers: PeersTable | None = None
    log: LogTable = LogTable()


class Home:
    """The folder of one client and the places in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "client.toml"
        self.policy = folder / "policy.toml"
        self.identity = folder / "identity"
        self.keep = folder / "keep.db"
        self.ledger = folder / "ledger.db"
        self.outbox = folder / "outbox"
        self.deployed = folder / "deployed"
        self.lock = folder / "lock"


def load_config(path: Path) -> ClientConfig:
    """The file as a `ClientConfig`; `ConfigError` names the key to mend."""
    data = read_toml(path)
    if isinstance(tasks := data.get("tasks"), dict):
        for name, table in tasks.items():
            convert(table, TaskTable, str(path), f"tasks.{name}")  # first alone, so that an error names the task
    config = convert(data, ClientConfig, str(path))
    for key in ("listen", "advertise"):
        address = getattr(config.peers, key, None)
        # Port 0 is any port to listen on, and no port to be found at.
        if address is not None and not ADDRESS.fullmatch(address):
            raise ConfigError(f"{path}: peers.{key} = {address!r}; expected host:port", field=f"peers.{key}")
    return config


def resolve(entry: str, field: str) -> Any:
    """The function behind "package.module:function"; `ConfigError` (about the key `field`) when there is none."""
    module_name, _, name = entry.partition(":")
    if not module_name or not name.isidentifier():
        raise ConfigError(f'{field} = {entry!r}; expected "package.module:function"', field=field)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise ConfigError(f"{field} = {entry!r} cannot be imported: {error}", field=field) from error
    except AttributeError:
        raise ConfigError(f"{field} = {entry!r}: module {module_name} has no {name}", field=field) from None
    return found


def call(entry: str, options: dict[str, Any], field: str) -> Any:
    """What the function behind `entry` returns for `options`; `ConfigError` when it does not take them."""
    function = resolve(entry, field)
    try:
        return function(**options)
    except TypeError as error:
        raise ConfigError(f"{field} = {entry!r} does not take these options: {error}", field=field) from error


TEMPLATE = """\
# What this device brings. The server names a task; the code and the data behind the name are yours.
#
# [tasks.digits]
# task = "edgehold.client.data.digits:make_task"
# options = { }
# dataset = "patients"          # whose privacy budget in policy.toml it spends; left out: the task's own name
#
# [peers]                         # read peers directly, and let them read this device's updates (docs/peers.md)
# listen = "0.0.0.0:7443"
# advertise = "ward-3.example.org:7443"
#
# [log]
# format = "json"
"""
