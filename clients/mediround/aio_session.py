"""A session, for asyncio.

Knows what can be asked of a session, by calls that are awaited. What is sent and what comes back is made
elsewhere, once for both clients (``mediround._sessions``, ``mediround._rounds``).
"""

# ruff: noqa: ASYNC109  # gRPC tells the server of a timeout; asyncio.timeout would not

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import NoReturn, Self

import numpy as np
import numpy.typing as npt

from mediround._asynchronous import AsyncConnection
from mediround._calls import Call
from mediround._connection import NOT_CLOSED, not_copied
from mediround._given import Answered, GivenMask, Referred
from mediround._rounds import (
    DialogueCorrection,
    LiveCorrection,
    Mode,
    Priority,
    Round,
    ask_request,
    segment_request,
)
from mediround._sessions import SessionState, Watch, told, watched
from mediround.errors import MediRoundError, ProtocolMismatch
from mediround.history import PastRound
from mediround.results import Opening, RoundResult
from mediround.v1 import segmentation_pb2 as pb


class AsyncSession:
    """One image and its rounds. Made by ``AsyncClient.open``, ``AsyncClient.resume``, ``AsyncClient.session`` and
    ``AsyncSession.fork``.

    A session that is collected before it was closed is told by a ``ResourceWarning``: it takes one of the server's
    places until its client is closed, or its idle time is over. One that was opened with ``keep`` is not: it
    stays.
    """

    def __init__(self, connection: AsyncConnection, state: SessionState) -> None:
        self._connection, self._state = connection, state

    @property
    def session_id(self) -> str:
        return self._state.session_id

    @property
    def opening(self) -> Opening:
        """As the server opened it, or as far as it is known."""
        return self._state.opening

    @property
    def expires_at(self) -> float | None:
        """When it ends if nothing more is asked of it, in seconds since the epoch, as its server said last. None:
        not known yet, or an older server does not say.
        """
        return self._state.expires_at

    async def ask(
        self,
        question: str,
        *,
        refer_to: Referred | None = None,
        origin: str = "",
        mode: Mode | None = None,
        answer: str | None = None,
        correction: LiveCorrection = "always",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
        progress: Watch | None = None,
    ) -> RoundResult:
        """Ask one round; the arguments are those of ``Session.ask``."""
        asked = Round(question, refer_to, mode, answer, origin)
        request = ask_request(self.session_id, asked, correction, threshold, priority)
        return await self._asked(request, self._call(timeout, retries, priority), progress)

    async def segment(
        self,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
        progress: Watch | None = None,
    ) -> AsyncGenerator[RoundResult]:
        """Ask rounds known in advance; close the iterator to cancel those that are not finished."""
        watching = progress is not None
        request = segment_request(self.session_id, rounds, correction, threshold, priority, progress=watching)
        call = self._call(timeout, retries, priority)
        async with aclosing(self._connection.stream("SegmentDialogue", request, call)) as responses:
            async for response in responses:
                if (result := told(response, progress)) is not None:
                    yield self._state.result(result, call)

    async def seed(
        self,
        question: str,
        answer: str,
        mask: GivenMask,
        *,
        origin: str = "",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> RoundResult:
        """Add a round that is given as a whole; the arguments are those of ``Session.seed``."""
        seeded = Round(question, answer=answer, origin=origin, seed=mask)
        request = ask_request(self.session_id, seeded, "always", None)
        return await self._asked(request, self._call(timeout, retries), None)

    async def history(self, *, timeout: float | None = None, retries: int | None = None) -> tuple[PastRound, ...]:
        """The rounds that the session has now, whoever asked them, without their masks: ``mask`` has those."""
        request, call = pb.GetSessionRequest(session_id=self.session_id), self._call(timeout, retries)
        return self._state.history(await self._connection.unary("GetSession", request, call))

    async def mask(
        self,
        of: Answered | str,
        *,
        original: bool = False,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> npt.NDArray[np.bool_]:
        """A round's mask, bool (H, W); the arguments are those of ``Session.mask``."""
        request, call = self._state.mask_request(of, original=original), self._call(timeout, retries)
        return self._state.mask(await self._connection.unary("GetMask", request, call))

    async def undo(self, n: int = 1, *, timeout: float | None = None, retries: int | None = None) -> int:
        """Undo the last ``n`` rounds; how many are left. Raises what ``Session.undo`` does."""
        if self._state.rounds is None:
            await self.keep_alive(timeout=timeout, retries=retries)
        request, call = self._state.rewind_request(n), self._call(timeout, retries)
        return self._state.rewound(await self._connection.unary("RewindSession", request, call))

    async def amend(
        self,
        of: Answered,
        mask: GivenMask | None,
        *,
        origin: str = "",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> PastRound:
        """Put a mask that a person has edited in place of a round's; the arguments are those of
        ``Session.amend``.
        """
        request, call = self._state.amend_request(of, mask, origin), self._call(timeout, retries)
        return self._state.amended(await self._connection.unary("AmendRound", request, call))

    def fork(
        self,
        after: Answered | int | None = None,
        *,
        keep: bool = False,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> OpeningSession:
        """Open a branch: ``async with session.fork(...) as branch``, or await it and close it. The arguments are
        those of ``Session.fork``.
        """
        return OpeningSession(lambda: self._forked(after, keep, timeout, retries))

    async def keep_alive(self, *, timeout: float | None = None, retries: int | None = None) -> float:
        """Say that the session is still in use; when it ends otherwise, in seconds since the epoch. Every other
        call puts that off, too.
        """
        request, call = pb.KeepAliveRequest(session_id=self.session_id), self._call(timeout, retries)
        return self._state.kept_alive(await self._connection.unary("KeepAlive", request, call))

    async def close(self) -> None:
        """No more can be asked in it, also where it was to be kept; what the server keeps to save work goes with
        time. Closing it again is allowed.
        """
        self._state.left_open = False
        if self._connection.closed:
            return  # and with it what it had opened
        request = pb.CloseSessionRequest(session_id=self.session_id)
        await self._connection.unary("CloseSession", request, self._call())
        self._connection.sessions.discard(self.session_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state.keep:
            return
        # The results are already here, and the server forgets an idle session by itself.
        with suppress(MediRoundError):
            await self.close()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        state = getattr(self, "_state", None)
        if state and state.left_open and not self._connection.closed:
            warn(NOT_CLOSED, ResourceWarning, source=self, stacklevel=2)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        not_copied(self)

    def _call(
        self, timeout: float | None = None, retries: int | None = None, priority: Priority = "interactive"
    ) -> Call:
        """A call about this session that begins now. Raises InvalidArgument."""
        repeatable = self._state.remembers
        return self._connection.defaults.call(
            timeout, retries, priority, session_id=self.session_id, repeatable=repeatable
        )

    async def _forked(
        self, after: Answered | int | None, keep: bool, timeout: float | None, retries: int | None
    ) -> AsyncSession:
        named = isinstance(after, RoundResult | PastRound)
        held = await self.history(timeout=timeout, retries=retries) if named else ()
        request, call = self._state.fork_request(after, held, keep=keep), self._call(timeout, retries)
        response = await self._connection.unary("ForkSession", request, call)
        branch = self._state.branch(response, keep=keep)
        if not keep:
            self._connection.sessions.add(branch.session_id)
        return AsyncSession(self._connection, branch)

    async def _asked(self, request: pb.AskRoundRequest, call: Call, progress: Watch | None) -> RoundResult:
        if progress is None:
            response = await self._connection.unary("AskRound", request, call)
            return self._state.result(response.result, call)
        stream = self._connection.stream("AskRoundWithProgress", watched(request), call)
        async with aclosing(stream) as responses:
            async for response in responses:
                if (result := told(response, progress)) is not None:
                    return self._state.result(result, call)
        raise ProtocolMismatch("the answer ended without a result")


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
