"""Calls about one session that are awaited; where the session was lost, they are sent again in one that is opened
anew.

Knows when a session is lost, and what brings it back. Does not know what a call asks.
"""

# gRPC tells the server of a timeout; asyncio.timeout would not

# ruff: noqa: ASYNC109  # gRPC tells the server of a timeout; asyncio.timeout would not

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from mediround._asynchronous import AsyncConnection
from mediround._calls import Call, new_session_id
from mediround._replay import Replay
from mediround._rounds import Priority
from mediround._sessions import SessionState, Watch, told, watched
from mediround.errors import InvalidArgument, MediRoundError, NeedsImage, NotFound, ProtocolMismatch
from mediround.image import Upload
from mediround.results import Opening, RoundResult
from mediround.v1 import segmentation_pb2 as pb

Answer = TypeVar("Answer")


class AsyncCalls:
    """One session's."""

    def __init__(self, connection: AsyncConnection, state: SessionState) -> None:
        self.connection, self._state = connection, state
        self._turn = asyncio.Lock()

    def begin(
        self, timeout: float | None = None, retries: int | None = None, priority: Priority = "interactive"
    ) -> Call:
        """A call that begins now. Raises InvalidArgument."""
        state = self._state
        return self.connection.defaults.call(
            timeout, retries, priority, session_id=state.session_id, repeatable=state.remembers
        )

    async def remember(self, image: Upload, timeout: float | None, retries: int | None) -> None:
        """Read what the session is opened anew from, should it be lost."""
        state, unary = self._state, self.connection.unary
        past: pb.GetSessionResponse
        past = await unary("GetSession", state.history_request(), self.begin(timeout, retries))
        state.history(past)
        state.replay = Replay.of_past(image, past)
        for digest in state.replay.missing():
            request = state.held_mask_request(digest)
            response: pb.GetMaskResponse = await unary("GetMask", request, self.begin(timeout, retries))
            state.replay.found(digest, response.mask)

    async def unary(self, method: str, request: Callable[[], object], call: Call) -> Any:  # typed by its caller
        """One request, one answer. ``request`` makes it, of what the session and its rounds are called then."""
        return await self._found(call, lambda each: self.connection.unary(method, request(), each))

    async def ask(
        self, request: Callable[[], pb.AskRoundRequest], call: Call, progress: Watch | None
    ) -> RoundResult:
        """One round."""
        return await self._found(call, lambda each: self._ask(request(), each, progress))

    async def segment(
        self, request: Callable[[int], pb.SegmentDialogueRequest], call: Call, progress: Watch | None
    ) -> AsyncGenerator[RoundResult]:
        """Rounds known in advance. ``request`` asks all but the first of them, so many."""
        done, found = 0, False
        while True:
            asked, here = request(done), self._state.session_id
            try:
                async with aclosing(self.connection.stream("SegmentDialogue", asked, call)) as responses:
                    questions = iter(asked.questions)
                    async for response in responses:
                        if (result := told(response, progress)) is not None:
                            done += 1
                            yield self._state.result(result, call, next(questions))
                return
            except (NotFound, NeedsImage) as lost:
                if found:
                    raise
                call, found = await self._back(lost, here, call), True

    async def _ask(self, request: pb.AskRoundRequest, call: Call, progress: Watch | None) -> RoundResult:
        if progress is None:
            response = await self.connection.unary("AskRound", request, call)
            return self._state.result(response.result, call, request.question)
        stream = self.connection.stream("AskRoundWithProgress", watched(request), call)
        async with aclosing(stream) as responses:
            async for response in responses:
                if (result := told(response, progress)) is not None:
                    return self._state.result(result, call, request.question)
        raise ProtocolMismatch("the answer ended without a result")

    async def _found(self, call: Call, attempt: Callable[[Call], Awaitable[Answer]]) -> Answer:
        here = self._state.session_id
        try:
            return await attempt(call)
        except (NotFound, NeedsImage) as lost:
            again = await self._back(lost, here, call)
        return await attempt(again)

    async def _back(self, lost: NotFound | NeedsImage, session_id: str, call: Call) -> Call:
        """The call's repetition, once the session that was lost under this id is back. Raises ``lost`` for one
        that is not to be replayed, or cannot be.
        """
        async with self._turn:
            if self._state.session_id == session_id:  # else another task has done so meanwhile
                replay = self._state.replayable(lost)
                if isinstance(lost, NeedsImage):
                    image = replay.image.named(session_id, resume=True)
                    await self.connection.open(image, call.again(session_id))
                else:
                    try:
                        await self._opened_anew(replay, call)
                    except InvalidArgument as refused:
                        raise self._state.refused_replay(lost, refused) from lost
        return call.again(self._state.session_id)

    async def _opened_anew(self, replay: Replay, call: Call) -> None:
        session_id = new_session_id()
        image = replay.image.named(session_id, keep=replay.keep)
        opened = await self.connection.open(image, call.again(session_id))
        self.connection.sessions.add(session_id)
        try:
            made = await self._made_again(replay, opened, call)
        except BaseException:
            with suppress(MediRoundError):
                request = pb.CloseSessionRequest(session_id=session_id)
                await self.connection.unary("CloseSession", request, call.again(session_id))
                self.connection.sessions.discard(session_id)
            raise
        self.connection.sessions.discard(session_id if replay.keep else self._state.session_id)
        self._state.opened_anew(opened, replay.replayed(made))

    async def _made_again(self, replay: Replay, opened: Opening, call: Call) -> list[pb.RoundResult]:
        """Its rounds; then what a person has amended."""
        replay.check_model(opened)
        made: list[pb.RoundResult] = []
        for request in replay.dialogues(opened.session_id):
            again = call.again(opened.session_id)
            async with aclosing(self.connection.stream("SegmentDialogue", request, again)) as responses:
                made += [response.result async for response in responses]
        replay.check_same(made)
        for amend in replay.amendments(opened.session_id, made):
            await self.connection.unary("AmendRound", amend, call.again(opened.session_id))
        return made
