"""The backend of network namespaces: the same processes as on loopback, each on a host of its own, behind a link of its own."""

import os
from pathlib import Path

from edgehold.attacks.multinode import ground
from edgehold.attacks.multinode.backend import Ended, OnRound
from edgehold.attacks.multinode.config import Testbed
from edgehold.attacks.multinode.links import Links
from edgehold.attacks.multinode.local import LocalBackend
from edgehold.attacks.multinode.network import Network
from edgehold.attacks.multinode.shaper import SERVER


class NetnsBackend:
    """folder: homes, logs and the shaper's socket."""

    def __init__(self, bed: Testbed, folder: Path) -> None:
        self._bed, self._folder = bed, folder
        self._network = Network(f"{os.getpid():x}", (SERVER, *bed.clients))
        self._links: Links | None = None
        self._local: LocalBackend | None = None

    def up(self) -> None:
        """See `Backend`. Enrolment already goes over the shaped links."""
        self._network.up(shaped=True)
        specs = {node: (self._network.file(node), self._network.address(node)) for node in self._network.nodes}
        self._links = Links(self._folder, specs, self._bed.testbed.seed)
        for client in self._bed.clients:
            self._links.set(client, self._bed.link)
        ground.note(self._folder, "netns", self._bed.clients, control=str(self._links.control.resolve()))
        self._local = LocalBackend(self._bed, self._folder, self._network.inside, self._network.address(SERVER))
        self._local.up()

    def turn(self) -> None:
        """See `Backend`."""
        self._nodes.turn()

    def run(self, name: str, plan: str, on_round: OnRound) -> Ended:
        """See `Backend`."""
        return self._nodes.run(name, plan, on_round)

    def fetch(self, run: str, path: Path) -> None:
        """See `Backend`."""
        self._nodes.fetch(run, path)

    def export(self, run: str, folder: Path) -> None:
        """See `Backend`."""
        self._nodes.export(run, folder)

    def deploy(self, folder: Path, client: str) -> str:
        """See `Backend`."""
        return self._nodes.deploy(folder, client)

    def cut(self, client: str) -> None:
        """See `Backend`."""
        self._shaped.cut(client)

    def heal(self, client: str) -> None:
        """See `Backend`."""
        self._shaped.heal(client)

    def logs(self, folder: Path) -> None:
        """See `Backend`."""
        if self._local is not None:
            self._local.logs(folder)

    def down(self) -> None:
        """See `Backend`."""
        try:
            if self._local is not None:
                self._local.down()
        finally:
            ground.forget(self._folder)
            if self._links is not None:
                self._links.close()
            self._network.down()

    @property
    def _nodes(self) -> LocalBackend:
        assert self._local is not None, "not up"
        return self._local

    @property
    def _shaped(self) -> Links:
        assert self._links is not None, "not up"
        return self._links
