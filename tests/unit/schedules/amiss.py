"""Steps that are refused: what callers must not do, in each of which nothing must change.

Knows the refusal of each. Does not know other steps.
"""

from __future__ import annotations

from google.protobuf.message import Message
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from mediround.v1 import segmentation_pb2 as pb
from tests.unit.schedules.asking import ANY, FORCED, Asking
from tests.unit.schedules.model import NO_MASK, ModelSession
from tests.unit.schedules.schedule import CALLERS
from tests.unit.schedules.world import MAX_ROUNDS

AMISS = ("what was undone", "moved on", "beyond the end", "other image", "same id", "another's")


class Amiss(Asking):
    """Asks for what must not be."""

    @precondition(lambda self: any(each.rounds for each in self.sessions))
    @rule(which=ANY, number=ANY, amiss=st.sampled_from(AMISS))
    def ask_amiss(self, which: int, number: int, amiss: str) -> None:
        """Refused, and nothing is done."""
        self._step(f"amiss: {amiss}")
        session = self._having_rounds(which)
        other = CALLERS[number % len(CALLERS)]
        match amiss:
            case "what was undone":
                self._refer_to_what_was_undone(session, number)
            case "moved on":
                request = pb.RewindSessionRequest(session_id=session.id, rounds=0, expected_rounds=99)
                self._refused(session, self._call(session.caller, "RewindSession", request), "ABORTED", "MOVED_ON")
            case "beyond the end":
                request = pb.RewindSessionRequest(session_id=session.id, rounds=len(session.rounds) + 1)
                self._refused(session, self._call(session.caller, "RewindSession", request), "INVALID_ARGUMENT")
            case "other image":
                image = ModelSession(session.id, session.caller, session.keep, 1 - session.image)
                self._refused(session, self._image(image, resume=True), "FAILED_PRECONDITION", "OTHER_IMAGE")
            case "same id":
                self._ask_another_by_the_same_id(session)
            case "another's" if not any((each.id, each.caller) == (session.id, other) for each in self._known()):
                self._reach_for_anothers(session, other)

    def _refer_to_what_was_undone(self, session: ModelSession, number: int) -> None:
        """By its round, and by the digest of a mask that went with it; a full session says that it is full."""
        full = ("INVALID_ARGUMENT", "") if len(session.rounds) == MAX_ROUNDS else None
        question = pb.Question(text="And?", answer_mode=pb.ANSWER_MODE_FORCED, answer=FORCED)
        undone = [each for each in session.undone if each[1].mask != NO_MASK]
        if undone:
            index, of = undone[number % len(undone)]
            question.refer_to.CopyFrom(of.reference(index, named=True))
            call = self._rounds(session, "AskRound", [question])
            self._refused(session, call, *full or ("FAILED_PRECONDITION", "STALE"))
            question.ClearField("refer_to")
        held = {each for _, of in session.undone for each in of.held} - session.held
        question.given_mask.mask_digest = min(held, default=b"?" * 32)
        call = self._rounds(session, "SegmentDialogue", [question])
        self._refused(session, call, *full or ("FAILED_PRECONDITION", "MASK_NOT_HELD"))

    def _ask_another_by_the_same_id(self, session: ModelSession) -> None:
        request = pb.RewindSessionRequest(session_id=session.id, rounds=len(session.rounds))
        if not self._done(session, self._call(session.caller, "RewindSession", request)):
            return
        request = pb.RewindSessionRequest(session_id=session.id, rounds=99)
        for other in (
            self._call(session.caller, "RewindSession", request),
            self._rounds(session, "AskRound", [pb.Question(text="Where?")]),
        ):
            self._refused(session, other, "FAILED_PRECONDITION", "IDEMPOTENCY_MISMATCH")

    def _reach_for_anothers(self, session: ModelSession, other: str) -> None:
        name = session.id
        reaches: list[tuple[str, Message]] = [
            ("GetSession", pb.GetSessionRequest(session_id=name)),
            ("RewindSession", pb.RewindSessionRequest(session_id=name, rounds=0)),
            ("ForkSession", pb.ForkSessionRequest(session_id=name, new_session_id=self._new_id())),
            ("CloseSession", pb.CloseSessionRequest(session_id=name)),
            ("AskRound", pb.AskRoundRequest(session_id=name, question=pb.Question(text="Where?"))),
            ("KeepAlive", pb.KeepAliveRequest(session_id=name)),
        ]
        for method, request in reaches:
            self._refused(session, self._call(other, method, request), "NOT_FOUND")
