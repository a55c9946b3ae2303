"""The server as a process: everything put together, listening, and taken apart again."""

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health
from prometheus_client import CollectorRegistry

from edgehold.core import keys
from edgehold.core.errors import ConfigError, JournalError
from edgehold.core.identity import Role
from edgehold.core.privacy.ledger import Limit
from edgehold.proto import listen
from edgehold.proto.channel import options
from edgehold.proto.rpc import service
from edgehold.proto.v1 import admin_pb2, control_pb2, mailbox_pb2, masks_pb2, transfer_pb2
from edgehold.proto.v1.control_pb2 import ConnectResponse, Draining
from edgehold.server.config import ServerConfig, keys_folder
from edgehold.server.desk import page
from edgehold.server.desk.operator import SOCKET, socket_address
from edgehold.server.identity.ca import CertificateAuthority, trusted_pem
from edgehold.server.identity.roster import Roster
from edgehold.server.identity.tokens import Tokens
from edgehold.server.metrics import Metrics
from edgehold.server.rounds.accounts import Accounts
from edgehold.server.rounds.admission import Admission
from edgehold.server.rounds.board import Board
from edgehold.server.rounds.evaluation import Evaluation
from edgehold.server.rounds.floor import Floor
from edgehold.server.rounds.gauges import Gauges
from edgehold.server.rounds.overview import Overview
from edgehold.server.rounds.runs import Runs
from edgehold.server.rounds.sessions import Sessions
from edgehold.server.store.blobs import BlobStore
from edgehold.server.store.journal import Journal
from edgehold.server.store.spool import RoundKeys
from edgehold.server.wire.admin import AdminService
from edgehold.server.wire.control import ControlService
from edgehold.server.wire.enrolment import Issuer, own_tls, start_enrolment, start_renewal
from edgehold.server.wire.gate import Doorman, RefusalLog, background
from edgehold.server.wire.loopback import Loopback, Reply, Route, loopback_address
from edgehold.server.wire.mailbox import MailboxService
from edgehold.server.wire.masks import MaskService
from edgehold.server.wire.transfer import TransferService

log = logging.getLogger("edgehold.server")

DRAIN_S = 5.0
RECONNECT_S = 1.0
HANDSHAKES_PER_S = 200.0
_FILES_PER_CLIENT = 4  # two connections, an upload under way and one that was admitted

_CONTROL = control_pb2.DESCRIPTOR.services_by_name["ControlService"]
_TRANSFER = transfer_pb2.DESCRIPTOR.services_by_name["TransferService"]
_MAILBOX = mailbox_pb2.DESCRIPTOR.services_by_name["MailboxService"]
_MASKS = masks_pb2.DESCRIPTOR.services_by_name["MaskService"]
_ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server proves itself with.

    tls: of every listener, read anew for each handshake. authority: None where enrolment is a process of its own, so that
    this one cannot read the enrolment key.
    """

    signing_key: Ed25519PrivateKey
    tls: Callable[[], listen.Tls]
    authority: CertificateAuthority | None

    @classmethod
    def load(cls, home: Path, config: ServerConfig) -> "Identity":
        """Keys of a home folder; `IdentityError` when they are missing or readable by others."""
        path, ca = home / "identity", config.ca_folder(home)
        signing_key = keys.signing_key(keys.load_version(path, ["signing.key"], [])["signing.key"], f"{path}/signing.key")
        if config.server.enrolment == "apart":
            return cls(signing_key, listen.from_folder(path, partial(trusted_pem, ca)), None)
        authority = CertificateAuthority(ca)
        fingerprint = keys.fingerprint(keys.public_bytes(signing_key))
        tls = own_tls(authority, config.server.name, fingerprint, config.server.host_names)
        return cls(signing_key, tls, authority)


class Daemon:
    """One server process on one home folder. addresses: what devices call, by listener, once `run` says it is ready."""

    def __init__(self, home: Path, config: ServerConfig) -> None:
        self._home = home
        self._config = config
        self._stop = asyncio.Event()
        self._failed = False
        self._servers: list[grpc.aio.Server] = []
        self._doormen: list[Doorman] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._health = health.HealthServicer()
        self._loopback: Loopback | None = None
        self.addresses: dict[str, str] = {}

    async def run(self, ready: Callable[["Daemon"], None]) -> int:
        """Serve until told to stop; returns the exit code. ready: called once everything listens."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        self._check_home()
        _allow_files(_FILES_PER_CLIENT * self._config.limits.clients)
        for run, numbers in self._config.record.items():
            log.warning("server.toml asks for it: updates of run %s, rounds %s, are kept in the clear", run, list(numbers))
        with contextlib.ExitStack() as stack:
            metrics = Metrics(CollectorRegistry())
            journal = Journal(self._home, metrics.journal_sync.observe)
            stack.callback(journal.close)
            stack.callback((self._home / SOCKET).unlink, missing_ok=True)
            identity = Identity.load(self._home, self._config)
            floor = self._floor(journal, identity, metrics)
            # Before the first socket: no process is started beside gRPC's threads.
            await floor.evaluation.start()
            runs = Runs(floor)
            self._clear_orphans(runs, floor)
            try:
                refusals = RefusalLog(journal, floor.metrics, background(self._tasks), self._broken)
                await self._open(floor, runs, identity, refusals)
                if identity.authority is not None:
                    tokens = Tokens(identity.authority.folder)
                    stack.callback(tokens.close)
                    issuer = self._issuer(identity, identity.authority, tokens, refusals)
                    await self._open_enrolment(issuer, identity, floor.roster)
                runs.restore()
                # Rounds that were open are on the board again before the first client is let in.
                await asyncio.sleep(0)
                for doorman in self._doormen:
                    doorman.draining = False
                await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
                ready(self)
                await self._serve(runs, floor.sessions)
                await runs.drain()
            finally:
                if self._loopback is not None:
                    await self._loopback.stop()
                await asyncio.gather(*(server.stop(RECONNECT_S) for server in self._servers))
                await floor.evaluation.stop()
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=DRAIN_S)
        return 1 if self._failed else 0

    # ---- putting together

    def _check_home(self) -> None:
        mode = stat.S_IMODE(self._home.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{self._home}: mode {mode:o}; keys and the admin socket lie in it, so it must be for its owner alone: "
                f"chmod 700 {self._home}"
            )

    def _floor(self, journal: Journal, identity: Identity, metrics: Metrics) -> Floor:
        config, board = self._config, Board()
        spool = self._home / "spool"
        spool.mkdir(mode=0o700, exist_ok=True)
        federation, limits, ca = config.server.federation, config.limits, config.ca_folder(self._home)
        admission = Admission(
            journal, board, federation, spool, limits.max_payload_bytes, config.store.min_free_share,
            lambda code: metrics.rejections.labels(code).inc(),
        )  # fmt: skip
        sessions = Sessions()
        sessions.on_change(lambda client, connected: metrics.clients_connected.set(len(sessions)))
        return Floor(
            federation, identity.signing_key, journal, Roster(journal), sessions, board, admission,
            RoundKeys(keys_folder(config, self._home)), BlobStore(self._home / "blobs"), spool,
            Evaluation(config.tasks, spool), metrics, config.store.keep_models,
            Accounts(self._home / "ledger.db", {k: Limit(b.max_epsilon, b.delta) for k, b in config.budgets.items()}),
            lambda: x509.load_pem_x509_certificates(trusted_pem(ca)),
            config.record, self._home / "transcripts", config.aggregation.ray,
        )  # fmt: skip

    def _clear_orphans(self, runs: Runs, floor: Floor) -> None:
        """What a crash left that no journal line speaks of: unpublished blobs, keys and spools of rounds that are over."""
        floor.store.keep_only(runs.pin())
        live = runs.live_rounds()
        floor.keys.destroy_all_but(live)
        for path in floor.spool.iterdir():
            if path.name in live:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    # ---- listening

    async def _open(self, floor: Floor, runs: Runs, identity: Identity, refusals: RefusalLog) -> None:
        config, metrics = self._config, floor.metrics
        clients, operators, local = (self._doorman(role, floor.roster, refusals) for role in ("client", "operator", None))
        control = ControlService(
            floor.federation, floor.journal.epoch, floor.roster, floor.sessions, floor.board,
            lambda client, code: metrics.declines.labels(code=code).inc(),
        )  # fmt: skip
        transfer = TransferService(floor.roster, floor.board, floor.admission, config.limits.progress_window_s)
        admin = AdminService(floor, runs, floor.journal.epoch, self.addresses, self._stop.set)
        await self._open_main(
            [
                service(_CONTROL, control, clients),
                service(_TRANSFER, transfer, clients),
                service(_MAILBOX, MailboxService(floor.roster, floor.board, floor.sessions), clients),
                service(_MASKS, MaskService(floor.roster, floor.board), clients),
                service(_ADMIN, admin, operators),
                self._health_handler(),
            ],
            identity,
        )
        await self._open_socket(service(_ADMIN, admin, local))
        self._open_loopback(floor, runs)

    def _issuer(self, identity: Identity, authority: CertificateAuthority, tokens: Tokens, refusals: RefusalLog) -> Issuer:
        return Issuer(
            authority, tokens, keys.public_bytes(identity.signing_key), self._config.limits.certificate_life_s,
            refused=lambda method, name, error: refusals.note(name, "-", method, error), broken=self._broken,
        )  # fmt: skip

    async def _open_enrolment(self, issuer: Issuer, identity: Identity, roster: Roster) -> None:
        where = self._config.server
        self._took("enrol", *await start_enrolment(issuer, where.enrol_listen, identity.tls))
        self._took("renew", *await start_renewal(issuer, where.renew_listen, identity.tls, roster.require))

    def _doorman(self, role: Role | None, roster: Roster, refusals: RefusalLog) -> Doorman:
        doorman = Doorman(role, self._config.server.federation, roster, refusals, self._config.limits.calls_per_second)
        doorman.draining = True
        self._doormen.append(doorman)
        return doorman

    def _took(self, key: str, server: grpc.aio.Server, port: int) -> None:
        self._servers.append(server)
        self.addresses[key] = f"{self._config.server.advertise_host}:{port}"

    async def _open_main(self, handlers: list[grpc.GenericRpcHandler], identity: Identity) -> None:
        credentials = listen.server_credentials(identity.tls, client_certificates=True)
        limits = listen.server_options(max_connections=2 * self._config.limits.clients)
        self._took("server", *await listen.start(handlers, self._config.server.listen, credentials, limits))

    def _health_handler(self) -> grpc.GenericRpcHandler:
        """The standard health service; any certificate of the federation may ask."""
        codec = {
            "request_deserializer": health_pb2.HealthCheckRequest.FromString,
            "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health",
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._health.Check, **codec),
                "Watch": grpc.unary_stream_rpc_method_handler(self._health.Watch, **codec),
            },
        )

    async def _open_socket(self, handler: grpc.GenericRpcHandler) -> None:
        path = self._home / SOCKET
        path.unlink(missing_ok=True)
        server = grpc.aio.server(handlers=[handler], options=options())
        try:
            server.add_insecure_port(socket_address(self._home))
        except RuntimeError:
            raise ConfigError(f"{path}: cannot be listened on; is the path longer than 107 bytes?") from None
        await server.start()
        path.chmod(0o600)
        self._servers.append(server)

    def _open_loopback(self, floor: Floor, runs: Runs) -> None:
        where = self._config.server.metrics_listen
        if not where:
            return
        host, port = loopback_address(where)
        gauges = Gauges(floor, runs, self._config.limits.certificate_life_s)
        routes: dict[str, Route[Any]] = {
            "/metrics": Route(gauges.measure, lambda _, accept: Reply(*floor.metrics.exposition(accept)))
        }
        if self._config.server.status_page:
            page.must_have_engine()
            overview = Overview(floor, runs, gauges, time.time())
            routes |= {"/": Route(overview.now, page.html), "/status.json": Route(overview.now, page.as_json)}
        self._loopback = Loopback(host, port, routes)
        self.addresses["metrics"] = f"{host}:{self._loopback.port}"

    # ---- until the end

    async def _serve(self, runs: Runs, sessions: Sessions) -> None:
        waits = [asyncio.create_task(self._stop.wait()), asyncio.create_task(runs.journal_failed.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._failed = self._failed or runs.journal_failed.is_set()
        log.info("stopping")
        for doorman in self._doormen:
            doorman.draining = True
        await self._health.enter_graceful_shutdown()
        # Pace steering: a fleet that all comes back at once would only be told to wait.
        wait_s = RECONNECT_S + len(sessions.connected) / HANDSHAKES_PER_S
        sessions.end_all(ConnectResponse(draining=Draining(reconnect_after_s=wait_s)))

    def _signalled(self) -> None:
        if self._stop.is_set():
            os._exit(130)
        self._stop.set()

    def _broken(self, error: JournalError) -> None:
        log.critical("stopping because the journal failed: %s", error)
        self._failed = True
        self._stop.set()


def _allow_files(count: int) -> None:
    """Let this process open so many files and connections, as far as it may: many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
