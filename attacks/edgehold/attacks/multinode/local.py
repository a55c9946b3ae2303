"""The backend of plain processes: every node a child of ours on loopback. Runs anywhere; links cannot be shaped."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgehold.attacks.demo.processes import Processes
from edgehold.attacks.multinode.backend import Ended, NotPossible, OnRound
from edgehold.attacks.multinode.config import Testbed
from edgehold.attacks.testbed import Federation, eventually
from edgehold.client import identity
from edgehold.client.config import Home
from edgehold.client.deployed import Deployed
from edgehold.proto.channel import Stub
from edgehold.proto.v1 import admin_pb2 as pb
from edgehold.server.desk import handing

CONNECTED_S = 120.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Nodes share this machine's cores, and sums repeat."""


class LocalBackend:
    """folder: homes of server and clients, and their logs. inside: see `Federation`; server: its address there."""

    def __init__(
        self,
        bed: Testbed,
        folder: Path,
        inside: Callable[[str], Sequence[str]] = lambda node: (),
        server: str = "127.0.0.1",
    ) -> None:
        self.bed = bed
        where: Mapping[str, Any] = {
            **{key: f"{server}:0" for key in ("listen", "enrol_listen", "renew_listen")},
            "advertise_host": server, "host_names": ["localhost", server],
        }  # fmt: skip
        tables: Mapping[str, Mapping[str, Any]] = {
            "server": where, "limits": {"certificate_life_s": bed.enrolment.certificate_life_s}
        }  # fmt: skip
        self._federation = Federation(folder, bed.tasks(None), tables, bed.testbed.name, inside)
        self._processes = Processes(self._federation)

    def up(self) -> None:
        """See `Backend`."""
        self._federation.start_server(ONE_THREAD)
        self._processes.note_helpers()
        for client in self.bed.clients:
            self._federation.add_client(client, self.bed.tasks(client), life_s=self.bed.enrolment.token_life_s)
            self._federation.start_client(client, ONE_THREAD)
        self._federation.wait_connected(len(self.bed.clients), CONNECTED_S)

    def turn(self) -> None:
        """See `Backend`."""
        self._federation.stop(self.bed.liars)
        eventually(lambda: self._federation.connected() == self.bed.testbed.honest, CONNECTED_S, "liars gone")
        for client in self.bed.liars:
            self._federation.configure_client(client, self.bed.tasks(client), (self.bed.attack.entry, self.bed.attack.options))
            self._federation.start_client(client, ONE_THREAD)
        self._federation.wait_connected(len(self.bed.clients), CONNECTED_S)

    def run(self, name: str, plan: str, on_round: OnRound) -> Ended:
        """See `Backend`."""

        def on_event(event: pb.WatchRunResponse) -> None:
            if event.round.state == "committed":
                on_round(event.round.round, dict(event.round.facts))

        info = self._federation.run(plan, on_event)
        return Ended(info.state, info.seconds, info.error)

    def fetch(self, run: str, path: Path) -> None:
        """See `Backend`."""

        async def read(stub: Stub) -> bytes:
            parts = stub.stream("GetModel", pb.GetModelRequest(run=run), pb.GetModelResponse)
            return b"".join([part.data async for part in parts])

        path.write_bytes(self._federation.ask(read))

    def export(self, run: str, folder: Path) -> None:
        """See `Backend`."""
        handing.export(self._federation.home, handing.Wish(run), folder)

    def deploy(self, folder: Path, client: str) -> str:
        """See `Backend`."""
        places = Home(self._federation.folder / client)
        model = Deployed(places.deployed, self.bed.task.name, identity.load(places.identity))
        return model.deploy(folder).bundle.digest

    def cut(self, client: str) -> None:
        """See `Backend`."""
        raise NotPossible("plain processes share one loopback: nothing can be cut or delayed; use --backend netns or compose")

    heal = cut

    def logs(self, folder: Path) -> None:
        """See `Backend`."""
        for log in self._federation.folder.glob("*.log"):
            shutil.copy(log, folder / log.name)

    def down(self) -> None:
        """See `Backend`."""
        self._processes.stop()
