"""The client for asyncio.

Knows what can be asked, by calls that are awaited. What is sent and what comes back is made elsewhere, once for
both clients; so is the connection (``mediround._asynchronous``).
"""

# ruff: noqa: ASYNC109  # gRPC tells the server of a timeout; asyncio.timeout would not

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import NoReturn, Self

from mediround._asynchronous import AsyncConnection
from mediround._calls import RETRIES, CallDefaults
from mediround._connection import NOT_CLOSED, not_copied
from mediround._description import ServerDescription, server_description
from mediround._overlay import Source, remembered
from mediround._readiness import Readiness
from mediround._rounds import (
    DialogueCorrection,
    LiveCorrection,
    Mode,
    Priority,
    Round,
    ask_request,
    checked_rounds,
    priority_value,
    segment_request,
)
from mediround._tls import Tls
from mediround.errors import MediRoundError
from mediround.image import ImageSource, upload
from mediround.results import Opening, RoundResult, round_result, taken_up
from mediround.v1 import segmentation_pb2 as pb


class AsyncClient:
    """A connection to one server, for any number of sessions and tasks of one event loop: that of its first call.

    Close it, or use it in an ``async with``. Every call raises ``MediRoundError``s alone, and ``OSError`` where a
    path cannot be read. Calls that the server says it did not begin are sent again by themselves, ``retries``
    times at most and within ``timeout``. Cancelling a task cancels its call on the server.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        timeout: float | None = None,
        retries: int = RETRIES,
        http_proxy: bool = False,
    ) -> None:
        """Connect when first needed; the arguments are those of ``Client``."""
        defaults = CallDefaults.of(timeout, retries)
        self._connection = AsyncConnection(address, tls, defaults, http_proxy=http_proxy)

    def open(
        self,
        image: ImageSource,
        *,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> OpeningSession:
        """Open a session on one image: ``async with client.open(...) as session``, or await it and close it."""
        return OpeningSession(lambda: self._open(image, priority, timeout, retries))

    def session(self, session_id: str) -> AsyncSession:
        """Take up a session whose id is known: its next call says ``NotFound`` if it is gone. Closing the client
        does not close it.
        """
        return AsyncSession(self._connection, taken_up(session_id), opened_here=False)

    async def segment(
        self,
        image: ImageSource,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> AsyncGenerator[RoundResult]:
        """Ask a whole dialogue on one image; yields each result as soon as it is known, in order."""
        rounds = checked_rounds(rounds)
        async with self.open(image, priority=priority, timeout=timeout, retries=retries) as session:
            results = session.segment(
                rounds,
                correction=correction,
                threshold=threshold,
                priority=priority,
                timeout=timeout,
                retries=retries,
            )
            async with aclosing(results):
                async for result in results:
                    yield result

    async def describe(self, *, timeout: float | None = None, retries: int | None = None) -> ServerDescription:
        """Ask which model is served, with which limits and modes."""
        call = self._connection.defaults.call(timeout, retries)
        return server_description(await self._connection.unary("DescribeServer", pb.DescribeServerRequest(), call))

    async def ping(self, *, timeout: float | None = None) -> float:
        """Ask the server whether it serves; seconds that the answer took. Raises Unavailable when it does not."""
        call = self._connection.defaults.call(timeout, retries=0)
        await self._connection.ping(call)
        return call.taken

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return when the server serves; raises what ``Client.wait_until_ready`` does."""
        waiting = Readiness(self._connection.defaults.call(timeout))
        while True:
            attempt = waiting.attempt()
            try:
                return await self._connection.ping(attempt)
            except MediRoundError as error:
                await asyncio.sleep(waiting.pause(error))

    async def close(self) -> None:
        """Close the sessions that were opened here, give up the calls that are under way, close the connection."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        not_copied(self)

    async def _open(
        self, image: ImageSource, priority: Priority, timeout: float | None, retries: int | None
    ) -> AsyncSession:
        queued = priority_value(priority)
        call = self._connection.defaults.call(timeout, retries, priority)
        # Reading and hashing a large file would hold up the loop.
        prepared = (await asyncio.to_thread(upload, image)).prioritised(queued)
        opened = await self._connection.open(prepared, call)
        return AsyncSession(self._connection, opened, opened_here=True, source=remembered(image))


class AsyncSession:
    """One image and its rounds. Made by ``AsyncClient.open`` and ``AsyncClient.session``.

    A session that is collected before it was closed is told by a ``ResourceWarning``, as ``Session`` is.
    """

    def __init__(
        self, connection: AsyncConnection, opened: Opening, *, opened_here: bool, source: Source | None = None
    ) -> None:
        self._connection = connection
        self._left_open, self._source = opened_here, source
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
        retries: int | None = None,
    ) -> RoundResult:
        """Ask one round; the arguments are those of ``Session.ask``."""
        asked = Round(question, refer_to, mode, answer)
        request = ask_request(self.session_id, asked, correction, threshold, priority)
        call = self._connection.defaults.call(timeout, retries, priority)
        response = await self._connection.unary("AskRound", request, call)
        return round_result(response.result, self.opening, call.request_id, self._source)

    async def segment(
        self,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> AsyncGenerator[RoundResult]:
        """Ask rounds known in advance; close the iterator to cancel those that are not finished."""
        request = segment_request(self.session_id, rounds, correction, threshold, priority)
        call = self._connection.defaults.call(timeout, retries, priority)
        async with aclosing(self._connection.stream("SegmentDialogue", request, call)) as responses:
            async for response in responses:
                yield round_result(response.result, self.opening, call.request_id, self._source)

    async def close(self) -> None:
        """No more can be asked in it; what the server keeps to save work goes with time. Closing it again is
        allowed.
        """
        self._left_open = False
        if self._connection.closed:
            return  # and with it what it had opened
        request = pb.CloseSessionRequest(session_id=self.session_id)
        await self._connection.unary("CloseSession", request, self._connection.defaults.call())
        self._connection.sessions.discard(self.session_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The results are already here, and the server forgets an idle session by itself.
        with suppress(MediRoundError):
            await self.close()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_left_open", False) and not self._connection.closed:
            warn(NOT_CLOSED, ResourceWarning, source=self, stacklevel=2)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        not_copied(self)


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
