"""Steps that ask: one round or several, about masks of any source, and what becomes of the request.

Knows which questions there are, and what their rounds must be about. Does not know other steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from mediround import masks
from mediround.v1 import segmentation_pb2 as pb
from tests.unit.schedules.calls import Call
from tests.unit.schedules.faults import BROKEN, TROUBLES, Trouble
from tests.unit.schedules.model import NO_MASK, ModelRound, ModelSession, Outcome, Used
from tests.unit.schedules.schedule import Lost, Schedule
from tests.unit.schedules.world import SIDE

Ask = tuple[str, int, str]
"""Words, a number that chooses what they are about, and of which kind that is."""
FORCED = "It is [SEG]."
TEXTS = ("Where?", "What lies in it?", "And beside it?")
ANY = st.integers(0, 11)
"""Of so many as there are."""
KINDS = ("last", "last", "round", "round", "none", "given", "held", "seed")
ASKS = st.tuples(st.sampled_from(TEXTS), ANY, st.sampled_from(KINDS))
LIVE = st.sampled_from([pb.CORRECTION_POLICY_ALWAYS, pb.CORRECTION_POLICY_OFF])
POLICIES = LIVE | st.just(pb.CORRECTION_POLICY_REFERENCED)
MODES = (pb.ANSWER_MODE_FREE, pb.ANSWER_MODE_FORCED, pb.ANSWER_MODE_GRAMMAR, pb.ANSWER_MODE_FORCED)


def drawn(number: int) -> pb.Mask:
    """A mask that a person gives."""
    bits = np.random.default_rng(number).integers(0, 2, (SIDE, SIDE)).astype(np.bool_)
    data = masks.encode(bits, pb.MASK_ENCODING_PACKED_BITS)
    return pb.Mask(height=SIDE, width=SIDE, encoding=pb.MASK_ENCODING_PACKED_BITS, data=data)


def digest_of(mask: pb.Mask) -> bytes:
    return masks.digest(masks.decode(mask.data, mask.encoding, mask.height, mask.width))


class Asking(Schedule):
    """Asks, and checks what is answered."""

    @precondition(lambda self: self.sessions)
    @rule(which=ANY, ask=ASKS, policy=LIVE, trouble=TROUBLES)
    def ask(self, which: int, ask: Ask, policy: pb.CorrectionPolicy.ValueType, trouble: Trouble) -> None:
        self._step("ask")
        self._ask(self._one(which), "AskRound", [ask], policy, trouble)

    @precondition(lambda self: self.sessions)
    @rule(which=ANY, asks=st.lists(ASKS, min_size=1, max_size=4), policy=POLICIES, trouble=TROUBLES)
    def dialogue(
        self, which: int, asks: list[Ask], policy: pb.CorrectionPolicy.ValueType, trouble: Trouble
    ) -> None:
        self._step("dialogue")
        self._ask(self._one(which), "SegmentDialogue", asks, policy, trouble)

    def _ask(
        self,
        session: ModelSession,
        method: str,
        asks: Sequence[Ask],
        policy: pb.CorrectionPolicy.ValueType,
        trouble: Trouble,
    ) -> None:
        """Ask, check what is answered, and take it into the model."""
        first, passes = len(session.rounds), self.world.passes
        questions = [self._question(session, first + n, ask, named=True) for n, ask in enumerate(asks)]
        call = self._rounds(session, method, questions, policy)
        try:
            reply, before = self._request(session, call, trouble)
        except Lost:
            return
        told = Outcome.of(questions, first, reply)
        if before is not None:
            begun = Outcome.of(questions, first, before).rounds
            assert told.rounds[: len(begun)] == begun, "what was told before the trouble"
        twins = self.twin.passes
        for_twin = [self._question(session, first + n, ask, named=False) for n, ask in enumerate(asks)]
        plain = self._rounds(session, method, for_twin, policy, named=False)
        expected = Outcome.of(questions, first, self.twin.call(plain))
        assert told.unnamed == expected.unnamed, "as without a fault"
        again = self.world.passes - passes - (self.twin.passes - twins)
        assert 0 <= again <= int(trouble.kind in BROKEN), "nothing is done twice, but what the trouble has ended"
        known = [*session.rounds, *told.rounds]
        for question, each in zip(questions, told.rounds, strict=False):
            assert each.used == _used(question, known)
        session.rounds += told.rounds
        if reply.refusal is None:
            self._remember(session, call, reply)

    def _rounds(
        self,
        session: ModelSession,
        method: str,
        questions: Sequence[pb.Question],
        policy: pb.CorrectionPolicy.ValueType = pb.CORRECTION_POLICY_OFF,
        *,
        named: bool = True,
    ) -> Call:
        correction = pb.Correction(policy=policy, threshold=0.6)
        request: pb.AskRoundRequest | pb.SegmentDialogueRequest
        if method == "AskRound":
            request = pb.AskRoundRequest(session_id=session.id, question=questions[0], correction=correction)
        else:
            progress = bool(self.number % 2)
            request = pb.SegmentDialogueRequest(
                session_id=session.id, questions=questions, correction=correction, progress=progress
            )
        return self._call(session.caller, method, request, named=named)

    def _question(self, session: ModelSession, index: int, ask: Ask, *, named: bool) -> pb.Question:
        """``index``: of its round."""
        text, number, kind = ask
        mode = MODES[number % 4]
        question = pb.Question(text=text, answer_mode=mode, answer=FORCED if mode == pb.ANSWER_MODE_FORCED else "")
        match kind:
            case "round" | "last" if index:
                of = index - 1 if kind == "last" else number % index
                there = of < len(session.rounds)
                known = session.rounds[of].reference(of, named=named) if there else pb.RoundReference(round=of)
                question.refer_to.CopyFrom(known)
            case "given":
                question.given_mask.mask.CopyFrom(drawn(number % 5))
                question.given_mask.origin = "atlas"
            case "held" if session.held:
                question.given_mask.mask_digest = sorted(session.held)[number % len(session.held)]
            case "seed":
                question.seed_mask.CopyFrom(drawn(number % 5))
                question.seed_origin = "atlas"
                question.answer_mode, question.answer = pb.ANSWER_MODE_FORCED, FORCED
        return question


def _used(question: pb.Question, rounds: Sequence[ModelRound]) -> Used | None:
    """Which mask it must be about."""
    if question.HasField("given_mask"):
        given = question.given_mask
        digest = digest_of(given.mask) if given.HasField("mask") else given.mask_digest
        return Used(pb.REFERENCE_SOURCE_GIVEN, digest, "", given.origin)
    if not question.HasField("refer_to"):
        return None
    of = rounds[question.refer_to.round]
    assert of.mask != NO_MASK
    return of.as_used
