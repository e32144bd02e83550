"""Errors as gRPC statuses: the one table.

Knows which status an error is, and which google.rpc details it carries. Does not know calls.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from serving import request_context
from serving.errors import (
    DeadlineExceeded,
    EngineFault,
    Exhausted,
    InvalidInput,
    MovedOn,
    NotFound,
    PreconditionFailed,
    Reason,
    Unavailable,
)

logger = logging.getLogger(__name__)

OK = grpc.StatusCode.OK.name
_DETAILS = "grpc-status-details-bin"
_DOMAIN = "mediround"
"""Of reasons: google.rpc.ErrorInfo."""
_CODES: dict[type[BaseException], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    MovedOn: grpc.StatusCode.ABORTED,
    Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_GIVEN_UP = (asyncio.CancelledError, GeneratorExit)
"""How work ends that gRPC has stopped: its deadline has passed, or its client gave up."""
_TRANSIT_SECONDS = 0.1
"""A client's clock runs ahead of ours by the way here: what it stops so shortly before its deadline was late."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call is ended."""

    code: grpc.StatusCode
    message: str
    details: tuple[Message, ...] = ()

    @property
    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Trailing metadata: the google.rpc.Status."""
        number, _ = self.code.value
        status = status_pb2.Status(code=number, message=self.message)
        for detail in self.details:
            status.details.add().Pack(detail)
        return ((_DETAILS, status.SerializeToString()),)


def code_of(error: BaseException) -> str:
    """The name of the status that a call ends with when its work ends with ``error``."""
    if isinstance(error, _GIVEN_UP):
        seconds = request_context.remaining()
        late = seconds is not None and seconds < _TRANSIT_SECONDS
        return (grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED).name
    return (_known(error) or grpc.StatusCode.INTERNAL).name


def refusal(error: Exception, method: str) -> Refusal:
    """The status of an error, with the request's id. One that is ours to mend is logged with it, and the caller
    sees no more.
    """
    known = error_details_pb2.RequestInfo(request_id=request_context.request_id())
    code = _known(error)
    if code is None:
        return _internal(error, method, known)
    return Refusal(code, str(error), (*_details(error), known))


def _known(error: BaseException) -> grpc.StatusCode | None:
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), None)


def _details(error: Exception) -> tuple[Message, ...]:
    match error:
        case InvalidInput():
            return (_violation(error),)
        case Exhausted() | Unavailable():
            return (_retry(error.retry_after),)
        case (
            NotFound(reason=Reason() as reason)
            | PreconditionFailed(reason=Reason() as reason)
            | MovedOn(reason=reason)
        ):
            return (error_details_pb2.ErrorInfo(reason=reason.value, domain=_DOMAIN),)
        case _:
            return ()


def _violation(error: InvalidInput) -> Message:
    violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
    detail: Message = error_details_pb2.BadRequest(field_violations=[violation])
    return detail


def _retry(seconds: float) -> Message:
    delay = Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    detail: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return detail


def _internal(error: Exception, method: str, known: error_details_pb2.RequestInfo) -> Refusal:
    logger.error("incident %s in %s: %s", known.request_id, method, _story(error))
    return Refusal(grpc.StatusCode.INTERNAL, f"internal error; incident {known.request_id}", (known,))


def _story(error: BaseException | None) -> str:
    """Kinds and places of an error and its causes. Messages are left out, for they may quote a caller's words;
    those of our own errors never do.
    """
    parts = []
    while error:
        words = f": {error}" if isinstance(error, EngineFault) else ""
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"{type(error).__qualname__}{words}\n{frames}")
        error = error.__cause__ or error.__context__
    return "caused by ".join(parts)
