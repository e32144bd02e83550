"""A connection whose calls are awaited, and the one boundary between them and gRPC: beyond it there are
MediRoundErrors alone.

Knows the channel, the event loop, what is sent again, and the sessions that are open. Does not know what a call
asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from mediround import channels
from mediround._calls import Call, CallDefaults
from mediround._connection import (
    CHANNEL_OPTIONS,
    CLOSING_SECONDS,
    HEALTH,
    SEND_IMAGE,
    VERDICT_SECONDS,
    OpenSessions,
    SentImages,
    cancelled,
    check_health,
    closed,
    closing_requests,
    stopped,
    target,
)
from mediround._diagnosis import explained
from mediround._tls import Tls
from mediround.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    MediRoundError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from mediround.failures import from_failure
from mediround.image import Upload
from mediround.results import Opening, opening
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub

if TYPE_CHECKING:  # a name that the stubs' types have and the stubs have not
    from mediround.v1.segmentation_pb2_grpc import SegmentationServiceAsyncStub

Answer = TypeVar("Answer")

_STATUS_LOST = "Internal error from Core"
"""What grpc.aio says when a call ends while it writes: the true status is lost (grpc issue 36066)."""


class AsyncConnection:
    """Of one event loop: that of its first call."""

    def __init__(self, address: str, tls: Tls | None, defaults: CallDefaults, *, http_proxy: bool) -> None:
        """Raises InvalidArgument."""
        self.address, self._credentials = target(address, tls)
        self.defaults, self.closed = defaults, False
        self.remembers = False
        self.sessions = OpenSessions()
        self._tls, self._http_proxy, self._sent = tls, http_proxy, SentImages()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._made: SegmentationServiceAsyncStub | None = None

    @property
    def stub(self) -> SegmentationServiceAsyncStub:
        channel = self._connected()
        if self._made is None:
            self._made = SegmentationServiceStub(channel)
        return self._made

    def _connected(self) -> grpc.aio.Channel:
        """Made within the loop. Raises FailedPrecondition when the client is closed, or another loop's."""
        if self.closed:
            raise closed()
        loop = asyncio.get_running_loop()
        if self._channel is None:
            self._loop = loop
            self._channel = channels.asynchronous(
                self.address, self._credentials, CHANNEL_OPTIONS, http_proxy=self._http_proxy
            )
        if self._loop is not loop:
            raise FailedPrecondition("the client belongs to another event loop: make one in each")
        return self._channel

    async def unary(self, method: str, request: object, call: Call) -> Any:  # typed by its caller
        """One request, one answer; sent again where the server did not begin."""

        async def attempt() -> object:
            return await getattr(self.stub, method)(request, timeout=call.timeout, metadata=call.metadata)

        return await self._again(call, attempt)

    async def stream(self, method: str, request: object, call: Call) -> AsyncGenerator[Any]:
        """One request, many answers. Closing the iterator cancels the call.

        Sent again before the first result, and after it where the server remembers requests: it then sends what it
        sent before, which is left out, and goes on.
        """
        results = 0
        while True:
            came = 0
            try:
                async with aclosing(self._streamed(method, request, call)) as responses:
                    async for response in responses:
                        came += response.HasField("result")
                        if came > results or not response.HasField("result"):
                            results = max(results, came)
                            yield response
                return
            except (ResourceExhausted, Unavailable) as error:
                wait = None if results and not call.repeatable else call.pause(error)
                if wait is None:
                    raise
            await asyncio.sleep(wait)

    async def open(self, image: Upload, call: Call) -> Opening:
        """Open a session: without the image's bytes, where the server may hold them."""
        opened = await self._held(image, call)
        if opened is None:
            opened = await self._again(call, lambda: self._send(image, call))
        self._sent.add(image)
        self.remembers = opened.expires_at is not None
        return replace(opened, pixels=image.record)

    async def ping(self, call: Call) -> None:
        """Raises Unavailable when the server is there and does not serve."""

        async def attempt() -> bytes:
            health = self._connected().unary_unary(HEALTH, None, None)
            answer: bytes = await health(b"", timeout=call.timeout, metadata=call.metadata)
            return answer

        check_health(await self._again(call, attempt))

    async def close(self) -> None:
        """Close what was opened here, as far as the server lets that happen soon; then the connection."""
        if self.closed:
            return
        channel, left, self.closed = self._channel, closing_requests(self.sessions), True
        if channel is None or self._loop is not asyncio.get_running_loop():
            return  # what another loop began ends with it
        stub = SegmentationServiceStub(channel)
        closing = [
            stub.CloseSession(request, timeout=CLOSING_SECONDS, metadata=metadata) for request, metadata in left
        ]
        await asyncio.gather(*closing, return_exceptions=True)
        await channel.close(None)

    async def _held(self, image: Upload, call: Call) -> Opening | None:
        if image not in self._sent:
            return None

        async def inquire() -> Opening:
            asked = self.stub.OpenSession(image.inquiry(), timeout=call.timeout, metadata=call.metadata)
            return opening(await asked)

        with suppress(NotFound):
            return await self._again(call, inquire)
        self._sent.discard(image)
        return None

    async def _send(self, image: Upload, call: Call) -> Opening:
        """The header, the server's verdict on it, then the bytes: a refusal is not met by megabytes."""
        if not image.awaits_verdict:
            asked = self.stub.OpenSession(image.messages(), timeout=call.timeout, metadata=call.metadata)
            return opening(await asked)
        # The stubs know calls that are given an iterator alone; this one is written to.
        method: Any = self.stub.OpenSession
        under_way = method(timeout=call.timeout, metadata=call.metadata)
        try:
            await self._write(under_way, image.messages())
            return opening(await under_way)
        finally:
            under_way.cancel()  # if it is not over: this task was cancelled

    async def _write(self, under_way: Any, messages: Iterator[pb.OpenSessionRequest]) -> None:
        """Until the call is over, whose status then says why: a write fails then, and a half-close otherwise."""
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.InternalError):
            await under_way.write(next(messages))
            with suppress(TimeoutError):
                async with asyncio.timeout(VERDICT_SECONDS):
                    if SEND_IMAGE not in dict(await under_way.initial_metadata()):
                        messages = iter(())  # the refusal comes when nothing more does
            for message in messages:
                if under_way.done():
                    return
                await under_way.write(message)
            await under_way.done_writing()

    async def _streamed(self, method: str, request: object, call: Call) -> AsyncGenerator[Any]:
        """One attempt."""
        responses = getattr(self.stub, method)(request, timeout=call.timeout, metadata=call.metadata)
        try:
            each = aiter(responses)
            while (response := await self._translated(call, lambda: anext(each, None))) is not None:
                yield response
        finally:
            responses.cancel()

    async def _again(self, call: Call, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        while True:
            try:
                return await self._translated(call, attempt)
            except (ResourceExhausted, Unavailable) as error:
                wait = call.pause(error)
                if wait is None:
                    raise
            await asyncio.sleep(wait)

    async def _translated(self, call: Call, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            return await attempt()
        except grpc.aio.AioRpcError as failure:
            raise await self._meaning(failure, call) from failure
        except grpc.aio.UsageError as error:  # gRPC's word for a channel that was closed meanwhile
            raise closed() from error
        except asyncio.CancelledError:
            # A task that nobody cancelled: the call was, by closing the client.
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            raise cancelled(call) from None

    async def _meaning(self, failure: grpc.aio.AioRpcError, call: Call) -> MediRoundError:
        if failure.details() == _STATUS_LOST:
            words = "the call ended while the image was being sent"
            late = call.left <= 0
            error: MediRoundError = DeadlineExceeded(words) if late else Unavailable(words)
            error.request_id = call.request_id
            return error
        found = from_failure(failure, call.request_id)
        found = found if self.closed else stopped(found)
        return await asyncio.to_thread(explained, found, self.address, self._tls, call.left)
