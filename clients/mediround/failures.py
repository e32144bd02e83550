"""How a failed call becomes an error.

Knows gRPC status codes and google.rpc details. Does not know messages, sessions or transports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypedDict, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from mediround.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    IdempotencyMismatch,
    InvalidArgument,
    MediRoundError,
    MovedOn,
    NeedsImage,
    NotFound,
    OtherModel,
    ProtocolMismatch,
    ResourceExhausted,
    ServerFault,
    SessionClosed,
    SessionExpired,
    StaleReference,
    Unavailable,
)

_DETAILS = "grpc-status-details-bin"
_DOMAIN = "mediround"
# The transport's own words.
_TOO_LARGE = "larger than max"
_SIZES = re.compile(r"\((\d+) vs\. (\d+)\)")
_PLAIN = {"Deadline Exceeded": "no answer within the time allowed: pass a larger timeout=, or ask for less"}


def from_failure(failure: grpc.RpcError, request_id: str | None = None) -> MediRoundError:
    """The error that a failed call stands for; grpc and grpc.aio raise the same kind.

    ``request_id`` is what the call was sent with; what the server calls it comes first.
    """
    details = _details(failure)
    error = _error(failure.code(), failure.details() or "no details", details)
    error.reason = _reason(details) or error.reason
    error.request_id = _request_id(details) or request_id
    return error


def _error(code: grpc.StatusCode, message: str, details: status_pb2.Status) -> MediRoundError:
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return InvalidArgument(message, _violations(details))
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            if _TOO_LARGE in message:  # before any word of ours
                return InvalidArgument(_larger(message))
            return ResourceExhausted(message, **_retry(details))
        case grpc.StatusCode.UNAVAILABLE:
            return Unavailable(message, **_retry(details))
        case code if kind := _BY_REASON.get((code, _reason(details))) or _BY_CODE.get(code):
            return kind(_PLAIN.get(message, message))
        case _:
            return ServerFault(message, _request_id(details))


def _larger(message: str) -> str:
    """The transport's words for a message that is too large, as a rule with its numbers."""
    words = "the request, or its answer, is larger than a message may be"
    sizes = _SIZES.search(message)
    return f"{words}: it has {sizes[1]} bytes, and must have at most {sizes[2]}" if sizes else words


_BY_CODE: dict[grpc.StatusCode, type[MediRoundError]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolMismatch,
}

_BY_REASON: dict[tuple[grpc.StatusCode, str | None], type[MediRoundError]] = {
    (grpc.StatusCode.ABORTED, MovedOn.reason): MovedOn,
    (grpc.StatusCode.NOT_FOUND, SessionExpired.reason): SessionExpired,
    **{
        (grpc.StatusCode.FAILED_PRECONDITION, kind.reason): kind
        for kind in (SessionClosed, NeedsImage, StaleReference, OtherModel, IdempotencyMismatch)
    },
}


def _details(failure: grpc.RpcError) -> status_pb2.Status:
    """The google.rpc.Status of a failed call; empty where a proxy answered without one."""
    # grpc-stubs name the pair's members; grpc.aio yields plain pairs.
    for key, value in cast(Iterable[tuple[str, str | bytes]], failure.trailing_metadata() or ()):
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _violations(status: status_pb2.Status) -> tuple[FieldViolation, ...]:
    request = error_details_pb2.BadRequest()
    found = any(detail.Unpack(request) for detail in status.details)
    return tuple(FieldViolation(v.field, v.description) for v in request.field_violations) if found else ()


class _Retry(TypedDict):
    retry_after: float
    not_begun: bool


def _retry(status: status_pb2.Status) -> _Retry:
    """Only our servers name a delay, and only where they have not begun; a proxy, or a lost connection, does
    not.
    """
    info = error_details_pb2.RetryInfo()
    if not any(detail.Unpack(info) for detail in status.details):
        return {"retry_after": 1.0, "not_begun": False}
    return {"retry_after": info.retry_delay.ToNanoseconds() / 1e9, "not_begun": True}


def _request_id(status: status_pb2.Status) -> str | None:
    info = error_details_pb2.RequestInfo()
    return info.request_id if any(detail.Unpack(info) for detail in status.details) else None


def _reason(status: status_pb2.Status) -> str | None:
    info = error_details_pb2.ErrorInfo()
    found = any(detail.Unpack(info) for detail in status.details)
    return info.reason if found and info.domain == _DOMAIN else None
