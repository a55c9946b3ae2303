"""What stands on loopback: read only, for this machine alone, and nothing that a web page elsewhere could use."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from tests.support.http import Answer, ask, parsed, talk

from edgehold.core.errors import ConfigError
from edgehold.server.wire import loopback
from edgehold.server.wire.loopback import AT_ONCE, Loopback, Reply, Route, loopback_address

T = TypeVar("T")


async def hello() -> str:
    return "hello"


def said(text: str, accept: str) -> Reply:
    return Reply(f"{text} {accept}".encode(), "text/plain")


ROUTES: dict[str, Route[Any]] = {"/": Route(hello, said)}


def serving(routes: dict[str, Route[Any]], work: Callable[[str], T]) -> T:
    """Do `work` in a thread, given the address, while a listener runs on the loop."""

    async def main() -> T:
        server = Loopback("127.0.0.1", 0, routes)
        try:
            return await asyncio.to_thread(work, f"127.0.0.1:{server.port}")
        finally:
            await server.stop()

    return asyncio.run(main())


def only(answer: Answer, status: int) -> None:
    """An answer of ours: this status, and on every status the same strict headers."""
    assert answer.status == status
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} <= set(policy)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["server"] == "edgehold"
    assert answer.headers["connection"] == "close"


def test_what_is_gathered_on_the_loop_is_answered() -> None:
    async def where() -> str:
        return threading.current_thread().name

    answer = serving({"/x": Route(where, said)}, lambda at: ask(at, "/x?q=1", more="Accept: text/plain\r\n"))
    only(answer, 200)
    assert answer.body == b"MainThread text/plain"
    assert answer.headers["content-type"] == "text/plain"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9", "localhost", "LocalHost:8473", "[::1]", "[::1]:8473"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    only(serving(ROUTES, lambda at: ask(at, host=host)), 200)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8473", "127.0.0.1.evil.example", "localhost.evil.example", "localhost:8473:1",
        "127.0.0.1@evil.example", "evil.example#localhost", "0.0.0.0", "10.0.0.1", "[::]", "::1", "", "127.0.0.1 evil.example",
        "127.0.0.1:\u0662", "xlocalhost", "localhost.",
    ],
)  # fmt: skip
def test_a_name_that_somebody_points_at_this_machine_is_refused(host: str) -> None:
    wire = host.encode().decode("latin-1")
    only(serving(ROUTES, lambda at: ask(at, host=wire)), 421)


def test_a_request_names_its_host_once() -> None:
    def work(at: str) -> None:
        only(parsed(talk(at, b"GET / HTTP/1.1\r\n\r\n")), 421)
        only(parsed(talk(at, b"GET / HTTP/1.0\r\n\r\n")), 421)
        only(parsed(talk(at, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")), 421)
        only(parsed(talk(at, b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n")), 421)

    serving(ROUTES, work)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "X" * 20])
def test_nothing_but_reading(method: str) -> None:
    answer = serving(ROUTES, lambda at: ask(at, method=method, more="Content-Length: 2\r\n"))
    only(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"


def test_head_has_the_headers_alone() -> None:
    answer = serving(ROUTES, lambda at: ask(at, method="HEAD"))
    only(answer, 200)
    assert answer.body == b""
    assert answer.headers["content-length"] == "6"


def test_what_is_not_here_says_what_is() -> None:
    for path in ("/other", "/../", "/%00", "/x" * 1000):
        answer = serving(ROUTES, lambda at, path=path: ask(at, path))  # type: ignore[misc]
        only(answer, 404)
        assert answer.body == b"here are: /\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /<script> HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
)
def test_what_is_no_request_is_refused_in_our_words(request_: bytes, status: int) -> None:
    answer = parsed(serving(ROUTES, lambda at: talk(at, request_)))
    only(answer, status)
    assert b"<" not in answer.body


def test_a_failure_of_ours_tells_nothing() -> None:
    def broken(found: str, accept: str) -> Reply:
        raise ValueError("a secret path")

    answer = serving({"/": Route(hello, broken)}, ask)
    only(answer, 500)
    assert b"secret" not in answer.body


def test_a_loop_that_is_busy_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "PATIENCE_S", 0.05)

    async def never() -> str:
        await asyncio.Event().wait()
        return ""

    answer = serving({"/": Route(never, said)}, ask)
    only(answer, 503)


def test_those_who_come_on_top_are_cut_off_and_room_comes_back() -> None:
    def work(at: str) -> None:
        host, _, port = at.rpartition(":")
        idle = [socket.create_connection((host, int(port)), timeout=20) for _ in range(AT_ONCE)]
        try:
            # Taken in the order in which they come: all the room there is goes to the idle ones.
            with pytest.raises((ConnectionError, IndexError)):
                ask(at)
        finally:
            for one in idle:
                one.close()
        for _ in range(200):
            try:
                only(ask(at), 200)
                return
            except (ConnectionError, IndexError):
                threading.Event().wait(0.01)
        raise AssertionError("no room came back")

    serving(ROUTES, work)


@pytest.mark.parametrize(
    ("address", "found"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("localhost:1", ("localhost", 1)), ("[::1]:8473", ("::1", 8473))],
)
def test_addresses_of_this_machine(address: str, found: tuple[str, int]) -> None:
    assert loopback_address(address) == found


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8473", "10.0.0.1:1", "evil.example:1", "[::]:1", "127.0.0.1", "localhost:x", "localhost:70000"]
)
def test_addresses_that_others_reach_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="metrics_listen"):
        loopback_address(address)


def test_a_port_that_is_taken_is_named() -> None:
    async def main() -> None:
        first = Loopback("127.0.0.1", 0, ROUTES)
        try:
            with pytest.raises(ConfigError, match="cannot be listened on"):
                Loopback("127.0.0.1", first.port, ROUTES)
        finally:
            await first.stop()

    asyncio.run(main())
