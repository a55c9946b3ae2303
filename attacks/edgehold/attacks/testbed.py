"""A federation of real processes on this machine: what demo, benchmarks and network tests drive.

    with Federation(folder, tasks={"digits": (ENTRY, {"device_index": -1, "devices": 8})}) as bed:
        bed.start_server()
        for i in range(8):
            bed.add_client(f"dev-{i}", tasks={"digits": (ENTRY, {"device_index": i, "devices": 8})})
            bed.start_client(f"dev-{i}")
        info = bed.run(plan_text)

Every process is a child of ours, listens on loopback at a free port, and ends with the bed.
"""

import asyncio
import contextlib
import json
import math
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edgehold.client import enrol
from edgehold.core.keys import decode_bundle
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server.desk import operator, setup

T = TypeVar("T")
Tasks = Mapping[str, tuple[str, Mapping[str, Any]]]

READY_S = 30.0
STOP_S = 15.0


def eventually(condition: Callable[[], T], timeout_s: float = 30.0, what: str = "") -> T:
    """The first true value of `condition`; `TimeoutError` names `what` when there is none in time."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what or condition} did not come true in {timeout_s:g} s")
        time.sleep(0.01)
    return value


def toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Flat tables as TOML text."""

    def value(item: Any) -> str:
        if isinstance(item, Mapping):
            return "{ " + ", ".join(f"{key} = {value(one)}" for key, one in item.items()) + " }"
        if isinstance(item, float) and math.isinf(item):
            return "inf" if item > 0 else "-inf"
        return json.dumps(item)

    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {value(item)}\n" for key, item in entries.items() if item is not None) + "\n"
        for name, entries in tables.items()
    )


def device_config(tasks: Tasks, adversary: tuple[str, Mapping[str, Any]] | None = None) -> str:
    """A device's client.toml. adversary: entry and options of an [adversary] table."""
    tables: dict[str, Mapping[str, Any]] = {
        f"tasks.{name}": {"task": entry, "options": options} for name, (entry, options) in tasks.items()
    }
    if adversary is not None:
        tables["adversary"] = {"entry": adversary[0], "options": adversary[1]}
    return toml(tables)


def open_policy(budgets: Mapping[str, tuple[float, float]] | None = None) -> str:
    """A policy.toml that refuses nothing. budgets: (max_epsilon, delta) by data set."""
    return (
        'allowed_methods = ["*"]\nallowed_tasks = ["*"]\nrounds_per_day = 1000000\nallow_unmasked = true\n'
        "allow_peers = true\n"
        "max_payload_bytes = 1073741824\n"
        + toml({f"budgets.{name}": {"max_epsilon": e, "delta": d} for name, (e, d) in (budgets or {}).items()})
    )


@dataclass
class Process:
    """One daemon. log: where its standard error goes."""

    command: list[str]
    log: Path
    child: subprocess.Popen[bytes] | None = None

    def start(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start it; one may be running at a time."""
        assert self.child is None or self.child.poll() is not None, "still running"
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        return self.child

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.child is not None and self.child.poll() is None

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit code, once it ends by itself."""
        assert self.child is not None
        code = self.child.wait(timeout_s)
        if self.child.stdout:
            self.child.stdout.close()
        return code

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """Signal it and wait; killed when it does not end. Returns its exit code."""
        if self.child is None:
            return None
        if self.alive:
            self.child.send_signal(number)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.wait()


_LISTENERS = {"server": "listen", "enrol": "enrol_listen", "renew": "renew_listen", "metrics": "metrics_listen"}
"""Keys of server.toml by what the server calls the address once it is ready."""


def free_ports(count: int) -> range:
    """So many ports in a row that nobody uses on loopback, below those that Linux gives to connections.

    A server that is killed and started again finds its port free: one of those higher up another process's connection may have
    been given meanwhile.
    """
    for _ in range(1000):
        first = 10_000 + secrets.randbelow(22_000)
        ports = range(first, first + count)
        with contextlib.ExitStack() as held:
            try:
                for port in ports:
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return ports
    raise OSError(f"no {count} free ports in a row on 127.0.0.1 between 10000 and 32000")


@dataclass
class Federation:
    """tasks: the server's own copies; server: further tables of server.toml.

    inside: what stands before a command so that it runs on a node ("server" or a client) of its own network; nothing by
    default, and then everybody is on loopback.
    """

    folder: Path
    tasks: Tasks = field(default_factory=dict)
    server: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    name: str = "demo"
    inside: Callable[[str], Sequence[str]] = lambda node: ()
    clients: dict[str, Process] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.home = self.folder / "server"
        self._ports = free_ports(len(_LISTENERS))
        setup.initialise(self.home, self.name, "127.0.0.1", 0)
        self.daemon = Process(
            [*self.inside("server"), sys.executable, "-m", "edgehold.server", "serve", "--home", str(self.home)],
            self.folder / "server.log",
        )
        self._write_config({})

    def _write_config(self, fixed: Mapping[str, Any]) -> None:
        tables: dict[str, Mapping[str, Any]] = {
            "server": {
                "federation": self.name,
                **{key: f"127.0.0.1:{port}" for key, port in zip(_LISTENERS.values(), self._ports, strict=True)},
                **self.server.get("server", {}), **fixed,
            },
            "store": {"min_free_share": 0.01, **self.server.get("store", {})},
            "limits": {**self.server.get("limits", {})},
        }  # fmt: skip
        tables |= {name: t for name, t in self.server.items() if name.startswith("budgets.") or name == "record"}
        tables |= {f"tasks.{name}": {"task": entry, "options": options} for name, (entry, options) in self.tasks.items()}
        (self.home / "server.toml").write_text(toml(tables), encoding="utf-8")

    def start_server(self, environment: Mapping[str, str] | None = None) -> float:
        """Start the server and wait until it listens; returns the seconds that took. Restarts keep their ports."""
        before = time.monotonic()
        child = self.daemon.start(environment)
        assert child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            if not selector.select(READY_S):
                raise TimeoutError(f"fl-server is not ready after {READY_S:g} s; see {self.daemon.log}")
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"fl-server ended with {self.daemon.wait()}:\n{self.daemon.log.read_text()[-2000:]}")
        seconds = time.monotonic() - before
        first = not self.addresses
        self.addresses = json.loads(line)["ready"]
        if first:
            # Devices remember where the server was: from now on it listens there, whatever port 0 was.
            self._write_config({_LISTENERS[key]: address for key, address in self.addresses.items()})
        return seconds

    def add_client(
        self,
        client: str,
        tasks: Tasks,
        adversary: tuple[str, Mapping[str, Any]] | None = None,
        budgets: Mapping[str, tuple[float, float]] | None = None,
        life_s: float = 3600.0,
    ) -> None:
        """Enrol a device with a one-time token and write its configuration and a permissive policy.

        budgets: (max_epsilon, delta) by data set. life_s: of the token.
        """
        home = self.folder / client
        bundle = operator.mint(self.home, client, life_s, ())
        home.mkdir(mode=0o700, exist_ok=True)
        if prefix := self.inside(client):
            command = [*prefix, sys.executable, "-m", "edgehold.client", "enroll", "--bundle", "-", "--home", str(home)]
            said = subprocess.run(command, input=bundle, capture_output=True, text=True)
            if said.returncode:
                raise RuntimeError(f"{client} could not enrol: {said.stderr.strip()[-500:]}")
        else:
            asyncio.run(enrol.enrol(decode_bundle(bundle), home / "identity"))
        (home / "policy.toml").write_text(open_policy(budgets), encoding="utf-8")
        self.configure_client(client, tasks, adversary)
        self.clients[client] = Process(
            [*prefix, sys.executable, "-m", "edgehold.client", "run", "--home", str(home)], self.folder / f"{client}.log"
        )

    def configure_client(self, client: str, tasks: Tasks, adversary: tuple[str, Mapping[str, Any]] | None = None) -> None:
        """Write a device's client.toml; it is read when the daemon starts."""
        (self.folder / client / "client.toml").write_text(device_config(tasks, adversary), encoding="utf-8")

    def start_client(self, client: str, environment: Mapping[str, str] | None = None) -> None:
        """Start a device's daemon."""
        self.clients[client].start(environment)

    def ask(self, question: Callable[[Stub], Awaitable[T]]) -> T:
        """Put a question to the server as its operator."""
        return operator.ask(self.home, question)

    def connected(self) -> int:
        """Clients with an open control stream."""
        return self.ask(lambda s: s.unary("GetStatus", pb.GetStatusRequest(), pb.GetStatusResponse)).clients_connected

    def wait_connected(self, count: int, timeout_s: float = READY_S) -> None:
        """Wait until so many clients are connected."""
        eventually(lambda: self.connected() >= count, timeout_s, f"{count} connected clients")

    def submit(self, plan: str) -> str:
        """Submit a plan; returns the run."""
        request = pb.SubmitRunRequest(plan_toml=plan)
        return self.ask(lambda stub: stub.unary("SubmitRun", request, pb.SubmitRunResponse, None)).run

    def info(self, run: str) -> pb.RunInfo:
        """A run as it stands."""
        status = self.ask(lambda stub: stub.unary("GetStatus", pb.GetStatusRequest(), pb.GetStatusResponse))
        return next(info for info in status.runs if info.run == run)

    def watch(self, run: str, on_event: Callable[[pb.WatchRunResponse], None] = lambda event: None) -> pb.RunInfo:
        """Follow a run to its end; returns it as it stands then."""

        async def follow(stub: Stub) -> None:
            async for event in stub.stream("WatchRun", pb.WatchRunRequest(run=run, from_round=1), pb.WatchRunResponse):
                on_event(event)

        self.ask(follow)
        return self.info(run)

    def run(self, plan: str, on_event: Callable[[pb.WatchRunResponse], None] = lambda event: None) -> pb.RunInfo:
        """Submit a plan and follow it to its end."""
        return self.watch(self.submit(plan), on_event)

    def stop(self, clients: Sequence[str] | None = None) -> None:
        """Stop clients (all of them, and then the server, when none are named)."""
        for client in clients if clients is not None else list(self.clients):
            self.clients[client].stop()
        if clients is None:
            self.daemon.stop()

    def __enter__(self) -> "Federation":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self.stop()
