"""Errors as gRPC statuses: the one table.

Knows which status an error is, and which google.rpc details it carries. Does not know calls.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from serving.errors import (
    DeadlineExceeded,
    EngineFault,
    Exhausted,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    Unavailable,
)

logger = logging.getLogger(__name__)

_DETAILS = "grpc-status-details-bin"
_WITHOUT_DETAILS: dict[type[Exception], grpc.StatusCode] = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}


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


def refusal(error: Exception, method: str) -> Refusal:
    """The status of an error. One that is ours to mend is logged with an id, which is all that the caller sees."""
    words = str(error)
    match error:
        case InvalidInput():
            return Refusal(grpc.StatusCode.INVALID_ARGUMENT, words, (_violation(error),))
        case Exhausted():
            return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, words, (_retry(error.retry_after),))
        case Unavailable():
            return Refusal(grpc.StatusCode.UNAVAILABLE, words, (_retry(error.retry_after),))
        case NotFound() | PreconditionFailed() | DeadlineExceeded():
            return Refusal(_WITHOUT_DETAILS[type(error)], words)
        case _:
            return _internal(error, method)


def _violation(error: InvalidInput) -> Message:
    found = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
    detail: Message = error_details_pb2.BadRequest(field_violations=[found])
    return detail


def _retry(seconds: float) -> Message:
    delay = Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    detail: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return detail


def _internal(error: Exception, method: str) -> Refusal:
    incident = secrets.token_hex(8)
    logger.error("incident %s in %s: %s", incident, method, _story(error))
    detail = error_details_pb2.RequestInfo(request_id=incident)
    return Refusal(grpc.StatusCode.INTERNAL, f"internal error; incident {incident}", (detail,))


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
