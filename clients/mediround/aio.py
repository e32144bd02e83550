"""The client for asyncio.

Knows what can be asked, by calls that are awaited. What is sent and what comes back is made elsewhere, once for
both clients; so is the connection (``mediround._asynchronous``).
"""

# ruff: noqa: ASYNC109  # gRPC tells the server of a timeout; asyncio.timeout would not

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import NoReturn, Self

from mediround._asynchronous import AsyncConnection
from mediround._asynchronous_session import AsyncCalls
from mediround._calls import RETRIES, Call, CallDefaults, new_session_id
from mediround._connection import not_copied
from mediround._description import ServerDescription, server_description
from mediround._overlay import remembered
from mediround._readiness import Readiness
from mediround._replay import Replay, checked
from mediround._rounds import DialogueCorrection, Priority, Round, checked_rounds, priority_value
from mediround._sessions import SessionState, Watch
from mediround._tls import Tls
from mediround.aio_session import AsyncSession, OpeningSession
from mediround.errors import MediRoundError
from mediround.history import SessionSummary, session_summary
from mediround.image import ImageSource, chosen, upload
from mediround.results import RoundResult, taken_up
from mediround.v1 import segmentation_pb2 as pb
from mediround.window import WindowChoice


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
        frame: int | None = None,
        window: WindowChoice = None,
        keep: bool = False,
        replay: bool = False,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> OpeningSession:
        """Open a session on one image: ``async with client.open(...) as session``, or await it and close it. The
        arguments are those of ``Client.open``.
        """

        def start() -> Awaitable[AsyncSession]:
            picked = chosen(image, frame, window)
            return self._open(picked, priority, timeout, retries, keep=keep, replay=replay)

        return OpeningSession(start)

    def resume(
        self,
        session_id: str,
        image: ImageSource | None = None,
        *,
        frame: int | None = None,
        window: WindowChoice = None,
        replay: bool = False,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> OpeningSession:
        """Take up a session that was kept: ``async with client.resume(...) as session``, or await it. The
        arguments, and what it raises, are those of ``Client.resume``.
        """
        again = None if image is None else chosen(image, frame, window)
        return OpeningSession(lambda: self._resume(session_id, again, timeout, retries, replay=replay))

    async def sessions(
        self, *, timeout: float | None = None, retries: int | None = None
    ) -> AsyncGenerator[SessionSummary]:
        """Your sessions, the latest opened first, as ``Client.sessions`` has them."""
        request = pb.ListSessionsRequest()
        while True:
            call = self._connection.defaults.call(timeout, retries)
            page = await self._connection.unary("ListSessions", request, call)
            for each in page.sessions:
                yield session_summary(each)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def session(self, session_id: str) -> AsyncSession:
        """Take up a session whose id is known, without asking the server: its next call says ``NotFound`` if it is
        gone. Leaving its block closes it, unless it is known to be kept; closing the client does not.
        """
        return AsyncSession(self._connection, SessionState(taken_up(session_id)))

    async def segment(
        self,
        image: ImageSource,
        rounds: Sequence[Round],
        *,
        frame: int | None = None,
        window: WindowChoice = None,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        near_zero: float | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Watch | None = None,
    ) -> AsyncGenerator[RoundResult]:
        """Ask a whole dialogue on one image; yields each result as soon as it is known, in order. ``progress`` is
        told where the request stands meanwhile.
        """
        rounds = checked_rounds(rounds)
        opening = self.open(image, frame=frame, window=window, priority=priority, timeout=timeout, retries=retries)
        async with opening as session:
            results = session.segment(
                rounds,
                correction=correction,
                threshold=threshold,
                priority=priority,
                near_zero=near_zero,
                timeout=timeout,
                retries=retries,
                progress=progress,
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
        self,
        image: ImageSource,
        priority: Priority,
        timeout: float | None,
        retries: int | None,
        *,
        keep: bool,
        replay: bool,
    ) -> AsyncSession:
        queued, session_id = priority_value(priority), new_session_id()
        call = self._opening(session_id, timeout, retries, priority)
        # Reading and hashing a large file would hold up the loop.
        sent = (await asyncio.to_thread(upload, image)).prioritised(queued)
        held = checked(sent) if replay else None
        opened = await self._connection.open(sent.named(session_id, keep=bool(keep)), call)
        if not keep:
            self._connection.sessions.add(opened.session_id)
        remade = None if held is None else Replay.of(held, opened, keep=bool(keep))
        state = SessionState.opened(opened, remembered(image), keep=keep, replay=remade)
        return AsyncSession(self._connection, state)

    async def _resume(
        self,
        session_id: str,
        image: ImageSource | None,
        timeout: float | None,
        retries: int | None,
        *,
        replay: bool,
    ) -> AsyncSession:
        state, again = SessionState(taken_up(session_id)), None
        if image is not None:
            again = (await asyncio.to_thread(upload, image)).named(session_id, resume=True)
            await self._connection.open(again, self._opening(session_id, timeout, retries))
            state = SessionState.resumed(state.opening, again, remembered(image))
        session = AsyncSession(self._connection, state)
        if replay:
            await AsyncCalls(self._connection, state).remember(checked(again), timeout, retries)
        else:
            await session.history(timeout=timeout, retries=retries)
        return session

    def _opening(
        self, session_id: str, timeout: float | None, retries: int | None, priority: Priority = "interactive"
    ) -> Call:
        """A call that opens a session of this id, and begins now. Raises InvalidArgument."""
        repeatable = self._connection.remembers
        return self._connection.defaults.call(
            timeout, retries, priority, session_id=session_id, repeatable=repeatable
        )
