"""gRPC in front of the scripted service: messages are read, errors become statuses, health is answered.

Knows the transport, google.rpc details, and the two words of the standard health service. Does not know what a
call does. grpcio's own health package would be a dependency more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, NoReturn, TypeAlias, TypeVar
from uuid import uuid4

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from mediround import errors
from mediround.testing._metadata import arrived
from mediround.testing._rules import invalid
from mediround.testing._servicer import ScriptedService
from mediround.testing.script import AnswerLost
from mediround.v1 import segmentation_pb2 as pb

# In quotes: generic in the stubs alone.
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
M = TypeVar("M", bound=Message)

_SERVICE = pb.DESCRIPTOR.services_by_name["SegmentationService"].full_name
SERVES = b"\x08\x01"
"""grpc.health.v1.HealthCheckResponse(status=SERVING)."""
_ASKED_OF = {b"", b"\n" + bytes([len(_SERVICE)]) + _SERVICE.encode()}
"""grpc.health.v1.HealthCheckRequest: of the server, and of the service by its name."""
_SEND_IMAGE = (("x-send-image", "1"),)
_REQUEST_ID = "x-request-id"
_DISCARDED_SECONDS = 2.0
_CODES: dict[type[errors.MediRoundError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AccessDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.ServerFault: grpc.StatusCode.INTERNAL,
    errors.ProtocolMismatch: grpc.StatusCode.UNIMPLEMENTED,
    errors.MovedOn: grpc.StatusCode.ABORTED,
}


def handlers(service: ScriptedService) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """The contract's methods and the health service's, for a server of grpc.aio."""
    methods: dict[str, _Handler] = {
        "OpenSession": _stream_unary(service.OpenSession, pb.OpenSessionRequest),
        "AskRound": _unary_unary(service, service.AskRound, pb.AskRoundRequest),
        "SegmentDialogue": _unary_stream(service, service.SegmentDialogue, pb.SegmentDialogueRequest),
        "CloseSession": _unary_unary(service, service.CloseSession, pb.CloseSessionRequest),
        "DescribeServer": _unary_unary(service, service.DescribeServer, pb.DescribeServerRequest),
        "AskRoundWithProgress": _unary_stream(
            service, service.AskRoundWithProgress, pb.AskRoundWithProgressRequest
        ),
        "GetSession": _unary_unary(service, service.GetSession, pb.GetSessionRequest),
        "GetMask": _unary_unary(service, service.GetMask, pb.GetMaskRequest),
        "ListSessions": _unary_unary(service, service.ListSessions, pb.ListSessionsRequest),
        "KeepAlive": _unary_unary(service, service.KeepAlive, pb.KeepAliveRequest),
        "RewindSession": _unary_unary(service, service.RewindSession, pb.RewindSessionRequest),
        "ForkSession": _unary_unary(service, service.ForkSession, pb.ForkSessionRequest),
        "AmendRound": _unary_unary(service, service.AmendRound, pb.AmendRoundRequest),
    }
    health: dict[str, _Handler] = {
        "Check": grpc.unary_unary_rpc_method_handler(_check),
        "Watch": grpc.unary_stream_rpc_method_handler(_watch),
    }
    return [
        grpc.method_handlers_generic_handler(_SERVICE, methods),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    ]


def _unary_unary(service: ScriptedService, answer: Callable[[M], Awaitable[Message]], kind: type[M]) -> _Handler:
    async def call(raw: bytes, context: _Context) -> Message:
        arrived(context.invocation_metadata() or ())
        try:
            service.fail(kind.__name__.removesuffix("Request"))
            return await answer(_parsed(kind, raw))
        except Exception as error:  # the edge: beyond it an error is a status
            await _refuse(error, context)

    return grpc.unary_unary_rpc_method_handler(call, None, _bytes)


def _unary_stream(
    service: ScriptedService, answers: Callable[[M], AsyncGenerator[Message]], kind: type[M]
) -> _Handler:
    async def call(raw: bytes, context: _Context) -> None:
        arrived(context.invocation_metadata() or ())
        try:
            service.fail(kind.__name__.removesuffix("Request"))
            async with aclosing(answers(_parsed(kind, raw))) as results:
                async for result in results:
                    await context.write(result)
        except Exception as error:
            await _refuse(error, context)

    return grpc.unary_stream_rpc_method_handler(call, None, _bytes)


def _stream_unary(
    answer: Callable[[AsyncIterator[M], Callable[[], Awaitable[None]]], Awaitable[Message]], kind: type[M]
) -> _Handler:
    async def messages(raws: AsyncIterator[bytes]) -> AsyncIterator[M]:
        async for raw in raws:
            yield _parsed(kind, raw)

    async def call(raws: AsyncIterator[bytes], context: _Context) -> Message:
        arrived(context.invocation_metadata() or ())
        try:
            return await answer(messages(raws), partial(context.send_initial_metadata, _SEND_IMAGE))
        except Exception as error:
            with suppress(grpc.aio.UsageError):  # it was sent
                await context.send_initial_metadata(())  # whoever waits for it sends no more
            await _discard(raws)
            await _refuse(error, context)

    return grpc.stream_unary_rpc_method_handler(call, None, _bytes)


async def _check(raw: bytes, context: _Context) -> bytes:
    if raw not in _ASKED_OF:
        await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return SERVES


async def _watch(raw: bytes, context: _Context) -> AsyncIterator[bytes]:  # noqa: ARG001  # gRPC's signature
    yield SERVES
    await asyncio.Event().wait()


async def _discard(raws: AsyncIterator[bytes]) -> None:
    """Let the client finish: grpc.aio's clients lose the status of a call that ends while they write (grpc issue
    36066).
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARDED_SECONDS):
            async for _ in raws:
                pass


def _parsed(kind: type[M], raw: bytes) -> M:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise invalid("request", "must be a message of this contract, with text in UTF-8") from None


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()


async def _refuse(error: Exception, context: _Context) -> NoReturn:
    """End a call. What is not a MediRoundError is a fault of the script: a test wants to read which."""
    if isinstance(error, AnswerLost):
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection was lost")
    if not isinstance(error, errors.MediRoundError):
        error = errors.ServerFault(f"the script raised {type(error).__name__}: {error}")
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    status = status_pb2.Status(code=code.value[0], message=str(error))
    for detail in (*_details(error), _request_info(error, context)):
        status.details.add().Pack(detail)
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, str(error), trailing)
    raise AssertionError("abort raises")


def _request_info(error: errors.MediRoundError, context: _Context) -> Message:
    """The id that the script names, else the caller's own."""
    sent = {key: value for key, value in context.invocation_metadata() or () if key == _REQUEST_ID}
    named = getattr(error, "incident", None)
    detail: Message = error_details_pb2.RequestInfo(request_id=named or sent.get(_REQUEST_ID) or str(uuid4()))
    return detail


def _details(error: errors.MediRoundError) -> list[Message]:
    match error:
        case errors.InvalidArgument():
            fields = [
                error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                for v in error.violations
            ]
            return [error_details_pb2.BadRequest(field_violations=fields)]
        case errors.ResourceExhausted() | errors.Unavailable():
            delay = Duration()
            delay.FromNanoseconds(round(error.retry_after * 1e9))
            return [error_details_pb2.RetryInfo(retry_delay=delay)]
        case errors.MediRoundError(reason=str(reason)):
            return [error_details_pb2.ErrorInfo(reason=reason, domain="mediround")]
        case _:
            return []
