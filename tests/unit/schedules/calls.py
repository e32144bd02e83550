"""Calls of the contract's methods in this process: through the server's edge and methods, without a transport.

Knows messages, whose call it is, and how it ends. Does not know what is asked.
"""

# gRPC's names

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from mediround.v1.segmentation_pb2_grpc import add_SegmentationServiceServicer_to_server
from serving.api.service import SegmentationService
from serving.rpc.interceptor import CallInterceptor, Handler

_PACKAGE = "mediround.v1"


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a caller; ``caller`` is empty for one without a certificate."""

    caller: str
    method: str
    messages: tuple[Message, ...]
    id: str = ""
    """Of the request; empty: it has none."""


@dataclass(slots=True)
class Refusal(Exception):
    """How a call ended that was not answered."""

    code: str
    reason: str = ""
    field: str = ""
    retry_s: float | None = None

    @property
    def said(self) -> tuple[str, str, str]:
        return self.code, self.reason, self.field


@dataclass(slots=True)
class Reply:
    """What a caller was told so far."""

    messages: list[Any] = field(default_factory=list)
    refusal: Refusal | None = None

    @property
    def last(self) -> Any:
        """The answer, of a method that has one."""
        assert self.refusal is None, self.refusal
        return self.messages[-1]


class Edge:
    """One server's methods."""

    def __init__(self, service: SegmentationService) -> None:
        self._plain: dict[str, Handler] = {}
        self._handlers: dict[str, Handler] = {}
        self._interceptor = CallInterceptor(_PACKAGE)
        add_SegmentationServiceServicer_to_server(service, self)  # type: ignore[arg-type]  # as much of a server as it asks for

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """The same handlers, of older gRPC."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Handler]) -> None:
        self._plain = handlers

    async def carry_out(self, call: Call, reply: Reply, most: int | None = None) -> Reply:
        """``reply`` hears what the caller is told; after ``most`` messages its connection is cut."""
        handler = await self._handler(call.method)
        context: Any = _Context(call, reply, most)
        raws = [message.SerializeToString() for message in call.messages]
        try:
            if handler.response_streaming:
                await handler.unary_stream(raws[0], context)
            else:
                work = handler.stream_unary if handler.request_streaming else handler.unary_unary
                context.take(await work(_each(raws) if handler.request_streaming else raws[0], context))
        except Refusal as refusal:
            reply.refusal = refusal
        return reply

    async def _handler(self, method: str) -> Any:
        if method not in self._handlers:

            async def plain(_: grpc.HandlerCallDetails) -> Handler:
                return self._plain[method]

            details = cast("grpc.HandlerCallDetails", SimpleNamespace(method=f"/{_PACKAGE}.Service/{method}"))
            self._handlers[method] = await self._interceptor.intercept_service(plain, details)
        return self._handlers[method]


class _Context:
    """What a method is told of a call, and what it tells."""

    def __init__(self, call: Call, reply: Reply, most: int | None) -> None:
        self._call, self._reply, self._most = call, reply, most

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", self._call.id),) if self._call.id else ()

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_subject": [self._call.caller.encode()]} if self._call.caller else {}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> None:
        return None

    async def send_initial_metadata(self, _: object) -> None:
        """It is not looked at."""

    async def write(self, message: Message) -> None:
        self.take(message)

    def take(self, message: Message) -> None:
        if len(self._reply.messages) == self._most:
            raise asyncio.CancelledError  # as gRPC ends work that has no reader any more
        self._reply.messages.append(message)

    async def abort(self, code: grpc.StatusCode, message: str, metadata: Sequence[tuple[str, bytes]]) -> None:
        status, refusal = status_pb2.Status.FromString(metadata[0][1]), Refusal(code.name)
        for detail in status.details:
            info, bad, retry = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RetryInfo(),
            )
            if detail.Unpack(info):
                refusal.reason = info.reason
            elif detail.Unpack(bad):
                refusal.field = bad.field_violations[0].field
            elif detail.Unpack(retry):
                refusal.retry_s = retry.retry_delay.ToNanoseconds() / 1e9
        raise refusal


async def _each(raws: Sequence[bytes]) -> AsyncIterator[bytes]:
    for raw in raws:
        yield raw
