"""A whole server in the test's own event loop, for tests that must reach inside (a full disk, a failing sync)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support import wire
from tests.support.wire import Device

from edgehold.core.errors import FlError
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2
from edgehold.server.config import LimitsTable, ServerConfig, ServerTable, StoreTable, TaskEntry
from edgehold.server.daemon import Daemon
from edgehold.server.desk import setup

ANY = "127.0.0.1:0"


class Place:
    """A running server. serving: ends with the process's exit code."""

    def __init__(self, home: Path, daemon: Daemon, serving: "asyncio.Task[int]", stub: Stub) -> None:
        self.home = home
        self.daemon = daemon
        self.serving = serving
        self.stub = stub

    async def device(self, client: str) -> Device:
        """An enrolled client by hand; close it."""
        return Device(await wire.enrolled(self.stub, self.home, client, self.home.parent / client / "identity"))

    async def refused(self) -> dict[str, int]:
        """Refusals by code."""
        return dict((await wire.status(self.stub)).rejections)


@asynccontextmanager
async def server(home: Path, values: int = 1000, **limits: Any) -> AsyncIterator[Place]:
    """A server on `home` (made when it is not there) that knows the task "synthetic"; stopped at the end if it still runs."""
    if not (home / "server.toml").exists():
        setup.initialise(home, "fed", "127.0.0.1", 0)
    entry = TaskEntry(task="edgehold.client.data.synthetic:make_task", options={"values": values})
    config = ServerConfig(
        server=ServerTable(federation="fed", listen=ANY, enrol_listen=ANY, renew_listen=ANY, metrics_listen=""),
        store=StoreTable(min_free_share=0.01),
        limits=LimitsTable(**limits),
        tasks={"synthetic": entry},
    )
    ready = asyncio.Event()
    daemon = Daemon(home, config)
    serving = asyncio.create_task(daemon.run(lambda _: ready.set()))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if serving.done():
        serving.result()
    try:
        async with wire.operator(home) as stub:
            try:
                yield Place(home, daemon, serving, stub)
            finally:
                if not serving.done():
                    # It may just be ending by itself.
                    with contextlib.suppress(FlError):
                        await stub.unary("Shutdown", admin_pb2.ShutdownRequest(), admin_pb2.ShutdownResponse)
    finally:
        await asyncio.wait([serving], timeout=wire.WAIT_S)
