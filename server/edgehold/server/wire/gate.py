"""Who may call what: certificate, role, roster, pace. And the memory of every refusal."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from edgehold.core.errors import Busy, Draining, FlError, IdentityError, JournalError, RejectedUpdate, Stale
from edgehold.core.identity import Identity, Role, identity_of
from edgehold.proto.rpc import Caller, Context, certificate_of
from edgehold.server.identity.roster import Roster
from edgehold.server.metrics import Metrics
from edgehold.server.store.journal import Journal

_CACHE = 4096
AUDITED_PER_SECOND = 20.0


class Bucket:
    """A token bucket. rate: per second; burst: most at once."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst, self._left, self._since = rate, burst, burst, time.monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Doorman:
    """Gate of one listener. role: the only one admitted; None on the local socket, which file permissions guard.

    now: seconds since 1970, for certificates that expire while connected.
    """

    def __init__(
        self,
        role: Role | None,
        federation: str,
        roster: Roster,
        log: "RefusalLog",
        calls_per_second: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._role = role
        self._federation = federation
        self._roster = roster
        self._log = log
        self._rate = calls_per_second
        self._now = now
        self._known: dict[bytes, Identity] = {}
        self._buckets: dict[str, Bucket] = {}
        self.draining = False

    def admit(self, context: Context, method: str) -> Caller:
        """The caller, when it may call; refusals are recorded under the name in its certificate."""
        caller = Caller(None, context.peer(), context)
        try:
            if self._role is not None:
                # The name first, so that a refusal is recorded under it.
                caller.certificate = certificate_of(context)
                caller.identity = self._identify(caller.certificate)
                self._may_enter(caller.identity)
            if self.draining:
                raise Draining("the server is starting or stopping; come back", retry_after_s=1.0)
            if caller.identity is not None:
                self._pace(caller.identity.name)
        except FlError as error:
            self._note(caller, method, error)
            raise
        return caller

    def _identify(self, pem: bytes) -> Identity:
        identity = self._known.get(pem)
        if identity is None:
            identity = identity_of(pem)
            if len(self._known) >= _CACHE:
                self._known.clear()
            self._known[pem] = identity
        return identity

    def _may_enter(self, identity: Identity) -> None:
        if identity.federation != self._federation:
            raise IdentityError(f"{identity.uri} belongs to another federation than {self._federation!r}")
        if identity.role != self._role:
            raise IdentityError(f"{identity.uri} may not call this; it is for {self._role}s")
        if identity.expires_s < self._now():
            raise IdentityError(f"{identity.uri}: the certificate has expired; renew it")
        if self._role == "client":
            self._roster.require(identity)

    def _pace(self, name: str) -> None:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(self._rate, 2 * self._rate)
        if not bucket.take():
            raise Busy(f"more than {self._rate:g} calls a second; slow down", retry_after_s=1.0)

    def refused(self, caller: Caller | None, method: str, error: FlError) -> None:
        """A handler refused. What `admit` refused is on record already."""
        if caller is not None:
            self._note(caller, method, error)

    def _note(self, caller: Caller, method: str, error: FlError) -> None:
        client = caller.identity is not None and caller.identity.role == "client"
        self._log.note(caller.name, caller.peer, method, error, client=client)

    def broken(self, error: JournalError) -> None:
        """The journal failed."""
        self._log.broken(error)


class RefusalLog:
    """Counts every refusal by reason and writes it to the audit log, at a bounded pace.

    spawn: runs a coroutine in the background; broken: called when the journal fails.
    """

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        broken: Callable[[JournalError], None],
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._spawn = spawn
        self.broken = broken
        self._bucket = Bucket(AUDITED_PER_SECOND, 5 * AUDITED_PER_SECOND)
        self._unwritten = 0

    def note(self, subject: str, peer: str, method: str, error: FlError, *, client: bool = False) -> None:
        """One refusal. subject: the name in the caller's certificate, "-" for none; client: it is a client's."""
        self._metrics.refusals.labels(code=error.code).inc()
        if not self._bucket.take():
            # A flood must not fill the disk: count, and say how many with the next line.
            self._unwritten += 1
            return
        omitted, self._unwritten = self._unwritten, 0
        text = error.message.encode("ascii", "backslashreplace")[:256].decode()

        def change(db: Any) -> None:
            self._journal.append_audit(
                db, "refused", subject, code=error.code, method=method, peer=peer, message=text, omitted=omitted
            )
            # Coming late is no fault: with over-selection somebody always does.
            if client and isinstance(error, RejectedUpdate) and not isinstance(error, Stale):
                db.execute("UPDATE clients SET rejected = rejected + 1 WHERE id=?", (subject,))

        self._spawn(self._write(change))

    async def _write(self, change: Callable[[Any], None]) -> None:
        try:
            await self._journal.write(change)
        except JournalError as error:
            self.broken(error)


def background(tasks: set[asyncio.Task[None]]) -> Callable[[Coroutine[Any, Any, None]], object]:
    """Starter of background coroutines that keeps them alive in `tasks` until they are done."""

    def spawn(work: Coroutine[Any, Any, None]) -> object:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    return spawn
