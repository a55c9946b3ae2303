"""HTTP for callers on this machine: GET alone, a fixed set of paths, strict headers on every answer.

Whoever can open a socket on this machine can ask, so nothing here changes anything. A page in a browser on this machine can
make that browser ask too, under a name of its own that it lets point at 127.0.0.1; the request then names that host: refused.
"""

import asyncio
import concurrent.futures
import logging
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Generic, TypeVar

from edgehold.core.errors import ConfigError

log = logging.getLogger("edgehold.server.wire.loopback")

T = TypeVar("T")

POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
AT_ONCE = 16
"""Requests answered at a time; whoever comes on top of them is cut off."""
PATIENCE_S = 5.0
"""For a caller that sends or reads nothing, and for the event loop."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. kind: media type; policy: Content-Security-Policy."""

    body: bytes
    kind: str
    status: HTTPStatus = HTTPStatus.OK
    policy: str = POLICY

    @classmethod
    def plain(cls, status: HTTPStatus, text: str) -> "Reply":
        """One line of text."""
        return cls(f"{text}\n".encode(), "text/plain; charset=utf-8", status)


@dataclass(frozen=True)
class Route(Generic[T]):
    """What a path answers. gather: runs on the event loop, where everything is still; render: makes the answer of what was
    gathered and of the request's Accept header, in a thread of its own.
    """

    gather: Callable[[], Coroutine[Any, Any, T]]
    render: Callable[[T, str], Reply]


def loopback_address(text: str) -> tuple[str, int]:
    """Host and port of `metrics_listen`; `ConfigError` when other machines could reach it."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if host not in _LOOPBACK:
        raise ConfigError(f"server.toml: server.metrics_listen = {text!r}: metrics are served on loopback only")
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ConfigError(f"server.toml: server.metrics_listen = {text!r}: {port!r} is no port")
    return host, int(port)


class Loopback:
    """Listens from the moment it is made, on the running event loop, until `stop`. port: where."""

    def __init__(self, host: str, port: int, routes: Mapping[str, Route[Any]]) -> None:
        loop = asyncio.get_running_loop()

        class Bound(_Handler):
            def reply(self, path: str, accept: str) -> Reply:
                return _answer(routes, loop, path, accept)

        try:
            self._server = _Server(host, port, Bound)
        except OSError as error:
            raise ConfigError(f"server.toml: server.metrics_listen cannot be listened on: {error}") from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="loopback", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Take no more requests."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()


def _answer(routes: Mapping[str, Route[Any]], loop: asyncio.AbstractEventLoop, path: str, accept: str) -> Reply:
    route = routes.get(path)
    if route is None:
        return Reply.plain(HTTPStatus.NOT_FOUND, "here are: " + " ".join(sorted(routes)))
    work = route.gather()
    try:
        found = asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)
    except (RuntimeError, concurrent.futures.CancelledError, TimeoutError):
        work.close()
        return Reply.plain(HTTPStatus.SERVICE_UNAVAILABLE, "the server is busy or stopping; ask again")
    return route.render(found, accept)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._room = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Without the look-up of this machine's name that an HTTPServer makes."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, if there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread's work."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hung up is no news; anything else is ours."""
        log.debug("a request on loopback failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE_S
    # What is no request at all gets an answer with status and headers like any other; the library's HTTP/0.9 has neither.
    default_request_version = "HTTP/1.0"

    def reply(self, path: str, accept: str) -> Reply:
        """What to answer at a path."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Read."""
        self._say(self._judged())

    def do_HEAD(self) -> None:
        """Read the headers."""
        self._say(self._judged())

    def _judged(self) -> Reply:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0].strip()):
            return Reply.plain(HTTPStatus.MISDIRECTED_REQUEST, "ask for localhost, 127.0.0.1 or [::1]")
        try:
            return self.reply(self.path.partition("?")[0], ", ".join(self.headers.get_all("Accept", [])))
        except Exception:
            log.exception("a request on loopback failed")
            return Reply.plain(HTTPStatus.INTERNAL_SERVER_ERROR, "this failed; the server's log says why")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses by itself, in our words."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._say(Reply.plain(HTTPStatus.METHOD_NOT_ALLOWED, "read only"))
        else:
            self._say(Reply.plain(HTTPStatus(code), HTTPStatus(code).phrase))

    def _say(self, reply: Reply) -> None:
        self.close_connection = True
        self.send_response(reply.status)
        allow = {"Allow": "GET, HEAD"} if reply.status is HTTPStatus.METHOD_NOT_ALLOWED else {}
        more = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body)), "Content-Security-Policy": reply.policy}
        for name, value in (HEADERS | more | allow | {"Connection": "close"}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def version_string(self) -> str:
        """No version of anything."""
        return "edgehold"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""
