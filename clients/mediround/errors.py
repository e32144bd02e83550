"""What can go wrong, by who must act. Each docstring tells the integrator what to do.

    MediRoundError
    ├── InvalidArgument       change the request: ``violations`` name the fields
    ├── NotFound              open a new session
    ├── FailedPrecondition    do something else first
    ├── AccessDenied          use another certificate or another server
    ├── ResourceExhausted     wait ``retry_after`` seconds, then send the same request again
    ├── Unavailable           wait ``retry_after`` seconds, then send the same request again
    ├── DeadlineExceeded      allow more time, or ask for less
    ├── Cancelled             nothing: the call was given up on this side
    └── ServerFault           report ``incident`` to the people who run the server
        └── ProtocolMismatch  install the client that fits the server

Knows gRPC status codes and google.rpc details. Does not know messages, sessions or transports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"
# The transport's own words.
_TOO_LARGE = "larger than max"
_SIZES = re.compile(r"\((\d+) vs\. (\d+)\)")
_PLAIN = {"Deadline Exceeded": "no answer within the time allowed: pass a larger timeout=, or ask for less"}


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request that must change.

    Attributes:
        field: its path in the contract, for example ``questions[2].refer_to``.
        description: what is wrong with it, or what it must be.
    """

    field: str
    description: str


class MediRoundError(Exception):
    """Base of every error of this package. Catch it where you would give up on the image.

    ``str(error)`` holds no pixels, question or name, so it may be logged. Errors may be pickled and copied: they
    cross processes whole.

    Attributes:
        request_id: the id that the server's log knows the request by; None where nothing was sent.
    """

    request_id: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own would call __init__ with the message alone.
        return _rebuilt, (type(self), self.args), self.__dict__


class InvalidArgument(MediRoundError):
    """The request cannot be served as it is, now or later: change what ``violations`` name.

    The session, if there is one, is unharmed and takes further rounds.

    Attributes:
        violations: the fields that must change; empty where the server named none.
    """

    def __init__(self, message: str, violations: tuple[FieldViolation, ...] = ()) -> None:
        super().__init__(message)
        self.violations = violations


class NotFound(MediRoundError):
    """The session does not exist, has expired, or is another caller's: open a new one and ask again."""


class FailedPrecondition(MediRoundError):
    """The session or the client does not allow the request: it is closed (open a new one), the round referred to
    has no mask (refer to another round), or what the call needs is not installed (install it).
    """


class AccessDenied(MediRoundError):
    """The server, or a proxy before it, does not accept this client: check the certificates in ``tls``."""


class ResourceExhausted(MediRoundError):
    """A limit of the server is reached: close sessions you no longer need, wait ``retry_after`` seconds, and
    send the same request again. Nothing was done, and the session is unharmed.

    Attributes:
        retry_after: seconds to wait; 1 where the server, or a proxy, named none.
        not_begun: whether the server itself said that it had not begun; the client has then sent the request again
            as often as ``retries`` and the time allowed let it.
    """

    def __init__(self, message: str, retry_after: float = 1.0, *, not_begun: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.not_begun = retry_after, not_begun


class Unavailable(MediRoundError):
    """The server cannot be reached, is starting, or is shutting down: wait ``retry_after`` seconds and send the
    same request again. A session may be gone after a restart: then ``NotFound`` follows.

    Attributes:
        retry_after: seconds to wait; 1 where the server, or a proxy, named none.
        not_begun: whether the server itself said that it had not begun; the client has then sent the request again
            as often as ``retries`` and the time allowed let it.
    """

    def __init__(self, message: str, retry_after: float = 1.0, *, not_begun: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.not_begun = retry_after, not_begun


class DeadlineExceeded(MediRoundError):
    """The time allowed is over and the server stops working: pass a larger ``timeout``, or ask fewer rounds.

    The session is unharmed, but this side cannot tell whether the round had just been finished: a session's
    next result says so by its ``index``.
    """


class Cancelled(MediRoundError):
    """The call was given up on this side, by closing the client or by cancelling: nothing needs to be done."""


class ServerFault(MediRoundError):
    """A fault of the server. Report ``incident``, which its log knows; the same request may fail again.

    Attributes:
        incident: the same as ``request_id``; None where a proxy answered.
    """

    def __init__(self, message: str, incident: str | None = None) -> None:
        super().__init__(message)
        self.incident = incident


class ProtocolMismatch(ServerFault):
    """The server's answer does not fit this client: install the version of the client that fits the server."""


def _rebuilt(kind: type[MediRoundError], args: tuple[object, ...]) -> MediRoundError:
    return kind.__new__(kind, *args)


def from_failure(failure: grpc.RpcError, request_id: str | None = None) -> MediRoundError:
    """The error that a failed call stands for; grpc and grpc.aio raise the same kind.

    ``request_id`` is what the call was sent with; what the server calls it comes first.
    """
    details = _details(failure)
    error = _error(failure.code(), failure.details() or "no details", details)
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
        case code if code in _BY_CODE:
            return _BY_CODE[code](_PLAIN.get(message, message))
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
