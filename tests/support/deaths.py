"""Processes that die on purpose, in any order, and are started again without it."""

import contextlib
from collections.abc import Mapping, Sequence

from edgehold.attacks.testbed import Federation, eventually
from edgehold.core.crashpoints import EXIT_CODE, VARIABLE
from edgehold.core.errors import FlError
from edgehold.proto.v1.admin_pb2 import RunInfo


def everybody_dies(bed: Federation, name: str, plan: str, point: str, deaths: Mapping[str, str]) -> RunInfo:
    """A run in which the server dies at `point` and every client at its own, each once; as it stands at its end.

    deaths: client -> crash point.
    """
    bed.daemon.stop(9)
    bed.start_server({VARIABLE: point})
    for client, death in deaths.items():
        bed.clients[client].stop(9)
        bed.start_client(client, {VARIABLE: death})
    bed.wait_connected(len(deaths))
    with contextlib.suppress(FlError):  # the server may die before it answers
        bed.submit(plan)
    help_up(bed, sorted(deaths))
    eventually(lambda: bed.info(name).state in ("finished", "failed"), 60.0, f"the end of {name}")
    return bed.info(name)


def revive(bed: Federation, clients: Sequence[str]) -> None:
    """Server and clients killed and started anew, without a death wish, and connected."""
    for client in clients:
        bed.clients[client].stop(9)
        bed.start_client(client)
    bed.daemon.stop(9)
    bed.start_server()
    bed.wait_connected(len(clients))


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
