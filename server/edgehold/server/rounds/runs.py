"""All runs of a server: submitted, running, stopped, finished, failed; each by its own driver."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from edgehold.core.errors import ConfigError, FlError, JournalError, NotFound
from edgehold.core.plan import Plan, parse_plan
from edgehold.core.vectors import Schema, Vector
from edgehold.defenses import registry
from edgehold.proto.v1.admin_pb2 import RunInfo, WatchRunResponse
from edgehold.server.rounds.driver import Driver
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.opening import Opening
from edgehold.server.rounds.summing import sizes_of
from edgehold.server.store import records, weights_file
from edgehold.server.store.blobs import FileBlob, file_blob
from edgehold.server.store.records import RoundRow
from edgehold.server.store.transcript import must_be_open

log = logging.getLogger("edgehold.server.rounds.runs")


class Runs:
    """Drives every run. stop_process: called when the journal fails."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._drivers: dict[str, Driver] = {}
        self._watchers: dict[str, set[asyncio.Queue[WatchRunResponse]]] = {}
        self.journal_failed = asyncio.Event()
        floor.sessions.on_change(self._client_moved)

    def _client_moved(self, client: str, connected: bool) -> None:
        for driver in self._drivers.values():
            driver.gathering.client_moved(client, connected)

    # ---- what operators ask for

    def check(self, text: str, source: str = "plan") -> tuple[Plan, Any]:
        """The plan and its settings, or the `ConfigError` that says what to mend."""
        plan, settings = parse_plan(text, registry.method, source)
        if plan.run.name in self._floor.record:
            must_be_open(plan)
        task = plan.run.task
        if not self._floor.evaluation.knows(task):
            if plan.model.file is None:
                raise ConfigError(
                    f"{source}: model.file is missing and this server has no copy of task {task!r} to make initial weights; "
                    f"name a safetensors file, or add [tasks.{task}] to server.toml",
                    field="model.file",
                )
            if plan.evaluation.every:
                raise ConfigError(
                    f"{source}: evaluation.every = {plan.evaluation.every}, but this server has no copy of task {task!r} to "
                    f"score with; set evaluation.every = 0, or add [tasks.{task}] to server.toml",
                    field="evaluation.every",
                )
        members = [member for member in self._floor.roster if member.state == "active" and member.may_run(task)]
        if len(members) < plan.quorum:
            raise ConfigError(
                f"{source}: cohort.quorum = {plan.quorum} can never be reached: {len(members)} active clients may run task "
                f"{task!r}; enrol more (`fl-server token NAME`) or lower cohort.size and cohort.quorum",
                field="cohort.quorum",
            )
        self._floor.accounts.must_have(registry.method(str(plan.method["name"])), task)
        return plan, settings

    async def submit(self, text: str, model: Path | None) -> str:
        """Take a plan on and start it; returns the run's name."""
        plan, settings = self.check(text)
        run, floor = plan.run.name, self._floor
        if floor.journal.read("SELECT 1 FROM runs WHERE id=?", run):
            raise ConfigError(f"plan: run.name = {run!r} is taken; choose another name", field="run.name")
        if plan.model.file is not None:
            if model is None:
                raise ConfigError(
                    f"plan: model.file = {plan.model.file!r}, but no model came with the plan", field="model.file"
                )
            schema, blob = await asyncio.to_thread(weights_file.read, model, floor.store)
        else:
            schema, blob = await floor.evaluation.initial(plan.run.task, plan.method, plan.run.seed, floor.store)
        # A method that cannot work with such a model says so now, before the run is in the journal.
        sizes_of(plan, settings, schema)
        side = registry.server_side(str(plan.method["name"]), settings, schema, plan.run.seed)
        await asyncio.to_thread(side.start, Vector(blob))

        def insert(db: Any) -> None:
            db.execute(
                "INSERT INTO runs (id, plan, digest, schema, initial, state, created) VALUES (?, ?, ?, ?, ?, 'running', ?)",
                (run, text, plan.digest, schema.to_json(), blob.digest, time.time()),
            )
            floor.journal.append_audit(db, "run_submitted", run, plan=plan.digest.hex())

        await floor.journal.write(insert)
        self._start(run, plan, settings, schema, blob)
        return run

    async def stop(self, run: str) -> None:
        """Stop a run where it is; it can be resumed."""
        self._state_of(run)
        task, driver = self._tasks.get(run), self._drivers.get(run)
        if task is None or driver is None:
            raise ConfigError(f"run {run!r} is not running")
        task.cancel()
        await asyncio.wait([task])
        await driver.give_up("the operator stopped the run")
        await self._set_state(run, "stopped")

    async def resume(self, run: str) -> None:
        """Go on with a stopped or failed run."""
        state = self._state_of(run)
        if state not in ("stopped", "failed"):
            raise ConfigError(f"run {run!r} is {state}; only a stopped or failed run can be resumed")
        await self._set_state(run, "running")
        self._restore(run)

    def restore(self) -> None:
        """After a start: go on with every run that was running."""
        for (run,) in self._floor.journal.read("SELECT id FROM runs WHERE state='running' ORDER BY seq"):
            self._restore(run)

    def infos(self) -> list[RunInfo]:
        """Every run, oldest first."""
        return [self.info(run) for (run,) in self._floor.journal.read("SELECT id FROM runs ORDER BY seq")]

    def newest(self, most: int) -> list[RunInfo]:
        """The newest runs, newest first."""
        return [self.info(run) for (run,) in self._floor.journal.read("SELECT id FROM runs ORDER BY seq DESC LIMIT ?", most)]

    def states(self) -> Counter[str]:
        """How many runs are in which state."""
        return Counter(dict(self._floor.journal.read("SELECT state, COUNT(*) FROM runs GROUP BY state")))

    def progress(self) -> tuple[int, int]:
        """Round that the newest running run is at, and how many it is to have; (0, 0) when none runs."""
        newest = next(reversed(self._drivers.values()), None)
        return (newest.round, newest.plan.run.rounds) if newest else (0, 0)

    def info(self, run: str) -> RunInfo:
        """One run."""
        plan = self.plan(run)
        return records.run_info(self._floor.journal, run, plan.method, plan.run.task, plan.run.rounds)

    def plan(self, run: str) -> Plan:
        """The plan of a run."""
        return parse_plan(self._row(run)[0], registry.method)[0]

    def schema(self, run: str) -> Schema:
        """The model schema of a run."""
        return Schema.from_json(self._row(run)[1])

    def weights(self, row: RoundRow) -> FileBlob:
        """The dense weights of a committed round, in the order of the schema; `NotFound` when they are no longer kept."""
        text, schema, _ = self._row(row.run)
        plan, settings = parse_plan(text, registry.method)
        side = registry.server_side(str(plan.method["name"]), settings, Schema.from_json(schema), plan.run.seed)
        state = side.unpack(records.unpack(row.packed or "", self._floor.store))
        return file_blob(side.weights(state, self._floor.store).blob)

    async def watch(self, run: str, from_round: int) -> AsyncIterator[WatchRunResponse]:
        """Rounds as they are committed or scored, then the end of the run."""
        queue: asyncio.Queue[WatchRunResponse] = asyncio.Queue()
        self._state_of(run)
        self._watchers.setdefault(run, set()).add(queue)
        try:
            yield WatchRunResponse(run=self.info(run))
            for row in records.committed(self._floor.journal, run, from_round):
                yield WatchRunResponse(round=row.info())
            while run in self._tasks or not queue.empty():
                event = await queue.get()
                yield event
                if event.HasField("run"):
                    return
        finally:
            self._watchers[run].discard(queue)

    async def drain(self) -> None:
        """Stop driving; runs stay 'running' in the journal and go on at the next start."""
        for task in list(self._tasks.values()):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def pin(self) -> set[bytes]:
        """Digests of every blob some run still needs."""
        return records.pinned(self._floor.journal, self._floor.keep_models)

    def live_rounds(self) -> set[str]:
        """Names of the rounds whose keys and spools are still needed."""
        return records.live_rounds(self._floor.journal)

    # ---- inside

    def _row(self, run: str) -> tuple[Any, ...]:
        rows = self._floor.journal.read("SELECT plan, schema, initial FROM runs WHERE id=?", run)
        if not rows:
            raise NotFound(f"no run {run!r} here; `fl-server status` lists them")
        return rows[0]

    def _state_of(self, run: str) -> str:
        rows = self._floor.journal.read("SELECT state FROM runs WHERE id=?", run)
        if not rows:
            raise NotFound(f"no run {run!r} here; `fl-server status` lists them")
        return str(rows[0][0])

    async def _set_state(self, run: str, state: str, error: str = "", seconds: float = 0.0) -> None:
        def change(db: Any) -> None:
            db.execute("UPDATE runs SET state=?, error=?, seconds=seconds+? WHERE id=?", (state, error, seconds, run))
            self._floor.journal.append_audit(db, f"run_{state}", run, error=error)

        await self._floor.journal.write(change)

    def _restore(self, run: str) -> None:
        text, schema, initial = self._row(run)
        plan, settings = parse_plan(text, registry.method)
        self._start(run, plan, settings, Schema.from_json(schema), self._floor.store.open(initial))

    def _start(self, run: str, plan: Plan, settings: Any, schema: Schema, initial: FileBlob) -> None:
        name = str(plan.method["name"])
        needs, sizes = registry.method(name).needs(settings), sizes_of(plan, settings, schema)
        opening = Opening(self._floor, plan, schema, registry.codec(name, settings), needs, sizes)
        side = registry.server_side(name, settings, schema, plan.run.seed)
        driver = Driver(self._floor, run, plan, initial, side, opening, lambda row: self._tell(run, row))
        self._drivers[run] = driver
        self._tasks[run] = asyncio.create_task(self._drive(run, driver), name=f"run {run}")

    async def _drive(self, run: str, driver: Driver) -> None:
        started = time.monotonic()
        try:
            try:
                await driver.drive()
                await self._set_state(run, "finished", "", time.monotonic() - started)
                log.info("run %s finished", run)
            except asyncio.CancelledError:
                raise
            except JournalError:
                raise
            except Exception as error:
                known = isinstance(error, FlError)
                log.error("run %s failed: %s", run, error, exc_info=None if known else error)
                text = str(error) if known else f"{type(error).__name__}: {error}"
                await self._set_state(run, "failed", text, time.monotonic() - started)
        except JournalError as error:
            log.critical("the journal failed: %s", error)
            self.journal_failed.set()
        finally:
            self._drivers.pop(run, None)
            self._tasks.pop(run, None)
            with contextlib.suppress(JournalError):
                self._announce(run, WatchRunResponse(run=self.info(run)))

    def _tell(self, run: str, row: RoundRow) -> None:
        if "accuracy" in row.facts:
            self._floor.metrics.scored(row.facts)
        log.info(
            "run %s round %d %s", run, row.round, row.state,
            extra={"run": run, "round": row.round, "attempt": row.attempt, "state": row.state, "facts": row.facts},
        )  # fmt: skip
        self._announce(run, WatchRunResponse(round=row.info()))

    def _announce(self, run: str, event: WatchRunResponse) -> None:
        for queue in self._watchers.get(run, ()):
            queue.put_nowait(event)
