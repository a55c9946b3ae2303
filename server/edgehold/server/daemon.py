"""The server as a process: everything put together, listening, and taken apart again."""

import asyncio
import contextlib
import logging
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry, start_http_server

from edgehold.core import keys
from edgehold.core.errors import ConfigError, JournalError
from edgehold.core.identity import Role
from edgehold.proto.channel import options
from edgehold.proto.v1 import admin_pb2, control_pb2, transfer_pb2
from edgehold.proto.v1.control_pb2 import ConnectResponse, Draining
from edgehold.server.admin import AdminService
from edgehold.server.admission import Admission
from edgehold.server.blobs import BlobStore
from edgehold.server.board import Board
from edgehold.server.ca import CertificateAuthority
from edgehold.server.config import ServerConfig, keys_folder
from edgehold.server.control import ControlService
from edgehold.server.driver import Floor
from edgehold.server.enrolment import Issuer, own_tls, start_enrolment, start_renewal
from edgehold.server.evaluation import Evaluation
from edgehold.server.gate import Doorman, RefusalLog, background
from edgehold.server.journal import Journal
from edgehold.server.listen import server_credentials, server_options
from edgehold.server.metrics import Metrics
from edgehold.server.operator import SOCKET, socket_address
from edgehold.server.roster import Roster
from edgehold.server.rpc import service
from edgehold.server.runs import Runs
from edgehold.server.sessions import Sessions
from edgehold.server.spool import RoundKeys
from edgehold.server.tokens import Tokens
from edgehold.server.transfer import TransferService

log = logging.getLogger("edgehold.server")

DRAIN_S = 5.0


def bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None, key: str) -> int:
    """Listen on host:port (port 0 for any); returns the port. `ConfigError` names the key when it cannot."""
    try:
        port: int = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if not port:
        raise ConfigError(f"server.toml: {key} = {address!r} cannot be listened on (taken, or not an address of this machine)")
    return port


class Daemon:
    """One server process on one home folder."""

    def __init__(self, home: Path, config: ServerConfig) -> None:
        self._home = home
        self._config = config
        self._stop = asyncio.Event()
        self._failed = False
        self._servers: list[grpc.aio.Server] = []
        self._doormen: list[Doorman] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.addresses: dict[str, str] = {}

    async def run(self, ready: Callable[["Daemon"], None]) -> int:
        """Serve until told to stop; returns the exit code. ready: called once everything listens."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        config, home = self._config, self._home
        journal = Journal(home)
        try:
            with contextlib.ExitStack() as stack:
                authority = CertificateAuthority(home / "ca")
                pem = keys.load_version(home / "identity", ["signing.key"], [])["signing.key"]
                signing_key = keys.signing_key(pem, "signing.key")
                roster, sessions, board = Roster(journal), Sessions(), Board()
                spool = home / "spool"
                spool.mkdir(mode=0o700, exist_ok=True)
                metrics = Metrics(CollectorRegistry())
                admission = Admission(
                    journal, board, config.server.federation, spool,
                    config.limits.max_payload_bytes, config.store.min_free_share,
                )  # fmt: skip
                evaluation = Evaluation(config.tasks, spool)
                await evaluation.start()
                floor = Floor(
                    config.server.federation, signing_key, journal, roster, sessions, board, admission,
                    RoundKeys(keys_folder(config, home)), BlobStore(home / "blobs"), spool, evaluation, metrics,
                    config.store.keep_models,
                )  # fmt: skip
                runs = Runs(floor)
                refusals = RefusalLog(journal, roster, metrics, background(self._tasks), self._broken)
                sessions.on_change(lambda client, connected: metrics.clients_connected.set(len(sessions.connected)))

                tokens = Tokens(home / "ca")
                stack.callback(tokens.close)
                fingerprint = keys.fingerprint(keys.public_bytes(signing_key))
                tls = own_tls(authority, config.server.name, fingerprint, config.server.host_names)
                issuer = Issuer(
                    authority, tokens, keys.public_bytes(signing_key), config.limits.certificate_life_s,
                    refused=lambda method, name, error: metrics.refusals.labels(code=error.code).inc(),
                    broken=self._broken,
                )  # fmt: skip

                self._clear_orphans(runs, floor)
                clients, operators, local = (self._doorman(role, roster, refusals) for role in ("client", "operator", None))
                control = ControlService(
                    config.server.federation, journal.epoch, roster, sessions, board,
                    lambda client, code: metrics.declines.labels(code=code).inc(),
                )  # fmt: skip
                transfer = TransferService(roster, board, admission, config.limits.progress_window_s)

                main = grpc.aio.server(options=server_options())
                port = bind(main, config.server.listen, server_credentials(tls, client_certificates=True), "server.listen")
                self.addresses["server"] = f"{config.server.advertise_host}:{port}"
                admin = AdminService(floor, runs, journal.epoch, self.addresses, self._stop.set)
                main.add_generic_rpc_handlers(
                    (
                        service(control_pb2.DESCRIPTOR.services_by_name["ControlService"], control, clients),
                        service(transfer_pb2.DESCRIPTOR.services_by_name["TransferService"], transfer, clients),
                        service(admin_pb2.DESCRIPTOR.services_by_name["AdminService"], admin, operators),
                    )
                )
                desk = grpc.aio.server(options=options())
                self._local_socket(desk)
                desk.add_generic_rpc_handlers((service(admin_pb2.DESCRIPTOR.services_by_name["AdminService"], admin, local),))
                for server in (main, desk):
                    await server.start()
                    self._servers.append(server)
                (home / SOCKET).chmod(0o600)
                for key, (server, port) in (
                    ("enrol", await start_enrolment(issuer, config.server.enrol_listen, tls)),
                    ("renew", await start_renewal(issuer, config.server.renew_listen, tls, roster.require)),
                ):
                    self._servers.append(server)
                    self.addresses[key] = f"{config.server.advertise_host}:{port}"
                self._start_metrics(metrics)
                runs.restore()
                for doorman in self._doormen:
                    doorman.draining = False
                ready(self)
                await self._serve(runs, sessions)
                await runs.drain()
                for server in self._servers:
                    await server.stop(1.0)
                await evaluation.stop()
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=DRAIN_S)
        finally:
            (home / SOCKET).unlink(missing_ok=True)
            journal.close()
        return 1 if self._failed else 0

    def _doorman(self, role: Role | None, roster: Roster, refusals: RefusalLog) -> Doorman:
        doorman = Doorman(role, self._config.server.federation, roster, refusals, self._config.limits.calls_per_second)
        doorman.draining = True
        self._doormen.append(doorman)
        return doorman

    def _clear_orphans(self, runs: Runs, floor: Floor) -> None:
        """What a crash left that no journal line speaks of: unpublished blobs, keys and spools of rounds that are over."""
        floor.store.keep_only(runs.pin())
        live = runs.live_rounds()
        floor.keys.destroy_all_but(live)
        for folder in floor.spool.iterdir():
            if folder.name not in live:
                if folder.is_dir():
                    for path in folder.iterdir():
                        path.unlink()
                    folder.rmdir()
                else:
                    folder.unlink()

    def _local_socket(self, server: grpc.aio.Server) -> None:
        path = self._home / SOCKET
        mode = stat.S_IMODE(self._home.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{self._home}: mode {mode:o}; the admin socket in it must be for its owner alone: chmod 700 {self._home}"
            )
        path.unlink(missing_ok=True)
        bind(server, socket_address(self._home), None, "--home")

    def _start_metrics(self, metrics: Metrics) -> None:
        host, _, port = self._config.server.metrics_listen.rpartition(":")
        if not host:
            return
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise ConfigError(f"server.toml: server.metrics_listen = {host!r}: metrics are served on loopback only")
        try:
            server, _ = start_http_server(int(port), host, metrics.registry)
        except (OSError, ValueError) as error:
            raise ConfigError(f"server.toml: server.metrics_listen cannot be listened on: {error}") from None
        self.addresses["metrics"] = f"{host}:{server.server_port}"

    async def _serve(self, runs: Runs, sessions: Sessions) -> None:
        waits = [asyncio.create_task(self._stop.wait()), asyncio.create_task(runs.journal_failed.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        self._failed = self._failed or runs.journal_failed.is_set()
        log.info("stopping")
        for doorman in self._doormen:
            doorman.draining = True
        sessions.end_all(ConnectResponse(draining=Draining(reconnect_after_s=1.0)))

    def _signalled(self) -> None:
        if self._stop.is_set():
            os._exit(130)
        self._stop.set()

    def _broken(self, error: JournalError) -> None:
        log.critical("stopping because the journal failed: %s", error)
        self._failed = True
        self._stop.set()
