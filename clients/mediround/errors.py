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

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


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
    """

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
    """The session does not allow the request: it is closed (open a new one), or the round referred to has no
    mask (refer to another round).
    """


class AccessDenied(MediRoundError):
    """The server, or a proxy before it, does not accept this client: check the certificates in ``tls``."""


class ResourceExhausted(MediRoundError):
    """A limit of the server is reached: close sessions you no longer need, wait ``retry_after`` seconds, and
    send the same request again. Nothing was done, and the session is unharmed.

    Attributes:
        retry_after: seconds to wait; 1 where the server, or a proxy, named none.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(MediRoundError):
    """The server cannot be reached, is starting, or is shutting down: wait ``retry_after`` seconds and send the
    same request again. A session may be gone after a restart: then ``NotFound`` follows.

    Attributes:
        retry_after: seconds to wait; 1 where the server, or a proxy, named none.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


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
        incident: the id under which the server logged it; None where a proxy answered.
    """

    def __init__(self, message: str, incident: str | None = None) -> None:
        super().__init__(message)
        self.incident = incident


class ProtocolMismatch(ServerFault):
    """The server's answer does not fit this client: install the version of the client that fits the server."""


def _rebuilt(kind: type[MediRoundError], args: tuple[object, ...]) -> MediRoundError:
    return kind.__new__(kind, *args)


def from_failure(failure: grpc.RpcError) -> MediRoundError:
    """The error that a failed call stands for; grpc and grpc.aio raise the same kind."""
    message, details = failure.details() or "no details", _details(failure)
    match failure.code():
        case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.OUT_OF_RANGE:
            return InvalidArgument(message, _violations(details))
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ResourceExhausted(message, _retry_after(details))
        case grpc.StatusCode.UNAVAILABLE:
            return Unavailable(message, _retry_after(details))
        case code if code in _BY_CODE:
            return _BY_CODE[code](message)
        case _:
            return ServerFault(message, _incident(details))


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


def _retry_after(status: status_pb2.Status) -> float:
    """Seconds; 1 where the server, or a proxy, names none."""
    info = error_details_pb2.RetryInfo()
    found = any(detail.Unpack(info) for detail in status.details)
    return info.retry_delay.ToNanoseconds() / 1e9 if found else 1.0


def _incident(status: status_pb2.Status) -> str | None:
    info = error_details_pb2.RequestInfo()
    return info.request_id if any(detail.Unpack(info) for detail in status.details) else None
