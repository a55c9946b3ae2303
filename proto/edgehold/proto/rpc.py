"""Services over raw bytes: identity first, then strict decoding, then the handler; every refusal has its exact status.

A handler is `async def method(self, request, caller) -> reply`; a streaming reply is an async generator; a streaming
request arrives as an async iterator of decoded messages, or of `Chunk`s where it carries bulk bytes.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from edgehold.core.errors import FlError, IdentityError, JournalError
from edgehold.core.identity import Identity
from edgehold.proto.chunks import split
from edgehold.proto.status import DETAIL_KEY, detail_of, status_of
from edgehold.proto.strict import CHUNK_MESSAGE_LIMIT, CONTROL_LIMIT, decode

log = logging.getLogger("edgehold.proto.rpc")

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(slots=True)
class Caller:
    """Who calls. identity is None on a listener without client certificates; certificate: the one it shows, PEM."""

    identity: Identity | None
    peer: str
    context: Context = field(repr=False)
    certificate: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """The caller's name for logs and audit lines."""
        return self.identity.name if self.identity else "-"


def certificate_of(context: Context) -> bytes:
    """The certificate, PEM, that the handshake verified; `IdentityError` when there was none."""
    for pem in context.auth_context().get("x509_pem_cert", ()):
        return bytes(pem)
    raise IdentityError("no certificate was presented")


class Gate(Protocol):
    """Decides who may call and hears of every refusal."""

    def admit(self, context: Context, method: str) -> Caller:
        """The caller, or `IdentityError`, `Draining`, `Busy`."""

    def refused(self, caller: Caller | None, method: str, error: FlError) -> None:
        """Count and audit a refusal."""

    def broken(self, error: JournalError) -> None:
        """The journal failed: the process must stop."""


# Messages that carry a chunk may be as large as one; all others are control messages.
_LARGE = {"UploadRequest", "SubmitRunRequest"}
# Those whose handlers are given a `Chunk`: bulk bytes are not copied to be looked at.
_CHUNKED = {"UploadRequest"}


def service(descriptor: ServiceDescriptor, implementation: object, gate: Gate) -> grpc.GenericRpcHandler:
    """Generic handler for every method of a service; a method without implementation is an error here, not at run time."""
    handlers = {
        method.name: _handler(method, getattr(implementation, _snake(method.name)), gate) for method in descriptor.methods
    }
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


def _handler(method: MethodDescriptor, run: Callable[..., Any], gate: Gate) -> "grpc.RpcMethodHandler[Any, Any]":
    kind: type[Message] = GetMessageClass(method.input_type)
    limit = CHUNK_MESSAGE_LIMIT if method.input_type.name in _LARGE else CONTROL_LIMIT
    understand: Callable[[type[Message], bytes, int], Any] = split if method.input_type.name in _CHUNKED else decode
    name = f"{method.containing_service.name}/{method.name}"

    async def requests(raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in raw:
            yield understand(kind, data, limit)

    def read(raw: Any) -> Any:
        return requests(raw) if method.client_streaming else understand(kind, raw, limit)

    async def unary(raw: Any, context: Context) -> bytes:
        caller = None
        try:
            caller = gate.admit(context, name)
            reply: Message = await run(read(raw), caller)
            return reply.SerializeToString()
        except Exception as error:
            await _refuse(context, gate, caller, name, error)
            raise

    async def streaming(raw: Any, context: Context) -> AsyncIterator[bytes]:
        caller = None
        try:
            caller = gate.admit(context, name)
            async for reply in run(read(raw), caller):
                yield reply if isinstance(reply, bytes) else reply.SerializeToString()
        except Exception as error:
            await _refuse(context, gate, caller, name, error)
            raise

    if method.client_streaming:
        make = grpc.stream_stream_rpc_method_handler if method.server_streaming else grpc.stream_unary_rpc_method_handler
    else:
        make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
    return make(streaming if method.server_streaming else unary)


async def _refuse(context: Context, gate: Gate, caller: Caller | None, method: str, error: Exception) -> None:
    """Abort the call with the error's own status; what we did not foresee gets an opaque id and a traceback in the log."""
    if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError):
        return
    if isinstance(error, JournalError) or not isinstance(error, FlError):
        opaque = secrets.token_hex(6)
        log.error("internal error %s in %s", opaque, method, exc_info=error)
        if isinstance(error, JournalError):
            gate.broken(error)
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error {opaque}")
    else:
        gate.refused(caller, method, error)
        await context.abort(status_of(error), error.message[:1024], trailing_metadata=((DETAIL_KEY, detail_of(error)),))
