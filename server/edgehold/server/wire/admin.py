"""AdminService: for operators, over a local socket guarded by file permissions or with an operator's certificate."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from edgehold.core.about import VERSION
from edgehold.core.errors import ConfigError, NotFound, WrongShape
from edgehold.core.vectors import blocks
from edgehold.proto.rpc import Caller
from edgehold.proto.strict import name
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.runs import Runs
from edgehold.server.store import records, weights_file
from edgehold.server.store.records import RoundRow

OF_CLIENTS = frozenset({"clients", "rows"})
"""Blobs of a packed state that say what single clients said (`edgehold.defenses.memory`)."""


class AdminService:
    """What an operator can ask. addresses: what devices call, by listener; shut_down: begins a graceful stop."""

    def __init__(
        self, floor: Floor, runs: Runs, epoch: int, addresses: Mapping[str, str], shut_down: Callable[[], None]
    ) -> None:
        self._floor = floor
        self._runs = runs
        self._epoch = epoch
        self._addresses = addresses
        self._shut_down = shut_down
        self._started = time.monotonic()

    async def submit_run(self, requests: AsyncIterator[pb.SubmitRunRequest], caller: Caller) -> pb.SubmitRunResponse:
        """Take a plan (and its model) on and start it."""
        first = await anext(requests, None)
        if first is None:
            raise WrongShape("a submission starts with the plan")
        self._runs.check(first.plan_toml)
        with NamedTemporaryFile(dir=self._floor.spool, suffix=".model") as file:
            size = file.write(first.model_data)
            async for more in requests:
                size += file.write(more.model_data)
            file.flush()
            return pb.SubmitRunResponse(run=await self._runs.submit(first.plan_toml, Path(file.name) if size else None))

    async def stop_run(self, request: pb.StopRunRequest, caller: Caller) -> pb.StopRunResponse:
        """Stop a run where it is."""
        await self._runs.stop(request.run)
        return pb.StopRunResponse()

    async def resume_run(self, request: pb.ResumeRunRequest, caller: Caller) -> pb.ResumeRunResponse:
        """Go on with a stopped or failed run."""
        await self._runs.resume(request.run)
        return pb.ResumeRunResponse()

    async def watch_run(self, request: pb.WatchRunRequest, caller: Caller) -> AsyncIterator[pb.WatchRunResponse]:
        """Rounds past and present until the run ends."""
        async for event in self._runs.watch(request.run, request.from_round):
            yield event

    async def get_status(self, request: pb.GetStatusRequest, caller: Caller) -> pb.GetStatusResponse:
        """The server at a glance."""
        return pb.GetStatusResponse(
            federation=self._floor.federation,
            boot_epoch=self._epoch,
            runs=self._runs.infos(),
            clients_connected=len(self._floor.sessions.connected),
            clients_active=sum(member.state == "active" for member in self._floor.roster),
            rejections=self._floor.metrics.refusals_by_code(),
            uptime_s=time.monotonic() - self._started,
            software=VERSION,
            listen=self._addresses.get("server", ""),
            enrol=self._addresses.get("enrol", ""),
            renew=self._addresses.get("renew", ""),
            metrics=self._addresses.get("metrics", ""),
        )

    async def list_clients(self, request: pb.ListClientsRequest, caller: Caller) -> pb.ListClientsResponse:
        """The roster."""
        counts = {row[0]: row[1:] for row in self._floor.journal.read("SELECT id, admitted, rejected FROM clients")}
        return pb.ListClientsResponse(
            clients=[
                pb.ClientInfo(
                    client_id=member.id,
                    state=member.state,
                    enrolled=bool(member.signing_key),
                    connected=member.id in self._floor.sessions.connected,
                    updates_admitted=counts[member.id][0],
                    updates_rejected=counts[member.id][1],
                    certificate_expires_unix_s=member.expires,
                    allowed_plans=member.allowed_tasks,
                )
                for member in self._floor.roster
            ]
        )

    async def add_client(self, request: pb.AddClientRequest, caller: Caller) -> pb.AddClientResponse:
        """Put a client on the roster; its token is minted beside the enrolment key."""
        allowed = tuple(name(task, "task") for task in request.allowed_plans)
        await self._floor.roster.add(name(request.client_id, "client id"), allowed)
        # Whoever is connected under this name is so with a certificate that counts no more.
        self._floor.sessions.end(request.client_id)
        return pb.AddClientResponse()

    async def set_client_state(self, request: pb.SetClientStateRequest, caller: Caller) -> pb.SetClientStateResponse:
        """Suspend, revoke or reactivate; whoever is no longer active is cut off at once."""
        await self._floor.roster.set_state(request.client_id, request.state)
        if request.state != "active":
            self._floor.sessions.end(request.client_id)
            self._floor.board.shut_out(request.client_id)
        return pb.SetClientStateResponse()

    async def get_model(self, request: pb.GetModelRequest, caller: Caller) -> AsyncIterator[pb.GetModelResponse]:
        """A committed model as a safetensors file."""
        info = self._runs.info(request.run)
        row, schema = self._committed(request.run, request.round), self._runs.schema(request.run)
        if row.model is None:
            raise ConfigError(f"run {request.run!r} round {row.round} has no model")
        try:
            blob = await asyncio.to_thread(self._runs.weights, row)
        except NotFound:
            raise self._gone(row) from None
        about = {
            "edgehold_run": row.run, "edgehold_round": str(row.round), "edgehold_model_sha256": row.model.hex(),
            "edgehold_weights_sha256": blob.digest.hex(),
            "edgehold_plan_sha256": info.plan_digest.hex(), "edgehold_task": info.task,
        }  # fmt: skip
        yield pb.GetModelResponse(data=weights_file.header(schema, about))
        for start, stop in blocks(blob.size, 1 << 20):
            yield pb.GetModelResponse(data=blob.read(start, stop))

    async def get_state(self, request: pb.GetStateRequest, caller: Caller) -> AsyncIterator[pb.GetStateResponse]:
        """What a method's server half keeps of a committed round, and the plan it belongs to: for whoever hands it over."""
        info = self._runs.info(request.run)
        row = self._committed(request.run, request.round)
        try:
            packed = records.unpack(row.packed or '{"scalars": {}, "blobs": {}}', self._floor.store)
        except NotFound:
            raise self._gone(row) from None
        # What is remembered of single clients is nobody's business outside the method.
        blobs_sent = {key: blob for key, blob in packed.blobs.items() if key not in OF_CLIENTS}
        ((plan,),) = self._floor.journal.read("SELECT plan FROM runs WHERE id=?", request.run)
        yield pb.GetStateResponse(
            plan_toml=plan, schema_json=self._runs.schema(request.run).to_json(), scalars_json=json.dumps(dict(packed.scalars)),
            blobs=[pb.StateBlob(name=key, size=blob.size) for key, blob in blobs_sent.items()], run=info, round=row.info(),
        )  # fmt: skip
        for blob in blobs_sent.values():
            for start, stop in blocks(blob.size, 1 << 20):
                yield pb.GetStateResponse(data=bytes(blob.read(start, stop)))

    def _committed(self, run: str, number: int) -> RoundRow:
        """A committed round, the newest one for 0."""
        rows = [row for row in records.committed(self._floor.journal, run, number) if not number or row.round == number]
        if not rows:
            raise NotFound(f"run {run!r} has no committed round {number or ''}".rstrip())
        return rows[-1]

    def _gone(self, row: RoundRow) -> NotFound:
        return NotFound(
            f"run {row.run!r} round {row.round}: its model is no longer kept; the newest {self._floor.keep_models} are "
            "(store.keep_models)"
        )

    async def shutdown(self, request: pb.ShutdownRequest, caller: Caller) -> pb.ShutdownResponse:
        """Stop gracefully."""
        self._shut_down()
        return pb.ShutdownResponse()
