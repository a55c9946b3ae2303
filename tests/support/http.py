"""HTTP with every byte of the request chosen by the test."""

import socket
from typing import NamedTuple


class Answer(NamedTuple):
    """What came back. headers: names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def talk(address: str, request: bytes) -> bytes:
    """Everything that comes back for a request; address: host:port."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as link:
        link.sendall(request)
        parts = []
        while part := link.recv(65536):
            parts.append(part)
    return b"".join(parts)


def parsed(answer: bytes) -> Answer:
    """Status, headers, body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return Answer(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body)


def ask(address: str, path: str = "/", method: str = "GET", host: str | None = None, more: str = "") -> Answer:
    """One request. host: None for the address itself; more: further header lines."""
    named = f"Host: {address if host is None else host}\r\n"
    return parsed(talk(address, f"{method} {path} HTTP/1.1\r\n{named}{more}\r\n".encode("latin-1")))
