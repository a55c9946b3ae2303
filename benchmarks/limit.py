"""What the machine itself needs: the same bytes over plain TLS sockets, one to fetch and one to send per client.

    python -m benchmarks.limit CLIENTS BYTES ROUNDS     prints the seconds of each round as JSON

No storage, no digests, no messages: whatever a round takes beyond this is ours. Server and clients are processes of their
own, as in the rounds they are compared with; every client fetches first and sends then.
"""

import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from edgehold.core import keys
from edgehold.server.identity.ca import CertificateAuthority

PIECE = 1 << 20
NAME = 12
"""Bytes of a connection's name."""


def seconds(clients: int, size: int, rounds: int = 3) -> float:
    """Median seconds in which `clients` processes fetch `size` bytes each and send as many back."""
    command = [sys.executable, "-m", "benchmarks.limit", str(clients), str(size), str(rounds)]
    found = subprocess.run(command, capture_output=True, check=True, timeout=600)
    times: list[float] = json.loads(found.stdout)
    return median(times)


def _serve(clients: int, size: int, rounds: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        authority = CertificateAuthority.create(home / "ca", "limit")
        authority.equip("server", "server", home / "server")
        authority.equip("client", "client", home / "client")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _identify(tls, home / "server")
        tls.verify_mode = ssl.CERT_REQUIRED
        listener = socket.create_server(("127.0.0.1", 0), backlog=2 * clients)
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.limit", "client", str(home / "client"), str(port), str(size), str(rounds)]
        children = [subprocess.Popen([*command, str(number)]) for number in range(clients)]
        links: dict[bytes, ssl.SSLSocket] = {}
        while len(links) < 2 * clients:
            link = tls.wrap_socket(listener.accept()[0], server_side=True)
            links[link.recv(NAME)] = link
        pairs = [(links[_name("down", number)], links[_name("up", number)]) for number in range(clients)]
        found = []
        for _ in range(rounds):
            began = time.monotonic()
            threads = [threading.Thread(target=_round, args=(*pair, size)) for pair in pairs]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            found.append(time.monotonic() - began)
        for child in children:
            child.wait(30)
        return found


def _name(purpose: str, number: int) -> bytes:
    """What a client says first on a connection."""
    return f"{purpose:4}{number:8}".encode()


def _round(down: ssl.SSLSocket, up: ssl.SSLSocket, size: int) -> None:
    _send(down, size)
    _receive(up, size)
    # Nobody closes a connection while bytes of it are under way.
    _send(down, 1)


def _send(link: ssl.SSLSocket, size: int) -> None:
    piece = bytes(PIECE)
    for start in range(0, size, PIECE):
        link.sendall(piece[: min(PIECE, size - start)])


def _receive(link: ssl.SSLSocket, size: int) -> None:
    buffer = memoryview(bytearray(PIECE))
    left = size
    while left:
        got = link.recv_into(buffer[: min(PIECE, left)])
        if not got:
            raise ConnectionError(f"the other side left with {left} of {size} bytes to come")
        left -= got


def _identify(tls: ssl.SSLContext, folder: Path) -> None:
    files = keys.load_version(folder, ["tls.key"], ["tls.pem", "roots.pem"])
    version = folder / (folder / keys.POINTER).read_text(encoding="ascii")
    tls.load_cert_chain(version / "tls.pem", version / "tls.key")
    tls.load_verify_locations(cadata=files["roots.pem"].decode())


def _client(folder: Path, port: int, size: int, rounds: int, number: int) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _identify(tls, folder)
    links = []
    for purpose in ("down", "up"):
        link = tls.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")
        link.sendall(_name(purpose, number))
        links.append(link)
    down, up = links
    for _ in range(rounds):
        _receive(down, size)
        _send(up, size)
        _receive(down, 1)


if __name__ == "__main__":
    if sys.argv[1] == "client":
        _client(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        print(json.dumps(_serve(*map(int, sys.argv[1:]))))
