"""A session, for threads and scripts.

Knows what can be asked of a session, by calls that block. What is sent and what comes back is made elsewhere, once
for both clients (``mediround._sessions``, ``mediround._rounds``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import NoReturn, Self

import numpy as np
import numpy.typing as npt

from mediround._blocking import BlockingConnection
from mediround._blocking_session import BlockingCalls
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


class Session:
    """One image and its rounds. Made by ``Client.open``, ``Client.resume``, ``Client.session`` and
    ``Session.fork``.

    A session that is collected before it was closed is told by a ``ResourceWarning``: it takes one of the server's
    places until its client is closed, or its idle time is over. One that was opened with ``keep`` is not: it
    stays.
    """

    def __init__(self, connection: BlockingConnection, state: SessionState) -> None:
        self._connection, self._state = connection, state
        self._calls, self._stub = BlockingCalls(connection, state), connection.stub

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

    def ask(
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
        """Ask one round. Rounds asked at once, from several threads, are answered in the order of their arrival.

        Args:
            question: what to segment, in words.
            refer_to: what the question is about: an earlier round of this session, as its result or its zero-based
                index; or a mask of your own, bool (H, W), or uint8 of 0 and one other value.
            origin: where a mask in ``refer_to`` comes from, for you: it comes back in ``result.reference``; at
                most 64 bytes.
            mode: None is forced where an answer is given, else the model's default.
            answer: the answer's words, ``[SEG]`` exactly once; forced only, and needed there unless
                ``describe().answer_template_trained``.
            correction: whether the judge may have the mask corrected.
            threshold: a score at most this is corrected; None is the model's.
            priority: ``batch`` lets interactive requests go first on a busy server.
            near_zero: also say which logits lie at most this far from 0 (``result.near_zero``); above 0 and at
                most 1.
            timeout: seconds, all attempts together; None is the client's.
            retries: how often it is sent again; None is the client's.
            progress: is told where the request stands, until its result is there.

        Raises:
            StaleReference: the round referred to was undone or amended since.
        """
        asked = Round(question, refer_to, mode, answer, origin)
        call, names = self._calls.begin(timeout, retries, priority), self._state.names
        request = partial(ask_request, names, asked, correction, threshold, priority, near_zero=near_zero)
        return self._calls.ask(request, call, progress)

    def segment(
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
    ) -> Generator[RoundResult]:
        """Ask rounds known in advance; stop iterating to cancel those that are not finished."""
        asked, watching, names = checked_rounds(rounds), progress is not None, self._state.names

        def request(done: int) -> pb.SegmentDialogueRequest:
            left = asked[done:]
            return segment_request(
                names, left, correction, threshold, priority, near_zero=near_zero, progress=watching
            )

        yield from self._calls.segment(request, self._calls.begin(timeout, retries, priority), progress)

    def seed(
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
        """Add a round that is given as a whole: later questions refer to it as to any, and the model is not asked.

        Args:
            question: what the mask shows, in words.
            answer: the answer's words, ``[SEG]`` exactly once.
            mask: bool (H, W) of the image's size, with a pixel set; or uint8 of 0 and one other value.
            refer_to: what the question is about, as ``ask``'s.
            origin: where ``mask`` comes from, for you: ``history`` has it; at most 64 bytes.
        """
        seeded = Round(question, refer_to, answer=answer, origin=origin, seed=mask)
        call, names = self._calls.begin(timeout, retries), self._state.names
        return self._calls.ask(partial(ask_request, names, seeded, "always", None), call, None)

    def history(self, *, timeout: float | None = None, retries: int | None = None) -> tuple[PastRound, ...]:
        """The rounds that the session has now, whoever asked them, without their masks: ``mask`` has those."""
        call, state = self._calls.begin(timeout, retries), self._state
        return state.history(self._calls.unary(self._stub.GetSession, state.history_request, call))

    def mask(
        self,
        of: Answered | str,
        *,
        original: bool = False,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> npt.NDArray[np.bool_]:
        """A round's mask, bool (H, W).

        Args:
            of: the round, or its ``round_id``.
            original: as the model made it (or as it was seeded), also where it was amended.

        Raises:
            StaleReference: the round was undone.
            FailedPrecondition: it has no mask.
        """
        call, state = self._calls.begin(timeout, retries), self._state
        request = partial(state.mask_request, of, original=original)
        return state.mask(self._calls.unary(self._stub.GetMask, request, call))

    def undo(self, n: int = 1, *, timeout: float | None = None, retries: int | None = None) -> int:
        """Undo the last ``n`` rounds; how many are left. What is asked next knows nothing of them.

        Raises:
            MovedOn: the session has other rounds than this side knows of; nothing is undone.
        """
        if self._state.rounds is None:
            self.keep_alive(timeout=timeout, retries=retries)
        call, state = self._calls.begin(timeout, retries), self._state
        return state.rewound(self._calls.unary(self._stub.RewindSession, partial(state.rewind_request, n), call))

    def amend(
        self,
        of: Answered,
        mask: GivenMask | None,
        *,
        origin: str = "",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> PastRound:
        """Put a mask that a person has edited in place of a round's; the round as it is now, to refer to.

        Later questions that refer to the round are about the edited mask; rounds that were asked before keep what
        they used. The answer's words stay as they are.

        Args:
            of: the round.
            mask: bool (H, W) of the image's size, with a pixel set; or uint8 of 0 and one other value. None: the
                round's original mask is in its place again.
            origin: where the mask comes from, for you: it comes back in ``result.reference``; at most 64 bytes.

        Raises:
            StaleReference: the round was undone.
            FailedPrecondition: it has no mask.
        """
        call, state = self._calls.begin(timeout, retries), self._state
        given = state.amendment(of, mask, origin)
        request = partial(state.amend_request, of, given)
        return state.amended(self._calls.unary(self._stub.AmendRound, request, call), given)

    def fork(
        self,
        after: Answered | int | None = None,
        *,
        keep: bool = False,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> Session:
        """Open a branch: a session on the same image that begins with this one's rounds, the embedding and what
        was computed for these rounds shared. The two then go their own ways; close both.

        Args:
            after: the last round that the branch has; None: all there are.
            keep: as ``open``'s, of the branch.

        Raises:
            StaleReference: the round was undone.
            MovedOn: the session got other rounds meanwhile.
        """
        named = isinstance(after, RoundResult | PastRound)
        held = self.history(timeout=timeout, retries=retries) if named else ()
        call, state = self._calls.begin(timeout, retries), self._state
        request = partial(state.fork_request, after, held, keep=keep)
        branch = state.branch(self._calls.unary(self._stub.ForkSession, request, call), keep=keep)
        if not keep:
            self._connection.sessions.add(branch.session_id)
        return Session(self._connection, branch)

    def keep_alive(self, *, timeout: float | None = None, retries: int | None = None) -> float:
        """Say that the session is still in use; when it ends otherwise, in seconds since the epoch. Every other
        call puts that off, too.
        """
        call, state = self._calls.begin(timeout, retries), self._state
        return state.kept_alive(self._calls.unary(self._stub.KeepAlive, state.keep_alive_request, call))

    def close(self) -> None:
        """No more can be asked in it, also where it was to be kept; what the server keeps to save work goes with
        time. Closing it again is allowed.
        """
        self._state.left_open = False
        if self._connection.closed:
            return  # and with it what it had opened
        request = pb.CloseSessionRequest(session_id=self.session_id)
        self._connection.unary(self._stub.CloseSession, request, self._calls.begin())
        self._connection.sessions.discard(self.session_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state.keep:
            return
        # The results are already here, and the server forgets an idle session by itself.
        with suppress(MediRoundError):
            self.close()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        state = getattr(self, "_state", None)
        if state and state.left_open and not self._connection.closed:
            warn(NOT_CLOSED, ResourceWarning, source=self, stacklevel=2)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        not_copied(self)
