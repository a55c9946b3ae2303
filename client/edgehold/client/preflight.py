"""`fl-client check`: everything that can be wrong before the first task, each with what to do about it."""

import asyncio
import shutil
import time

from edgehold.client.config import Home, load_config
from edgehold.client.policy import load_policy
from edgehold.core.command import Finding, examine
from edgehold.core.errors import FlError

REACH_S = 5.0


def findings(home: Home) -> list[Finding]:
    """All findings about one home. Imports the device's tasks, PyTorch included if they use it."""
    lines = [_identity(home), _life(home), _policy(home), *_tasks(home), _disk(home), _server(home)]
    return lines


def _identity(home: Home) -> Finding:
    def look() -> str:
        from edgehold.client import identity

        found = identity.load(home.identity)
        return f"{found.client_id} of {found.federation}; key files private"

    return examine("identity", look, "run `fl-client enroll --bundle ...`, as the user that runs the daemon")


def _life(home: Home) -> Finding:
    def look() -> str:
        from edgehold.client import identity

        found, now = identity.load(home.identity), time.time()
        if now < found.issued_s:
            raise FlError(f"the certificate starts {found.issued_s - now:.0f} s in the future: this clock is behind")
        if now > found.expires_s:
            raise FlError(f"the certificate ended {now - found.expires_s:.0f} s ago")
        return f"{(found.expires_s - now) / 3600:.1f} h left"

    return examine("certificate", look, "set the clock (`timedatectl`); if the certificate is over, enrol again")


def _policy(home: Home) -> Finding:
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

    return examine("policy", look, f"mend {home.policy}; `fl-client policy check FILE` tests a draft")


def _tasks(home: Home) -> list[Finding]:
    from edgehold.client.worker import Workbench

    try:
        config = load_config(home.config)
    except FlError as error:
        return [Finding("config", False, error.message, f"mend {home.config}")]
    if not config.tasks:
        return [Finding("config", False, "no tasks", f"add a [tasks.NAME] table to {home.config}")]
    bench = Workbench(config, "check")

    def describe(name: str) -> str:
        task = bench.task(name)
        return f"{len(task.schema.tensors)} tensors, {task.schema.size} values, {task.samples} records"

    return [Finding("config", True, str(home.config))] + [
        examine(f"task {name}", lambda name=name: describe(name), f"mend [tasks.{name}] or the code it names")  # type: ignore[misc]
        for name in config.tasks
    ]


def _disk(home: Home) -> Finding:
    def look() -> str:
        free, needed = shutil.disk_usage(home.folder).free, 4 * load_policy(home.policy).max_payload_bytes
        if free < needed:
            raise FlError(f"{free >> 20} MiB free; four of the largest payloads take {needed >> 20} MiB")
        return f"{free >> 20} MiB free"

    return examine("disk", look, "free some space, or lower max_payload_bytes in policy.toml")


def _server(home: Home) -> Finding:
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

    return examine("server", lambda: asyncio.run(connect()), "is the server up, is the port open, is the certificate alive?")
