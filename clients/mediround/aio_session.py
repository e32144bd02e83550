"""A session, for asyncio.

Knows what can be asked of a session, by calls that are awaited. What is sent and what comes back is made
elsewhere, once for both clients (``mediround._sessions``, ``mediround._rounds``).
"""

# ruff: noqa: ASYNC109  # gRPC tells the server of a timeout; asyncio.timeout would not

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import NoReturn, Self

import numpy as np
import numpy.typing as npt

from mediround._asynchronous import AsyncConnection
from mediround._asynchronous_session import AsyncCalls
from mediround._connection import NOT_CLOSED, not_copied
from mediround._given import Answered, GivenMask, Referred
from mediround._rounds import (
    DialogueCorrection,
    LiveCorrection,
    Mode,
    Priority,
    Round,
    ask_request,
    checked_rounds,
    segment_request,
)
from mediround._sessions import SessionState, Watch
from mediround.errors import MediRoundError
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
        self._calls = AsyncCalls(connection, state)

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
        near_zero: float | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Watch | None = None,
    ) -> RoundResult:
        """Ask one round; the arguments are those of ``Session.ask``."""
        asked = Round(question, refer_to, mode, answer, origin)
        call, names = self._calls.begin(timeout, retries, priority), self._state.names
        request = partial(ask_request, names, asked, correction, threshold, priority, near_zero=near_zero)
        return await self._calls.ask(request, call, progress)

    async def segment(
        self,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        near_zero: float | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Watch | None = None,
    ) -> AsyncGenerator[RoundResult]:
        """Ask rounds known in advance; close the iterator to cancel those that are not finished."""
        asked, watching, names = checked_rounds(rounds), progress is not None, self._state.names

        def request(done: int) -> pb.SegmentDialogueRequest:
            left = asked[done:]
            return segment_request(
                names, left, correction, threshold, priority, near_zero=near_zero, progress=watching
            )

        call = self._calls.begin(timeout, retries, priority)
        async with aclosing(self._calls.segment(request, call, progress)) as results:
            async for result in results:
                yield result

    async def seed(
        self,
        question: str,
        answer: str,
        mask: GivenMask,
        *,
        refer_to: Referred | None = None,
        origin: str = "",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> RoundResult:
        """Add a round that is given as a whole; the arguments are those of ``Session.seed``."""
        seeded = Round(question, refer_to, answer=answer, origin=origin, seed=mask)
        call, names = self._calls.begin(timeout, retries), self._state.names
        return await self._calls.ask(partial(ask_request, names, seeded, "always", None), call, None)

    async def history(self, *, timeout: float | None = None, retries: int | None = None) -> tuple[PastRound, ...]:
        """The rounds that the session has now, whoever asked them, without their masks: ``mask`` has those."""
        call, state = self._calls.begin(timeout, retries), self._state
        return state.history(await self._calls.unary("GetSession", state.history_request, call))

    async def mask(
        self,
        of: Answered | str,
        *,
        original: bool = False,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> npt.NDArray[np.bool_]:
        """A round's mask, bool (H, W); the arguments are those of ``Session.mask``."""
        call, state = self._calls.begin(timeout, retries), self._state
        request = partial(state.mask_request, of, original=original)
        return state.mask(await self._calls.unary("GetMask", request, call))

    async def undo(self, n: int = 1, *, timeout: float | None = None, retries: int | None = None) -> int:
        """Undo the last ``n`` rounds; how many are left. Raises what ``Session.undo`` does."""
        if self._state.rounds is None:
            await self.keep_alive(timeout=timeout, retries=retries)
        call, state = self._calls.begin(timeout, retries), self._state
        return state.rewound(await self._calls.unary("RewindSession", partial(state.rewind_request, n), call))

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
        call, state = self._calls.begin(timeout, retries), self._state
        given = state.amendment(of, mask, origin)
        request = partial(state.amend_request, of, given)
        return state.amended(await self._calls.unary("AmendRound", request, call), given)

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
        call, state = self._calls.begin(timeout, retries), self._state
        return state.kept_alive(await self._calls.unary("KeepAlive", state.keep_alive_request, call))

    async def close(self) -> None:
        """No more can be asked in it, also where it was to be kept; what the server keeps to save work goes with
        time. Closing it again is allowed.
        """
        self._state.left_open = False
        if self._connection.closed:
            return  # and with it what it had opened
        request = pb.CloseSessionRequest(session_id=self.session_id)
        await self._connection.unary("CloseSession", request, self._calls.begin())
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

    async def _forked(
        self, after: Answered | int | None, keep: bool, timeout: float | None, retries: int | None
    ) -> AsyncSession:
        named = isinstance(after, RoundResult | PastRound)
        held = await self.history(timeout=timeout, retries=retries) if named else ()
        call, state = self._calls.begin(timeout, retries), self._state
        request = partial(state.fork_request, after, held, keep=keep)
        branch = state.branch(await self._calls.unary("ForkSession", request, call), keep=keep)
        if not keep:
            self._connection.sessions.add(branch.session_id)
        return AsyncSession(self._connection, branch)


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
