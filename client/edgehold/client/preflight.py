"""`fl-client check`: everything that can be wrong before the first task, each with what to do about it."""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from edgehold.client.config import Home, load_config
from edgehold.client.policy import load_policy
from edgehold.core.errors import FlError

REACH_S = 5.0


@dataclass(frozen=True, slots=True)
class Line:
    """One finding. detail: what was seen; todo: how to mend it, empty when it is fine."""

    name: str
    ok: bool
    detail: str
    todo: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def check(home: Home) -> list[Line]:
    """All findings about one home. Imports the device's tasks, PyTorch included if they use it."""
    lines = [_identity(home), _life(home), _policy(home), *_tasks(home), _disk(home), _server(home)]
    return lines


def _try(name: str, look: Callable[[], str], todo: str) -> Line:
    try:
        return Line(name, True, look())
    except FlError as error:
        return Line(name, False, error.message, todo)
    except Exception as error:
        return Line(name, False, f"{type(error).__name__}: {error}", todo)


def _identity(home: Home) -> Line:
    def look() -> str:
        from edgehold.client import identity

        found = identity.load(home.identity)
        return f"{found.client_id} of {found.federation}; key files private"

    return _try("identity", look, "run `fl-client enroll --bundle ...`, as the user that runs the daemon")


def _life(home: Home) -> Line:
    def look() -> str:
        from edgehold.client import identity

        found, now = identity.load(home.identity), time.time()
        if now < found.issued_s:
            raise FlError(f"the certificate starts {found.issued_s - now:.0f} s in the future: this clock is behind")
        if now > found.expires_s:
            raise FlError(f"the certificate ended {now - found.expires_s:.0f} s ago")
        return f"{(found.expires_s - now) / 3600:.1f} h left"

    return _try("certificate", look, "set the clock (`timedatectl`); if the certificate is over, enrol again")


def _policy(home: Home) -> Line:
    def look() -> str:
        from edgehold.client import identity
        from edgehold.client.daemon import admit_roots

        policy = load_policy(home.policy)
        if policy.allowed_roots:
            admit_roots(policy, identity.load(home.identity))
        masks = "unmasked updates allowed" if policy.allow_unmasked else "masked updates only"
        return (
            f"methods {', '.join(policy.allowed_methods) or 'none'}; tasks {', '.join(policy.allowed_tasks) or 'none'}; {masks}"
        )

    return _try("policy", look, f"mend {home.policy}; `fl-client policy check FILE` tests a draft")


def _tasks(home: Home) -> list[Line]:
    from edgehold.client.worker import Workbench

    try:
        config = load_config(home.config)
    except FlError as error:
        return [Line("config", False, error.message, f"mend {home.config}")]
    if not config.tasks:
        return [Line("config", False, "no tasks", f"add a [tasks.NAME] table to {home.config}")]
    bench = Workbench(config, "check")

    def describe(name: str) -> str:
        task = bench.task(name)
        return f"{len(task.schema.tensors)} tensors, {task.schema.size} values, {task.samples} records"

    return [Line("config", True, str(home.config))] + [
        _try(f"task {name}", lambda name=name: describe(name), f"mend [tasks.{name}] or the code it names")  # type: ignore[misc]
        for name in config.tasks
    ]


def _disk(home: Home) -> Line:
    def look() -> str:
        free, needed = shutil.disk_usage(home.folder).free, 4 * load_policy(home.policy).max_payload_bytes
        if free < needed:
            raise FlError(f"{free >> 20} MiB free; four of the largest payloads take {needed >> 20} MiB")
        return f"{free >> 20} MiB free"

    return _try("disk", look, "free some space, or lower max_payload_bytes in policy.toml")


def _server(home: Home) -> Line:
    async def connect() -> str:
        from edgehold.client import identity
        from edgehold.client.daemon import open_channel

        credentials = identity.load(home.identity)
        async with open_channel(credentials) as channel:
            try:
                await asyncio.wait_for(channel.channel_ready(), REACH_S)
            except TimeoutError:
                raise FlError(f"{credentials.server_address} did not answer over mutual TLS within {REACH_S:g} s") from None
        return f"{credentials.server_address} answers"

    return _try("server", lambda: asyncio.run(connect()), "is the server up, is the port open, is the certificate alive?")
