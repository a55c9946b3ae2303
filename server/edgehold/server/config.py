"""server.toml: what this server is, where it listens, what it keeps."""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgehold.core.config import Config, convert, read_toml
from edgehold.core.plan import Count, Name


class ServerTable(Config, frozen=True, kw_only=True):
    """[server]: addresses are host:port; port 0 takes a free one. advertise_host: what bundles tell devices to call.

    enrolment: "here" hosts the enrolment listeners in this process; "apart" leaves them, and the enrolment key, to
    `fl-server enrolment`, which may run as another user on another host. ca: folder of the certificate authority (of its
    `roots` alone where enrolment is apart), relative to the home.
    """

    federation: Name
    name: Name = "server"
    enrolment: Literal["here", "apart"] = "here"
    ca: str = "ca"
    listen: str = "127.0.0.1:8470"
    enrol_listen: str = "127.0.0.1:8471"
    renew_listen: str = "127.0.0.1:8472"
    metrics_listen: str = "127.0.0.1:8473"
    status_page: bool = False
    advertise_host: str = "127.0.0.1"
    host_names: tuple[str, ...] = ("localhost", "127.0.0.1")


class StoreTable(Config, frozen=True, kw_only=True):
    """[store]: keep_models: committed rounds per run whose model stays on disk; keys_folder: memory-backed storage."""

    keep_models: Annotated[int, msgspec.Meta(ge=2)] = 3
    keys_folder: str = "/dev/shm"
    min_free_share: Annotated[float, msgspec.Meta(ge=0.0, le=0.9)] = 0.15


class AggregationTable(Config, frozen=True, kw_only=True):
    """[aggregation]: ray: address of a Ray cluster that works on blocks of the updates, whose nodes see this home folder in the
    same place and get the keys of the round's updates; empty: this machine alone.
    """

    ray: str = ""


class LimitsTable(Config, frozen=True, kw_only=True):
    """[limits]: clients: how many this server is sized for; twice as many connections are taken."""

    clients: Annotated[int, msgspec.Meta(ge=1)] = 4096
    max_payload_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1 << 30
    calls_per_second: Annotated[float, msgspec.Meta(gt=0)] = 200.0
    progress_window_s: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    certificate_life_s: Annotated[float, msgspec.Meta(ge=1)] = 86400.0


class TaskEntry(Config, frozen=True, kw_only=True):
    """[tasks.NAME]: the server's own copy of a task, for initial weights and scores."""

    task: str
    options: dict[str, Any] = {}


class BudgetTable(Config, frozen=True, kw_only=True):
    """[budgets.TASK]: the most that models of all runs on a task may ever tell about one device, for methods whose noise the
    server adds.
    """

    max_epsilon: Annotated[float, msgspec.Meta(gt=0, le=1000)]
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 1e-5


class ServerConfig(Config, frozen=True, kw_only=True):
    """A whole server.toml."""

    server: ServerTable
    store: StoreTable = StoreTable()
    limits: LimitsTable = LimitsTable()
    aggregation: AggregationTable = AggregationTable()
    tasks: dict[str, TaskEntry] = {}
    budgets: dict[Name, BudgetTable] = {}
    record: dict[Name, tuple[Count, ...]] = {}
    """[record]: run -> rounds whose order and admitted updates are kept unsealed in transcripts/RUN.sqlite, for an audit of
    what they give away (`fl-eval invert`). Off by default; refused for runs that ask for masks.
    """

    def ca_folder(self, home: Path) -> Path:
        """Folder of the certificate authority."""
        return home / self.server.ca

    def addresses(self) -> dict[str, str]:
        """What devices call, by listener, as far as the configuration says (a port may be 0)."""
        listeners = {"server": self.server.listen, "enrol": self.server.enrol_listen, "renew": self.server.renew_listen}
        return {key: f"{self.server.advertise_host}:{address.rpartition(':')[2]}" for key, address in listeners.items()}


def load(home: Path) -> ServerConfig:
    """The configuration of a server's home folder."""
    path = home / "server.toml"
    return convert(read_toml(path), ServerConfig, str(path))


def keys_folder(config: ServerConfig, home: Path) -> Path:
    """Folder of the round keys of this store, apart from those of any other store or user."""
    store = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]
    return Path(config.store.keys_folder) / f"edgehold-{os.getuid()}-{store}"
