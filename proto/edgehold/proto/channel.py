"""gRPC without generated stubs: calls carry raw bytes, and what they mean is decoded strictly by us.

`Stub` turns a service descriptor into callables; `options` is the one list of transport settings both sides use.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from edgehold.proto.chunks import Chunk, split
from edgehold.proto.status import error_of
from edgehold.proto.strict import MESSAGE_LIMIT, METADATA_LIMIT, decode

M = TypeVar("M", bound=Message)


LISTENER_WINDOW, CLIENT_WINDOW = 1 << 20, 2 << 20
"""What may be on its way per transfer: a listener has many at once, a client one or two, perhaps over a long way."""


def options(window: int = LISTENER_WINDOW) -> list[tuple[str, int]]:
    """Channel arguments common to servers and clients."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_LIMIT),
        ("grpc.max_send_message_length", MESSAGE_LIMIT),
        ("grpc.max_metadata_size", METADATA_LIMIT),
        ("grpc.absolute_max_metadata_size", METADATA_LIMIT),
        # Identity only: a compressed message could hide a bomb; the transport answers UNIMPLEMENTED.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.http2.max_frame_size", 1 << 20),
        # Left to itself, gRPC grows the window to 16 MiB on a fast link, for every client.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", window),
        ("grpc.enable_http_proxy", 0),
    ]


def client_options() -> list[tuple[str, int]]:
    """Channel arguments of a client: quick reconnects (gRPC's own back-off of two minutes makes healing look broken)."""
    return [
        *options(CLIENT_WINDOW),
        ("grpc.initial_reconnect_backoff_ms", 200),
        # Despite its name this is how long one attempt may take, TCP and TLS over a slow link included. It delays nothing.
        ("grpc.min_reconnect_backoff_ms", 10_000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # One channel, one connection: never share sockets between identities in one process.
        ("grpc.use_local_subchannel_pool", 1),
    ]


class Stub:
    """Calls of one service over one channel. Every failure is raised as an `FlError`."""

    def __init__(self, channel: grpc.aio.Channel, service: ServiceDescriptor) -> None:
        self._channel = channel
        self._service = service
        self._calls: dict[tuple[str, str], Any] = {}

    def _call(self, method: str, kind: str) -> Any:
        if (method, kind) not in self._calls:
            found = self._service.methods_by_name[method]
            self._calls[method, kind] = getattr(self._channel, kind)(f"/{self._service.full_name}/{found.name}")
        return self._calls[method, kind]

    async def unary(self, method: str, request: Message, reply: type[M], timeout_s: float | None = 30.0) -> M:
        """One request, one reply. On the wire one request is a stream of one, so this serves methods that take many as well:
        grpc.aio may lose the answer of a server that refuses while a stream is still being written, but not of this.
        """
        try:
            return decode(
                reply, await self._call(method, "unary_unary")(request.SerializeToString(), timeout=timeout_s), MESSAGE_LIMIT
            )
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None

    async def stream(self, method: str, request: Message, reply: type[M], timeout_s: float | None = None) -> AsyncIterator[M]:
        """One request, many replies."""
        async with contextlib.aclosing(self._replies(method, request, timeout_s)) as replies:
            async for data in replies:
                yield decode(reply, data, MESSAGE_LIMIT)

    async def chunks(self, method: str, request: Message, reply: type[M]) -> AsyncIterator[Chunk[M]]:
        """One request, many replies that end in bulk bytes."""
        async with contextlib.aclosing(self._replies(method, request, None)) as replies:
            async for data in replies:
                yield split(reply, data, MESSAGE_LIMIT)

    async def _replies(self, method: str, request: Message, timeout_s: float | None) -> AsyncGenerator[bytes, None]:
        call = self._call(method, "unary_stream")(request.SerializeToString(), timeout=timeout_s)
        try:
            async for data in call:
                yield data
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        finally:
            # A stream left half-way must end now, not when somebody collects the garbage.
            call.cancel()

    async def collect(self, method: str, requests: AsyncIterable[bytes], reply: type[M], timeout_s: float | None = None) -> M:
        """Many requests (already serialized), one reply."""
        try:
            return decode(reply, await self._call(method, "stream_unary")(requests, timeout=timeout_s), MESSAGE_LIMIT)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
