"""The client for asyncio.

Knows calls that are awaited. What is sent and what comes back is made elsewhere, once for both clients.
"""

# ruff: noqa: ASYNC109  # gRPC tells the server of a timeout; asyncio.timeout would not

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from mediround._connection import CHANNEL_OPTIONS, SentImages
from mediround._description import ServerDescription, server_description
from mediround._rounds import (
    DialogueCorrection,
    LiveCorrection,
    Mode,
    Priority,
    Round,
    ask_request,
    segment_request,
)
from mediround._tls import Tls
from mediround.errors import Cancelled, DeadlineExceeded, MediRoundError, NotFound, Unavailable, from_failure
from mediround.image import ImageSource, Upload, upload
from mediround.results import Opening, RoundResult, opening, round_result
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub

if TYPE_CHECKING:  # a name that the stubs' types have and the stubs have not
    from mediround.v1.segmentation_pb2_grpc import SegmentationServiceAsyncStub

_STATUS_LOST = "Internal error from Core"
"""What grpc.aio says when a call ends while it writes: the true status is lost (grpc issue 36066)."""


class AsyncClient:
    """A connection to one server, for any number of sessions and tasks of one event loop.

    Make it within the loop. Close it, or use it in an ``async with``. Every call raises ``MediRoundError``s
    alone, and ``OSError`` where a path cannot be read. Cancelling a task cancels its call on the server.
    """

    def __init__(self, address: str, *, tls: Tls | None = None, timeout: float = 60.0) -> None:
        """Connect when first needed; the arguments are those of ``Client``."""
        self._channel = (
            grpc.aio.secure_channel(address, tls.credentials(), CHANNEL_OPTIONS)
            if tls
            else grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
        )
        self._stub = SegmentationServiceStub(self._channel)
        self._timeout = timeout
        self._sent = SentImages()

    def open(self, image: ImageSource, *, timeout: float | None = None) -> OpeningSession:
        """Open a session on one image: ``async with client.open(...) as session``, or await it and close it."""
        return OpeningSession(lambda: self._session(image, self._timeout if timeout is None else timeout))

    async def segment(
        self,
        image: ImageSource,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> AsyncGenerator[RoundResult]:
        """Ask a whole dialogue on one image; yields each result as soon as it is known, in order."""
        async with self.open(image, timeout=timeout) as session:
            results = session.segment(
                rounds, correction=correction, threshold=threshold, priority=priority, timeout=timeout
            )
            async with aclosing(results):
                async for result in results:
                    yield result

    async def describe(self, *, timeout: float | None = None) -> ServerDescription:
        """Ask which model is served, with which limits and modes."""
        allowed = self._timeout if timeout is None else timeout
        with _translated(allowed):
            return server_description(await self._stub.DescribeServer(pb.DescribeServerRequest(), timeout=allowed))

    async def close(self) -> None:
        """Give up the calls that are under way and close the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _session(self, image: ImageSource, timeout: float) -> AsyncSession:
        # Reading and hashing a large file would hold up the loop.
        opened = await self._open(await asyncio.to_thread(upload, image), timeout)
        return AsyncSession(self._stub, opened, self._timeout)

    async def _open(self, image: Upload, timeout: float) -> Opening:
        if image in self._sent:
            with suppress(NotFound), _translated(timeout):
                return opening(await self._stub.OpenSession(image.inquiry(), timeout=timeout))
            self._sent.discard(image)
        with _translated(timeout):
            opened = opening(await self._stub.OpenSession(image.messages(), timeout=timeout))
        self._sent.add(image)
        return opened


class AsyncSession:
    """One image and its rounds. Made by ``AsyncClient.open``."""

    def __init__(self, stub: SegmentationServiceAsyncStub, opened: Opening, timeout: float) -> None:
        self._stub = stub
        self._timeout = timeout
        self.opening = opened

    @property
    def session_id(self) -> str:
        return self.opening.session_id

    async def ask(
        self,
        question: str,
        *,
        refer_to: RoundResult | int | None = None,
        mode: Mode | None = None,
        answer: str | None = None,
        correction: LiveCorrection = "always",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> RoundResult:
        """Ask one round; the arguments are those of ``Session.ask``."""
        asked = Round(question, refer_to, mode, answer)
        request = ask_request(self.session_id, asked, correction, threshold, priority)
        allowed = self._timeout if timeout is None else timeout
        with _translated(allowed):
            response = await self._stub.AskRound(request, timeout=allowed)
        return round_result(response.result, self.opening)

    async def segment(
        self,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> AsyncGenerator[RoundResult]:
        """Ask rounds known in advance; close the iterator to cancel those that are not finished."""
        request = segment_request(self.session_id, rounds, correction, threshold, priority)
        allowed = self._timeout if timeout is None else timeout
        call = self._stub.SegmentDialogue(request, timeout=allowed)
        try:
            with _translated(allowed):
                async for response in call:
                    yield round_result(response.result, self.opening)
        finally:
            call.cancel()

    async def close(self) -> None:
        """Nobody can ask in it any more; what the server keeps to save work goes with time."""
        with _translated(self._timeout):
            request = pb.CloseSessionRequest(session_id=self.session_id)
            await self._stub.CloseSession(request, timeout=self._timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The results are already here, and the server forgets an idle session by itself.
        with suppress(MediRoundError):
            await self.close()


class OpeningSession:
    """A session on its way: await it, or enter it."""

    def __init__(self, start: Callable[[], Awaitable[AsyncSession]]) -> None:
        self._start = start
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[None, None, AsyncSession]:
        return self._start().__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._start()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.__aexit__(kind, error, trace)


@contextmanager
def _translated(timeout: float) -> Iterator[None]:
    """Around one call, which may take ``timeout`` seconds."""
    began = monotonic()
    try:
        yield
    except grpc.aio.AioRpcError as failure:
        if failure.details() == _STATUS_LOST:
            words = "the call ended while the image was being sent"
            late = monotonic() - began >= timeout
            raise (DeadlineExceeded(words) if late else Unavailable(words, 1.0)) from failure
        raise from_failure(failure) from failure
    except asyncio.CancelledError:
        # A task that nobody cancelled: the call was, by closing the client.
        task = asyncio.current_task()
        if task and task.cancelling():
            raise
        raise Cancelled("the client was closed during the call") from None
