"""The tasks of one client: admitted, trained, stored, delivered, recorded; one `Job` each.

Jobs of one run follow each other, because each starts from the local state that the one before it left.
"""

import asyncio
import contextlib
import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from edgehold.client.accounts import Accounts
from edgehold.client.assignment import key_of, verify
from edgehold.client.config import ClientConfig, Home
from edgehold.client.identity import Credentials
from edgehold.client.keep import Entry, Keep, Stored, TaskKey
from edgehold.client.link import Link
from edgehold.client.outbox import Outbox, Parcel
from edgehold.client.peers import Peers
from edgehold.client.policy import Policy, PolicyFile
from edgehold.client.refusals import for_the_log, for_the_server, names
from edgehold.client.shelf import Shelf
from edgehold.client.transfer import Upload, download, statement_of
from edgehold.client.worker import Begun, Cancelled, Trained, TrainingThread, Workbench
from edgehold.core.contract import Container
from edgehold.core.crashpoints import reach
from edgehold.core.errors import (
    Busy,
    Corrupted,
    FlError,
    JournalError,
    MaskRefused,
    PolicyRefused,
    RejectedUpdate,
    SecondSet,
    Stale,
    TransferError,
)
from edgehold.core.logs import event, peer_text
from edgehold.core.masks.upload import KIND
from edgehold.proto.channel import Stub
from edgehold.proto.terms import terms_of
from edgehold.proto.v1.control_pb2 import DeclineRequest, DeclineResponse, TaskAssignment, TaskId

if TYPE_CHECKING:
    from edgehold.client.masking import Masking

log = logging.getLogger("edgehold.client.jobs")

JOBS_AT_ONCE = 16
"""Tasks a device holds at the same time, over all runs."""
DECLINE_TIMEOUT_S = 10.0


@dataclass(eq=False)
class Job:
    """One task under way. settled: its update may be at the server, so only the server's word ends it now.

    since_s: monotonic time at which it came.
    """

    key: TaskKey
    cancelled: threading.Event = field(default_factory=threading.Event)
    sending: bool = False
    settled: bool = False
    since_s: float = field(default_factory=time.monotonic)
    running: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """The result is no longer wanted; no effect once the receipt is here."""
        if not self.settled and self.running is not None:
            self.cancelled.set()
            self.running.cancel()


Work: TypeAlias = "Callable[[Job], Coroutine[Any, Any, None]]"


class Jobs:
    """All jobs of one client."""

    def __init__(
        self,
        home: Home,
        config: ClientConfig,
        policy: PolicyFile,
        keep: Keep,
        training: TrainingThread,
        who: Callable[[], tuple[Credentials, Link]],
        broken: Callable[[JournalError], None],
    ) -> None:
        """who: identity and channel in force now (renewal replaces them). broken: told when the device's disk fails."""
        self._config = config
        self._policy = policy
        self._keep = keep
        self._outbox = Outbox(home.outbox)
        self._shelf = Shelf(keep, self._outbox, lambda: self._peers.kept())
        self._accounts = Accounts(home.ledger, config, policy)
        self._training = training
        self._who = who
        self._broken = broken
        self._bench = Workbench(config, who()[0].client_id)
        self._jobs: dict[TaskKey, Job] = {}
        self._side: set[asyncio.Task[Any]] = set()
        self._peers = Peers(config, keep, self._outbox, lambda: (who()[0], who()[1].mailbox), policy.current)

    @functools.cached_property
    def _masking(self) -> "Masking":
        """Made, and its code loaded, for the first masked sum: many a device never sees one."""
        from edgehold.client.masking import Masking

        return Masking(
            self._keep, self._outbox, self._shelf, self._who, self._training, self._bench, self._accounts,
            self._config.transfer.stall_s,
        )  # fmt: skip

    def assigned(self, assignment: TaskAssignment) -> None:
        """The server gives a task, perhaps once more."""
        key = key_of(assignment.id)
        known = self._jobs.get(key)
        if known is not None and not known.cancelled.is_set():
            return  # told again after a reconnect; it is being done
        if len(self._jobs) >= JOBS_AT_ONCE:
            self._refuse(assignment.id, Busy(f"{len(self._jobs)} tasks are under way already"))
            return
        try:
            # Before it becomes a job: only a task that is truly the server's may take the place of an older one.
            verify(assignment, self._who()[0])
            self._allow(assignment)
        except FlError as error:
            self._refuse(assignment.id, error)
            return
        self._start(key, self._do(assignment))

    def cancelled(self, task: TaskId, reason: str) -> None:
        """The server takes a task back."""
        job = self._jobs.get(key_of(task))
        event(log, logging.INFO, "task_cancelled", reason=peer_text(reason), known=job is not None, **names(task))
        if job is not None:
            job.cancel()

    async def resume(self) -> None:
        """Bring stored updates whose receipt never came to their end; called whenever the server is there again."""
        for entry in await asyncio.to_thread(self._shelf.unsettled):
            if entry.key not in self._jobs:
                self._start(entry.key, self._settle(entry))
        for key, stored in await asyncio.to_thread(self._keep.unrevealed):
            if key not in self._jobs:
                self._start(key, self._reveal(key, TaskAssignment.FromString(stored)))

    async def close(self) -> None:
        """Stop everything where it is; what is on disk goes on at the next start."""
        await self._peers.close()
        running = [job.running for job in self._jobs.values() if job.running is not None]
        for task in (*running, *self._side):
            task.cancel()
        if running or self._side:
            await asyncio.wait([*running, *self._side])
        self._accounts.close()

    async def listen(self) -> str:
        """Open the listener for peers, where the owner wants one; returns its address, "" for none. `close` closes it."""
        return await self._peers.listen()

    def aside(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do `work` without waiting for it; `close` ends it."""
        task = asyncio.create_task(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    def _start(self, key: TaskKey, work: Work) -> None:
        """Run `work` as a job, after the older jobs of the same run. Those not yet sending make way for a newer task."""
        older = [job for job in self._jobs.values() if job.key.run == key.run]
        job = self._jobs[key] = Job(key)
        job.running = asyncio.create_task(self._run(job, work, older))

        def over(_: asyncio.Task[None]) -> None:
            # Taken back and given again, the same key may name a newer job by now.
            if self._jobs.get(key) is job:
                del self._jobs[key]

        job.running.add_done_callback(over)

    async def _run(self, job: Job, work: Work, older: list[Job]) -> None:
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
                await self._end(self._keep.cancel, job.key)
            raise
        except JournalError as error:
            event(log, logging.CRITICAL, "disk_failed", reason=error.message)
            self._broken(error)
        except Exception:
            log.exception("task_crashed", extra={"fields": {"run": job.key.run, "round": job.key.round}})

    def _do(self, assignment: TaskAssignment) -> Work:
        async def work(job: Job) -> None:
            try:
                await self._perform(job, assignment)
            except Cancelled:
                await self._end(self._keep.cancel, job.key)
            except JournalError:
                raise
            except FlError as error:
                self._refuse(assignment.id, error)

        return work

    async def _perform(self, job: Job, assignment: TaskAssignment) -> None:
        await self._training.run(lambda: self._bench.admit(assignment))
        needs = self._bench.needs(assignment.method)
        if assignment.HasField("mask") and needs.peers:
            raise PolicyRefused(f"devices of method {assignment.method!r} read each other's updates; masks would hide nothing")
        if not needs.charges:
            self._accounts.admit(assignment, assignment.mask.variance > 0)
        bare = TaskAssignment()
        bare.CopyFrom(assignment)
        bare.ClearField("inline_body")
        # The policy again: making the task may have taken long, and the owner's last word counts.
        policy = self._allow(assignment)
        entry = await asyncio.to_thread(self._keep.receive, job.key, bare.SerializeToString(), policy.rounds_per_day)
        waited = round(time.monotonic() - job.since_s, 3)
        said = {"state": entry.state, "method": assignment.method, "waited_s": waited}
        event(log, logging.INFO, "task_received", **said, **names(assignment.id))
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
        local = functools.partial(self._keep.local, job.key.run, job.key.round)  # read where the training happens
        began = time.monotonic()
        charge = functools.partial(self._accounts.charge, assignment)
        if self._bench.needs(assignment.method).peers:
            begun = await self._training.run(lambda: self._bench.begin(assignment, body, local(), job.cancelled))
            await self._read(begun)
            reach("letters_read")
            done = await self._training.run(lambda: self._bench.finish(begun, job.cancelled, charge))
        else:
            done = await self._training.run(lambda: self._bench.work(assignment, body, local(), job.cancelled, charge))
        reach("trained_not_stored")
        seconds = round(time.monotonic() - began, 3)
        parcel = await asyncio.to_thread(self._store, job, done)
        event(log, logging.INFO, "trained", seconds=seconds, bytes=parcel.length, **names(assignment.id), **done.facts)
        reach("stored_not_sent")
        return parcel

    async def _read(self, begun: Begun) -> None:
        async def decode(letters: Mapping[str, bytes]) -> dict[str, RejectedUpdate]:
            return await self._training.run(lambda: self._bench.decode(begun, letters))

        await self._peers.read(begun, decode)

    def _store(self, job: Job, done: Trained) -> Parcel:
        def note(parcel: Parcel) -> bool:
            self._policy.current().admit_length(parcel.length, "the update")
            return self._keep.trained(job.key, parcel, done.local)

        parcel = self._shelf.put(Container.blocks(done.payload), done.kind, done.durable, note)
        if parcel is None:
            raise Cancelled
        return parcel

    async def _body(self, assignment: TaskAssignment) -> bytes | memoryview:
        digest, length = assignment.base_digest, assignment.base_length
        if assignment.inline_body or length == 0:
            if hashlib.sha256(assignment.inline_body).digest() != digest:
                raise Corrupted("the inline model does not match its digest")
            return assignment.inline_body
        return await download(self._transfer, digest, length, self._config.transfer)

    def _settle(self, entry: Stored) -> Work:
        """Bring a stored update of an earlier life of this process to its end."""

        async def work(job: Job) -> None:
            assignment = TaskAssignment.FromString(entry.assignment)
            try:
                self._allow(assignment)
                if assignment.federation != self._who()[0].federation:
                    raise Stale("the update was made for another federation")
                await self._deliver(job, assignment, entry.parcel, resume=True)
            except JournalError:
                raise
            except FlError as error:
                event(log, logging.WARNING, "update_dropped", **for_the_log(error), **names(assignment.id))
                await self._end(self._keep.drop, entry.key)

        return work

    def _reveal(self, key: TaskKey, assignment: TaskAssignment) -> Work:
        """Go on with a masked sum whose vector was counted in an earlier life of this process."""

        async def work(job: Job) -> None:
            job.sending = job.settled = True
            await self._unmask(key, assignment)

        return work

    async def _again(self, entry: Entry, assignment: TaskAssignment) -> None:
        """A task that is over comes once more: true if the server has its receipt; otherwise it cannot be done twice."""
        masked = await asyncio.to_thread(self._keep.masked, entry.key) if assignment.HasField("mask") else (b"", entry.parcel)
        if entry.state == "acknowledged" and masked is not None and masked[1] is not None:
            with contextlib.suppress(TransferError):
                found = await self._upload(assignment, masked[1]).ask()
                if found.HasField("receipt"):
                    return
        raise Stale(f"this device has already {entry.state} this task")

    async def _deliver(self, job: Job, assignment: TaskAssignment, parcel: Parcel, *, resume: bool) -> None:
        """Send the stored update until the server has answered for good, then record the answer."""
        began = time.monotonic()
        plain = parcel
        if masked := assignment.HasField("mask"):
            try:
                parcel = await self._masking.vector(job.key, assignment, plain)
            except JournalError:
                raise
            except FlError as error:
                self._refuse(assignment.id, error)
                await self._end(self._keep.drop, job.key)
                return
        job.sending = True
        upload = self._upload(assignment, parcel)
        try:
            receipt = await upload.run(resume=resume)
        except FlError as error:
            event(log, logging.WARNING, "update_refused", **for_the_log(error), **names(assignment.id))
            await self._end(self._keep.drop, job.key)
            return
        job.settled = True
        reach("receipt_not_recorded")
        await asyncio.to_thread(self._counted, job.key, plain)
        seconds = round(time.monotonic() - began, 3)
        event(log, logging.INFO, "acknowledged", sequence=receipt.sequence, seconds=seconds, **names(assignment.id))
        if masked:
            await self._unmask(job.key, assignment)

    def _counted(self, key: TaskKey, plain: Parcel) -> None:
        self._keep.acknowledge(key)
        reach("recorded")
        self._shelf.counted(plain)

    async def _unmask(self, key: TaskKey, assignment: TaskAssignment) -> None:
        """The last steps of a masked sum whose vector is counted; then its secrets go."""
        try:
            await self._masking.unmask(key, assignment)
        except JournalError:
            raise
        except SecondSet:
            pass  # silence: whoever asks for a second set learns nothing, not even that
        except MaskRefused as error:
            self._refuse(assignment.id, error)
        except FlError as error:
            event(log, logging.INFO, "masked_sum_over", **for_the_log(error), **names(assignment.id))
        await self._end(self._keep.unmask, key)

    def _transfer(self) -> Stub:
        return self._who()[1].transfer

    def _upload(self, assignment: TaskAssignment, parcel: Parcel) -> Upload:
        mine, _ = self._who()
        if assignment.HasField("mask") != (parcel.kind == KIND):
            raise PolicyRefused(
                f"an upload of kind {parcel.kind!r} for a task {'with' if parcel.kind != KIND else 'without'} masks"
            )
        statement = statement_of(assignment, mine.client_id, parcel)
        path = self._outbox.path(parcel.digest)
        return Upload(self._transfer, statement, mine.signing_key, path, self._config.transfer, self._accounts.head())

    def _allow(self, assignment: TaskAssignment) -> Policy:
        """The policy, if it allows the task and this device can honour it."""
        policy = self._policy.current()
        masked = assignment.HasField("mask")
        policy.admit(assignment.task, assignment.method, masked, assignment.base_length)
        if masked:
            policy.admit_length(terms_of(assignment).payload_bytes, "the masked update")
        if self._bench.needs(assignment.method).peers:
            policy.admit_peers(assignment.method)
        return policy

    async def _end(self, end: Callable[[TaskKey], None], key: TaskKey) -> None:
        """Record the end of a task by `end`, a method of the keep, and let go of its files."""
        await asyncio.to_thread(self._shelf.end, end, key)

    def _refuse(self, task: TaskId, error: FlError) -> None:
        """Log why a task is not done, and tell the server."""
        event(log, logging.WARNING, "task_declined", **for_the_log(error), **names(task))
        self.aside(self._decline(task, error))

    async def _decline(self, task: TaskId, error: FlError) -> None:
        """Tell the server not to wait for us; if it does not hear it, its deadline says the same."""
        with contextlib.suppress(FlError):
            request = DeclineRequest(id=task, code=error.code, reason=for_the_server(error))
            await self._who()[1].control.unary("Decline", request, DeclineResponse, DECLINE_TIMEOUT_S)
