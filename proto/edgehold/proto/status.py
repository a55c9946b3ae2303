"""Errors to gRPC statuses and back, from the one table in `edgehold.core.errors`."""

from math import inf

import grpc

from edgehold.core.errors import ERRORS, BeyondOffset, FlError, JournalError, Stale, TransferError
from edgehold.proto.v1.control_pb2 import ErrorDetail

DETAIL_KEY = "edgehold-error-bin"


def status_of(error: FlError) -> grpc.StatusCode:
    """The gRPC status an error travels as."""
    status: grpc.StatusCode = grpc.StatusCode[error.status]
    return status


def detail_of(error: FlError) -> bytes:
    """Serialized ErrorDetail, for the trailing metadata."""
    detail = ErrorDetail(
        code=error.code,
        message=error.message[:1024],
        retry_after_s=-1.0 if error.retry_after_s is None else error.retry_after_s,
    )
    if isinstance(error, BeyondOffset):
        detail.expected_offset = error.expected_offset
    if isinstance(error, Stale):
        detail.supported_versions.extend(error.supported_versions)
    return detail.SerializeToString()


def error_of(call: grpc.aio.AioRpcError) -> FlError:
    """The error a failed call stands for: the server's own when it sent one, else a TransferError."""
    for key, value in call.trailing_metadata() or ():
        if key != DETAIL_KEY or not isinstance(value, bytes):
            continue
        try:
            detail = ErrorDetail.FromString(value)
        except Exception:  # a peer may send anything; the status below still speaks
            break
        cls = ERRORS.get(detail.code, FlError)
        if issubclass(cls, JournalError):
            cls = FlError  # that is our own disk, and nobody else can tell us that it failed
        # What is no number of seconds (a peer may send anything) is no promise either.
        wait = detail.retry_after_s if 0 <= detail.retry_after_s < inf else None
        if issubclass(cls, BeyondOffset):
            return cls(detail.message, expected_offset=detail.expected_offset, retry_after_s=wait)
        if issubclass(cls, Stale):
            return cls(detail.message, supported_versions=tuple(detail.supported_versions), retry_after_s=wait)
        return cls(detail.message, retry_after_s=wait)
    lost = TransferError(f"{call.code().name}: {call.details() or 'no details'}", retry_after_s=1.0)
    return lost
