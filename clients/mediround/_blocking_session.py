"""Calls about one session that block; where the session was lost, they are sent again in one that is opened anew.

Knows when a session is lost, and what brings it back. Does not know what a call asks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing, suppress
from threading import Lock
from typing import TypeVar

from mediround._blocking import BlockingConnection
from mediround._calls import Call, new_session_id
from mediround._replay import Replay
from mediround._rounds import Priority
from mediround._sessions import SessionState, Watch, told, watched
from mediround.errors import InvalidArgument, MediRoundError, NeedsImage, NotFound, ProtocolMismatch
from mediround.image import Upload
from mediround.results import Opening, RoundResult
from mediround.v1 import segmentation_pb2 as pb

Answer = TypeVar("Answer")


class BlockingCalls:
    """One session's."""

    def __init__(self, connection: BlockingConnection, state: SessionState) -> None:
        self.connection, self._state = connection, state
        self._turn = Lock()

    def begin(
        self, timeout: float | None = None, retries: int | None = None, priority: Priority = "interactive"
    ) -> Call:
        """A call that begins now. Raises InvalidArgument."""
        state = self._state
        return self.connection.defaults.call(
            timeout, retries, priority, session_id=state.session_id, repeatable=state.remembers
        )

    def remember(self, image: Upload, timeout: float | None, retries: int | None) -> None:
        """Read what the session is opened anew from, should it be lost."""
        state, unary = self._state, self.connection.unary
        past: pb.GetSessionResponse
        past = unary(self.connection.stub.GetSession, state.history_request(), self.begin(timeout, retries))
        state.history(past)
        state.replay = Replay.of_past(image, past)
        for digest in state.replay.missing():
            request = state.held_mask_request(digest)
            response: pb.GetMaskResponse = unary(
                self.connection.stub.GetMask, request, self.begin(timeout, retries)
            )
            state.replay.found(digest, response.mask)

    def unary(self, method: Callable[..., Answer], request: Callable[[], object], call: Call) -> Answer:
        """One request, one answer. ``request`` makes it, of what the session and its rounds are called then."""
        return self._found(call, lambda each: self.connection.unary(method, request(), each))

    def ask(self, request: Callable[[], pb.AskRoundRequest], call: Call, progress: Watch | None) -> RoundResult:
        """One round."""
        return self._found(call, lambda each: self._ask(request(), each, progress))

    def segment(
        self, request: Callable[[int], pb.SegmentDialogueRequest], call: Call, progress: Watch | None
    ) -> Generator[RoundResult]:
        """Rounds known in advance. ``request`` asks all but the first of them, so many."""
        done, found = 0, False
        while True:
            asked, here = request(done), self._state.session_id
            stream = self.connection.stream(self.connection.stub.SegmentDialogue, asked, call)
            try:
                with closing(stream) as responses:
                    questions = iter(asked.questions)
                    for response in responses:
                        if (result := told(response, progress)) is not None:
                            done += 1
                            yield self._state.result(result, call, next(questions))
                return
            except (NotFound, NeedsImage) as lost:
                if found:
                    raise
                call, found = self._back(lost, here, call), True

    def _ask(self, request: pb.AskRoundRequest, call: Call, progress: Watch | None) -> RoundResult:
        stub = self.connection.stub
        if progress is None:
            response = self.connection.unary(stub.AskRound, request, call)
            return self._state.result(response.result, call, request.question)
        stream = self.connection.stream(stub.AskRoundWithProgress, watched(request), call)
        with closing(stream) as responses:
            for response in responses:
                if (result := told(response, progress)) is not None:
                    return self._state.result(result, call, request.question)
        raise ProtocolMismatch("the answer ended without a result")

    def _found(self, call: Call, attempt: Callable[[Call], Answer]) -> Answer:
        here = self._state.session_id
        try:
            return attempt(call)
        except (NotFound, NeedsImage) as lost:
            again = self._back(lost, here, call)
        return attempt(again)

    def _back(self, lost: NotFound | NeedsImage, session_id: str, call: Call) -> Call:
        """The call's repetition, once the session that was lost under this id is back. Raises ``lost`` for one
        that is not to be replayed, or cannot be.
        """
        with self._turn:
            if self._state.session_id == session_id:  # else another thread has done so meanwhile
                replay = self._state.replayable(lost)
                if isinstance(lost, NeedsImage):
                    self.connection.open(replay.image.named(session_id, resume=True), call.again(session_id))
                else:
                    try:
                        self._opened_anew(replay, call)
                    except InvalidArgument as refused:
                        raise self._state.refused_replay(lost, refused) from lost
        return call.again(self._state.session_id)

    def _opened_anew(self, replay: Replay, call: Call) -> None:
        session_id = new_session_id()
        image = replay.image.named(session_id, keep=replay.keep)
        opened = self.connection.open(image, call.again(session_id))
        self.connection.sessions.add(session_id)
        try:
            made = self._made_again(replay, opened, call)
        except BaseException:
            with suppress(MediRoundError):
                request = pb.CloseSessionRequest(session_id=session_id)
                self.connection.unary(self.connection.stub.CloseSession, request, call.again(session_id))
                self.connection.sessions.discard(session_id)
            raise
        self.connection.sessions.discard(session_id if replay.keep else self._state.session_id)
        self._state.opened_anew(opened, replay.replayed(made))

    def _made_again(self, replay: Replay, opened: Opening, call: Call) -> list[pb.RoundResult]:
        """Its rounds; then what a person has amended."""
        replay.check_model(opened)
        stub, made = self.connection.stub, list[pb.RoundResult]()
        for request in replay.dialogues(opened.session_id):
            responses = self.connection.stream(stub.SegmentDialogue, request, call.again(opened.session_id))
            made += [each.result for each in responses]
        replay.check_same(made)
        for amend in replay.amendments(opened.session_id, made):
            self.connection.unary(stub.AmendRound, amend, call.again(opened.session_id))
        return made
