"""Processes that die on purpose, in any order, and are started again without it."""

from collections.abc import Sequence

from edgehold.attacks.testbed import Federation, eventually
from edgehold.core.crashpoints import EXIT_CODE


def help_up(bed: Federation, clients: Sequence[str]) -> None:
    """Waits until the server and every one of the clients has died at its crash point once, and starts each anew."""
    fallen: set[str] = set()
    while len(fallen) < 1 + len(clients):

        def found() -> str:
            down = [client for client in clients if client not in fallen and not bed.clients[client].alive]
            return next(iter(down), "server" if "server" not in fallen and not bed.daemon.alive else "")

        victim = eventually(found, 60.0, "the next death")
        fallen.add(victim)
        if victim == "server":
            assert bed.daemon.wait() == EXIT_CODE
            bed.start_server()
        else:
            assert bed.clients[victim].wait() == EXIT_CODE
            bed.start_client(victim)
