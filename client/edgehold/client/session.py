"""One client's conversation with its server: a stream that is always open or being reopened. What it brings goes to `Jobs`."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

import grpc

from edgehold.client.config import ClientConfig, Home
from edgehold.client.identity import Credentials
from edgehold.client.jobs import Jobs
from edgehold.client.keep import Keep
from edgehold.client.link import Link
from edgehold.client.policy import PolicyFile
from edgehold.client.transfer import LONGEST_WAIT_S, Backoff, closing
from edgehold.client.worker import TrainingThread
from edgehold.core.about import VERSION
from edgehold.core.errors import FlError, IdentityError, JournalError, Stale, WrongShape
from edgehold.core.logs import CLIENT, event, peer_text
from edgehold.core.manifest import PROTOCOL_VERSION, SUPPORTED_VERSIONS
from edgehold.proto.v1.control_pb2 import ConnectRequest, ConnectResponse, Welcome

log = logging.getLogger("edgehold.client.session")

OLD_CHANNEL_GRACE_S = 30.0


class Session:
    """One client from start to stop."""

    def __init__(
        self,
        home: Home,
        config: ClientConfig,
        credentials: Credentials,
        policy: PolicyFile,
        keep: Keep,
        training: TrainingThread,
        open_channel: Callable[[Credentials], grpc.aio.Channel],
    ) -> None:
        self.credentials = credentials
        self._keep = keep
        self._open_channel = open_channel
        self._link = Link(open_channel(credentials))
        self._jobs = Jobs(home, config, policy, keep, training, lambda: (self.credentials, self._link), self._fail)
        self._reader: asyncio.Task[None] | None = None
        self._peer_address = ""
        self._not_before = 0.0
        self._failure: JournalError | None = None

    async def run(self) -> None:
        """Stay connected until cancelled. Raises `Stale` when the server speaks none of our protocol versions, and
        `JournalError` when the device's disk fails; every other failure is waited out.
        """
        CLIENT.set(self.credentials.client_id)
        backoff = Backoff()
        try:
            self._peer_address = await self._jobs.listen()
            while True:
                link = self._link
                reader = self._reader = asyncio.create_task(self._listen(link, backoff))
                error: FlError | None = None
                try:
                    await reader
                except asyncio.CancelledError:
                    stopping = asyncio.current_task()
                    if self._failure is not None:
                        raise self._failure from None
                    if self._link is link or (stopping is not None and stopping.cancelling()):
                        raise
                    continue  # the certificate was renewed: come back at once with the new one
                except Stale as stale:
                    if stale.supported_versions:
                        raise Stale(
                            f"this client speaks protocol {PROTOCOL_VERSION}; the server wants one of "
                            f"{stale.supported_versions}: update the client",
                            supported_versions=stale.supported_versions,
                        ) from None
                    error = stale
                except JournalError:
                    raise
                except FlError as found:
                    error = found
                loop = asyncio.get_running_loop()
                wait = max(backoff.after(error), self._not_before - loop.time())
                said = {"code": error.code, "reason": peer_text(error.message)} if error else {}
                event(log, logging.WARNING if error else logging.INFO, "disconnected", wait_s=round(wait, 2), **said)
                await self._note(connected=False, error=said.get("reason", ""))
                await asyncio.sleep(wait)
        finally:
            await self._close()

    async def _listen(self, link: Link, backoff: Backoff) -> None:
        mine = self.credentials
        request = ConnectRequest(
            protocol_version=PROTOCOL_VERSION,
            client_id=mine.client_id,
            signing_key=mine.signing_key.public_key().public_bytes_raw(),
            software=f"edgehold/{VERSION}",
            peer_address=self._peer_address,
        )
        welcomed = False
        async with closing(link.control.stream("Connect", request, ConnectResponse)) as events:
            async for message in events:
                kind = message.WhichOneof("event")
                if not welcomed:
                    if kind != "welcome":
                        raise WrongShape(f"the stream began with {kind}; expected a welcome")
                    await self._welcome(message.welcome)
                    welcomed = True
                    backoff.reset()
                elif kind == "task":
                    self._jobs.assigned(message.task)
                elif kind == "cancelled":
                    self._jobs.cancelled(message.cancelled.id, message.cancelled.reason)
                elif kind in ("wait", "draining"):
                    seconds = message.wait.seconds if kind == "wait" else message.draining.reconnect_after_s
                    seconds = min(max(seconds, 0.0), LONGEST_WAIT_S) if math.isfinite(seconds) else 0.0
                    self._not_before = asyncio.get_running_loop().time() + seconds + Backoff().after(None)
                    event(log, logging.INFO, kind, seconds=seconds)

    async def _welcome(self, welcome: Welcome) -> None:
        if welcome.protocol_version not in SUPPORTED_VERSIONS:
            raise Stale("protocol version", supported_versions=(welcome.protocol_version,))
        if welcome.federation != self.credentials.federation:
            raise IdentityError(f"the server is of federation {welcome.federation[:64]!r}, not {self.credentials.federation!r}")
        self._not_before = 0.0
        event(log, logging.INFO, "connected", boot_epoch=welcome.boot_epoch)
        await self._note(connected=True, error="", server=self.credentials.server_address)
        await self._jobs.resume()

    async def renewed(self, credentials: Credentials) -> None:
        """Go on with a new certificate: transfers under way finish on the old connection, or resume on the new one."""
        old, self._link = self._link, Link(self._open_channel(credentials))
        self.credentials = credentials
        if self._reader is not None:
            self._reader.cancel()
        self._jobs.aside(old.channel.close(OLD_CHANNEL_GRACE_S))

    async def _close(self) -> None:
        await self._jobs.close()
        await self._link.channel.close()
        with contextlib.suppress(JournalError):
            await self._note(connected=False, error="stopped")

    def _fail(self, error: JournalError) -> None:
        """The disk failed under a task: end the whole session with that error."""
        self._failure = error
        if self._reader is not None:
            self._reader.cancel()

    async def _note(self, **values: object) -> None:
        await asyncio.to_thread(lambda: self._keep.note(since=round(time.time(), 1), **values))
