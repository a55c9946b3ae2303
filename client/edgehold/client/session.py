"""One client's conversation with its server: a stream that is always open or being reopened, and the tasks it brings.

Every task runs as a `Job`; jobs of one run follow each other, because each starts from the local state the one before left.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography.exceptions import InvalidSignature

from edgehold.client.config import ClientConfig, Home
from edgehold.client.identity import Credentials
from edgehold.client.keep import Entry, Keep, TaskKey
from edgehold.client.log import event, peer_text
from edgehold.client.outbox import Outbox, Parcel
from edgehold.client.policy import Policy, PolicyFile
from edgehold.client.transfer import (
    LONGEST_WAIT_S,
    SERVICE,
    Backoff,
    Upload,
    closing,
    download,
    statement_of,
)
from edgehold.client.worker import Cancelled, Trained, TrainingThread, Workbench
from edgehold.core.contract import HEADER_LIMIT
from edgehold.core.crashpoints import reach
from edgehold.core.errors import (
    BadSignature,
    Busy,
    Corrupted,
    FlError,
    IdentityError,
    JournalError,
    PolicyRefused,
    Stale,
    TooLarge,
    TransferError,
    WrongShape,
)
from edgehold.core.manifest import PROTOCOL_VERSION, SUPPORTED_VERSIONS, TaskStatement
from edgehold.proto.channel import Stub
from edgehold.proto.strict import TEXT_LIMIT, exactly, name
from edgehold.proto.v1 import control_pb2
from edgehold.proto.v1.control_pb2 import (
    ConnectRequest,
    ConnectResponse,
    DeclineRequest,
    DeclineResponse,
    TaskAssignment,
    TaskId,
    Welcome,
)

log = logging.getLogger("edgehold.client.session")

CONTROL = control_pb2.DESCRIPTOR.services_by_name["ControlService"]
JOBS_AT_ONCE = 16
"""Tasks a device holds at the same time, over all runs."""
DECLINE_TIMEOUT_S = 10.0
OLD_CHANNEL_GRACE_S = 30.0


def key_of(task: TaskId) -> TaskKey:
    """The task's id as the keep names it."""
    return TaskKey(task.run, task.round, task.attempt, task.nonce)


def verify(assignment: TaskAssignment, credentials: Credentials) -> None:
    """Return if the task is whole, legal, meant for this client and signed by its server; else the refusal that says why."""
    where = assignment.id
    name(where.run, "run")
    name(assignment.task, "task")
    name(assignment.method, "method")
    if where.round < 1:
        raise WrongShape(f"round {where.round}; rounds count from 1")
    for value, length, what in (
        (where.nonce, 32, "nonce"),
        (assignment.plan_digest, 32, "plan digest"),
        (assignment.base_digest, 32, "base digest"),
        (assignment.roster_digest, 32, "roster digest"),
        (assignment.schema_digest, 32, "schema digest"),
        (assignment.signature, 64, "signature"),
    ):
        exactly(value, length, what)
    if len(assignment.header) > HEADER_LIMIT:
        raise TooLarge(f"task header of {len(assignment.header)} bytes; at most {HEADER_LIMIT} are accepted")
    if not (math.isfinite(assignment.deadline_s) and assignment.deadline_s > 0):
        raise WrongShape(f"deadline_s = {assignment.deadline_s}; expected a positive number of seconds")
    if assignment.inline_body and len(assignment.inline_body) != assignment.base_length:
        raise WrongShape(f"inline body of {len(assignment.inline_body)} bytes; {assignment.base_length} are declared")
    if assignment.protocol_version not in SUPPORTED_VERSIONS:
        raise Stale(f"task of protocol version {assignment.protocol_version}", supported_versions=SUPPORTED_VERSIONS)
    if assignment.federation != credentials.federation:
        raise IdentityError(f"task of federation {assignment.federation[:64]!r}; this device is of {credentials.federation!r}")
    statement = TaskStatement(
        protocol_version=assignment.protocol_version,
        federation=assignment.federation,
        plan_digest=assignment.plan_digest,
        run=where.run,
        round=where.round,
        attempt=where.attempt,
        nonce=where.nonce,
        client_id=credentials.client_id,
        base_digest=assignment.base_digest,
        base_length=assignment.base_length,
        header_digest=hashlib.sha256(assignment.header).digest(),
        roster_digest=assignment.roster_digest,
        schema_digest=assignment.schema_digest,
        task=assignment.task,
        method=assignment.method,
        masked=int(assignment.masked),
    )
    try:
        credentials.server_signing_key.verify(assignment.signature, statement.signing_input())
    except InvalidSignature:
        raise BadSignature("the task is not signed by the server this device was enrolled with") from None


@dataclass(eq=False)
class Job:
    """One task under way. settled: its update may be at the server, so only the server's word ends it now."""

    key: TaskKey
    cancelled: threading.Event = field(default_factory=threading.Event)
    sending: bool = False
    settled: bool = False
    running: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """The result is no longer wanted; no effect once the receipt is here."""
        if not self.settled and self.running is not None:
            self.cancelled.set()
            self.running.cancel()


class Link:
    """A channel and its stubs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.control = Stub(channel, CONTROL)
        self.transfer = Stub(channel, SERVICE)


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
        self._config = config
        self._policy = policy
        self._keep = keep
        self._outbox = Outbox(home.outbox)
        self._training = training
        self._bench = Workbench(config, credentials.client_id)
        self._open_channel = open_channel
        self._link = Link(open_channel(credentials))
        self._jobs: dict[TaskKey, Job] = {}
        self._side: set[asyncio.Task[Any]] = set()
        self._reader: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._swept = False
        self._failure: JournalError | None = None

    # The stream.

    async def run(self) -> None:
        """Stay connected until cancelled. Raises `Stale` when the server speaks none of our protocol versions, and
        `JournalError` when the device's disk fails; every other failure is waited out.
        """
        backoff = Backoff()
        try:
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
            software=_software(),
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
                    self._assigned(message.task)
                elif kind == "cancelled":
                    self._cancelled(message.cancelled.id, message.cancelled.reason)
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
        event(log, logging.INFO, "connected", client=self.credentials.client_id, boot_epoch=welcome.boot_epoch)
        await self._note(connected=True, error="", server=self.credentials.server_address)
        for entry in await self._unsettled():
            if entry.key not in self._jobs:
                self._start(entry.key, self._settle(entry))

    async def _unsettled(self) -> list[Entry]:
        """Stored updates without a receipt. At first contact the outbox is put in order before any task is looked at: what
        the power took is to be computed again if the server still wants it, and what nothing refers to goes.
        """

        def tidy() -> list[Entry]:
            whole = []
            for entry in self._keep.unsettled():
                if entry.parcel is not None and self._outbox.holds(entry.parcel):
                    whole.append(entry)
                else:
                    self._keep.retrain(entry.key)
            self._outbox.sweep({entry.parcel.digest for entry in whole if entry.parcel})
            return whole

        if self._swept:
            return await asyncio.to_thread(self._keep.unsettled)
        self._swept = True
        return await asyncio.to_thread(tidy)

    async def renewed(self, credentials: Credentials) -> None:
        """Go on with a new certificate: transfers under way finish on the old connection, or resume on the new one."""
        old, self._link = self._link, Link(self._open_channel(credentials))
        self.credentials = credentials
        if self._reader is not None:
            self._reader.cancel()
        self._aside(old.channel.close(OLD_CHANNEL_GRACE_S))

    async def _close(self) -> None:
        running = [job.running for job in self._jobs.values() if job.running is not None]
        for task in (*running, *self._side):
            task.cancel()
        if running or self._side:
            await asyncio.wait([*running, *self._side])
        await self._link.channel.close()
        with contextlib.suppress(JournalError):
            await self._note(connected=False, error="stopped")

    # Tasks.

    def _assigned(self, assignment: TaskAssignment) -> None:
        key = key_of(assignment.id)
        if key in self._jobs:
            return  # told again after a reconnect; it is being done
        if len(self._jobs) >= JOBS_AT_ONCE:
            self._refuse(assignment.id, Busy(f"{len(self._jobs)} tasks are under way already"))
            return
        try:
            # Before it becomes a job: only a task that is truly the server's may take the place of an older one.
            verify(assignment, self.credentials)
            self._allow(assignment)
        except FlError as error:
            self._refuse(assignment.id, error)
            return
        self._start(key, self._do(assignment))

    def _cancelled(self, task: TaskId, reason: str) -> None:
        job = self._jobs.get(key_of(task))
        event(log, logging.INFO, "task_cancelled", reason=peer_text(reason), known=job is not None, **_names(task))
        if job is not None:
            job.cancel()

    def _start(self, key: TaskKey, work: "Callable[[Job], Coroutine[Any, Any, None]]") -> None:
        """Run `work` as a job, after the older jobs of the same run. Those not yet sending make way for a newer task."""
        older = [job for job in self._jobs.values() if job.key.run == key.run]
        job = self._jobs[key] = Job(key)
        job.running = asyncio.create_task(self._run(job, work, older))
        job.running.add_done_callback(lambda _: self._jobs.pop(key, None))

    async def _run(self, job: Job, work: Callable[[Job], Coroutine[Any, Any, None]], older: list[Job]) -> None:
        try:
            for other in older:
                # An update already on its way may be counted, and then its local state is where this task starts from.
                if not other.sending and other.key[1:3] < job.key[1:3]:
                    other.cancel()
                if other.running is not None:
                    await asyncio.wait([other.running])
            await work(job)
        except asyncio.CancelledError:
            if job.cancelled.is_set():
                await self._forget(job.key)
            raise
        except JournalError as error:
            event(log, logging.CRITICAL, "disk_failed", reason=error.message)
            self._fail(error)
        except Exception:
            log.exception("task_crashed", extra={"fields": {"run": job.key.run, "round": job.key.round}})

    def _do(self, assignment: TaskAssignment) -> Callable[[Job], Coroutine[Any, Any, None]]:
        async def work(job: Job) -> None:
            try:
                await self._perform(job, assignment)
            except Cancelled:
                await self._forget(job.key)
            except JournalError:
                raise
            except FlError as error:
                self._refuse(assignment.id, error)

        return work

    async def _perform(self, job: Job, assignment: TaskAssignment) -> None:
        await self._training.run(lambda: self._bench.admit(assignment))
        bare = TaskAssignment()
        bare.CopyFrom(assignment)
        bare.ClearField("inline_body")
        # The policy again: making the task may have taken long, and the owner's last word counts.
        policy = self._allow(assignment)
        entry = await asyncio.to_thread(self._keep.receive, job.key, bare.SerializeToString(), policy.rounds_per_day)
        event(log, logging.INFO, "task_received", state=entry.state, method=assignment.method, **_names(assignment.id))
        reach("task_received")
        if entry.state in ("acknowledged", "dropped"):
            await self._again(entry, assignment)
            return
        if entry.state == "trained" and entry.parcel is not None:
            if await asyncio.to_thread(self._outbox.holds, entry.parcel):
                await self._deliver(job, assignment, entry.parcel, resume=True)
                return
            await asyncio.to_thread(self._keep.retrain, job.key)
        try:
            parcel = await self._train(job, assignment)
        except FlError:
            # Nothing left the device: the same task may be done later, when its owner has mended what failed.
            await asyncio.to_thread(self._keep.cancel, job.key)
            raise
        await self._deliver(job, assignment, parcel, resume=False)

    async def _train(self, job: Job, assignment: TaskAssignment) -> Parcel:
        body = await self._body(assignment)
        local = await asyncio.to_thread(self._keep.local, job.key.run, job.key.round)
        began = time.monotonic()
        done = await self._training.run(lambda: self._bench.work(assignment, body, local, job.cancelled))
        reach("trained_not_stored")
        seconds = round(time.monotonic() - began, 3)
        parcel = await asyncio.to_thread(self._store, job, done)
        event(log, logging.INFO, "trained", seconds=seconds, bytes=parcel.length, **_names(assignment.id), **done.facts)
        reach("stored_not_sent")
        return parcel

    def _store(self, job: Job, done: Trained) -> Parcel:
        parcel = self._outbox.write(done.payload, done.kind, done.durable)
        try:
            self._policy.current().admit_length(parcel.length, "the update")
            kept = self._keep.trained(job.key, parcel, done.local)
        except FlError:
            self._outbox.drop(parcel.digest)
            raise
        if not kept:
            self._outbox.drop(parcel.digest)
            raise Cancelled
        return parcel

    async def _body(self, assignment: TaskAssignment) -> bytes | memoryview:
        digest, length = assignment.base_digest, assignment.base_length
        if assignment.inline_body or length == 0:
            if hashlib.sha256(assignment.inline_body).digest() != digest:
                raise Corrupted("the inline model does not match its digest")
            return assignment.inline_body
        whole = await download(lambda: self._link.transfer, digest, length, self._config.transfer)
        return memoryview(whole).toreadonly()

    def _settle(self, entry: Entry) -> Callable[[Job], Coroutine[Any, Any, None]]:
        """Bring a stored update of an earlier life of this process to its end."""

        async def work(job: Job) -> None:
            assignment = TaskAssignment.FromString(entry.assignment)
            parcel = entry.parcel
            assert parcel is not None
            try:
                self._allow(assignment)
                if assignment.federation != self.credentials.federation:
                    raise Stale("the update was made for another federation")
                await self._deliver(job, assignment, parcel, resume=True)
            except JournalError:
                raise
            except FlError as error:
                event(
                    log,
                    logging.WARNING,
                    "update_dropped",
                    code=error.code,
                    reason=peer_text(error.message),
                    **_names(assignment.id),
                )
                await self._discard(entry.key, parcel)

        return work

    async def _again(self, entry: Entry, assignment: TaskAssignment) -> None:
        """A task that is over comes once more: true if the server has its receipt; otherwise it cannot be done twice."""
        if entry.state == "acknowledged" and entry.parcel is not None:
            with contextlib.suppress(TransferError):
                found = await self._upload(assignment, entry.parcel).ask()
                if found.HasField("receipt"):
                    return
        raise Stale(f"this device has already {entry.state} this task")

    async def _deliver(self, job: Job, assignment: TaskAssignment, parcel: Parcel, *, resume: bool) -> None:
        """Send the stored update until the server has answered for good, then record the answer."""
        job.sending = True
        began = time.monotonic()
        try:
            receipt = await self._upload(assignment, parcel).run(resume=resume)
        except FlError as error:
            event(
                log,
                logging.WARNING,
                "update_refused",
                code=error.code,
                reason=peer_text(error.message),
                **_names(assignment.id),
            )
            await self._discard(job.key, parcel)
            return
        job.settled = True
        reach("receipt_not_recorded")
        await asyncio.to_thread(self._keep.acknowledge, job.key)
        reach("recorded")
        await asyncio.to_thread(self._outbox.drop, parcel.digest)
        seconds = round(time.monotonic() - began, 3)
        event(log, logging.INFO, "acknowledged", sequence=receipt.sequence, seconds=seconds, **_names(assignment.id))

    def _upload(self, assignment: TaskAssignment, parcel: Parcel) -> Upload:
        mine = self.credentials
        statement = statement_of(assignment, mine.client_id, parcel)
        path = self._outbox.path(parcel.digest)
        return Upload(lambda: self._link.transfer, statement, mine.signing_key, path, self._config.transfer)

    def _allow(self, assignment: TaskAssignment) -> Policy:
        """The policy, if it allows the task and this device can honour it."""
        policy = self._policy.current()
        policy.admit(assignment.task, assignment.method, assignment.masked, assignment.base_length)
        if assignment.masked:
            # Never send in the clear what was announced as masked.
            raise PolicyRefused("the task wants masked updates, which this client cannot make yet")
        return policy

    async def _forget(self, key: TaskKey) -> None:
        """The server no longer wants the task."""
        entries = {entry.key: entry for entry in await asyncio.to_thread(self._keep.unsettled)}
        await asyncio.to_thread(self._keep.cancel, key)
        if (entry := entries.get(key)) is not None and entry.parcel is not None:
            await asyncio.to_thread(self._outbox.drop, entry.parcel.digest)

    async def _discard(self, key: TaskKey, parcel: Parcel | None) -> None:
        await asyncio.to_thread(self._keep.drop, key)
        if parcel is not None:
            await asyncio.to_thread(self._outbox.drop, parcel.digest)

    def _refuse(self, task: TaskId, error: FlError) -> None:
        event(log, logging.WARNING, "task_declined", code=error.code, reason=peer_text(error.message), **_names(task))
        if cause := error.__cause__:
            log.warning("cause", exc_info=cause)
        self._aside(self._decline(task, error))

    async def _decline(self, task: TaskId, error: FlError) -> None:
        """Tell the server not to wait for us; if it does not hear it, its deadline says the same."""
        reason = peer_text(error.message)[:TEXT_LIMIT]
        with contextlib.suppress(FlError):
            request = DeclineRequest(id=task, code=error.code, reason=reason)
            await self._link.control.unary("Decline", request, DeclineResponse, DECLINE_TIMEOUT_S)

    # Odds and ends.

    def _aside(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    def _fail(self, error: JournalError) -> None:
        """The disk failed under a task: end the whole session with that error."""
        self._failure = error
        if self._reader is not None:
            self._reader.cancel()

    async def _note(self, **values: object) -> None:
        await asyncio.to_thread(lambda: self._keep.note(since=round(time.time(), 1), **values))


def _names(task: TaskId) -> dict[str, object]:
    return {"run": peer_text(task.run), "round": task.round, "attempt": task.attempt}


@functools.cache
def _software() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"edgehold/{version('edgehold')}"
    except PackageNotFoundError:
        return "edgehold"
