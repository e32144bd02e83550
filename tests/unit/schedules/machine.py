"""Steps of schedules: what may happen to sessions, checked against a model and a server without faults.

Knows what each step must lead to. Does not know how many schedules there are, or which bugs are planted.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from mediround import masks
from mediround.v1 import segmentation_pb2 as pb
from tests.unit.schedules.amiss import Amiss
from tests.unit.schedules.asking import ANY, digest_of, drawn
from tests.unit.schedules.calls import Call
from tests.unit.schedules.faults import TROUBLES, Trouble
from tests.unit.schedules.model import NO_MASK, ModelRound, ModelSession
from tests.unit.schedules.schedule import CALLERS, Lost
from tests.unit.schedules.world import IDLE, LIFETIME

MOST = 3
"""Sessions at a time."""
GONE = 3
"""Sessions that have ended, the last ones, are still asked for."""


class SessionSchedules(Amiss):
    """Any order of these steps."""

    # ---- what callers do

    @precondition(lambda self: len(self.sessions) < MOST)
    @rule(
        caller=st.sampled_from(CALLERS),
        keep=st.sampled_from([True, True, False]),
        image=st.integers(0, 1),
        shares=st.booleans(),
        trouble=TROUBLES,
    )
    def open(self, caller: str, keep: bool, image: int, shares: bool, trouble: Trouble) -> None:
        """``shares``: by an id that another caller has, too."""
        self._step("open")
        own = {each.id for each in self._known() if each.caller == caller}
        others = [each.id for each in self.sessions if each.id not in own]
        session = ModelSession(others[0] if shares and others else self._new_id(), caller, keep, image)
        call = self._image(session)
        self._begin(session, session, call, trouble)

    @precondition(lambda self: self.sessions and len(self.sessions) < MOST)
    @rule(which=ANY, count=ANY, keep=st.booleans(), trouble=TROUBLES)
    def fork(self, which: int, count: int, keep: bool, trouble: Trouble) -> None:
        """Also of a fork."""
        self._step("fork")
        origin = self._one(which)
        count %= len(origin.rounds) + 1
        rounds = origin.rounds[:count]
        branch = ModelSession(self._new_id(), origin.caller, keep, origin.image, rounds=[*rounds])
        request = pb.ForkSessionRequest(
            session_id=origin.id,
            new_session_id=branch.id,
            rounds=count,
            keep=keep,
            expected_rounds=len(origin.rounds),
        )
        self._begin(origin, branch, self._call(origin.caller, "ForkSession", request), trouble)

    def _begin(self, asked: ModelSession, session: ModelSession, call: Call, trouble: Trouble) -> None:
        try:
            reply, _ = self._request(asked, call, trouble)
        except Lost:
            return
        assert reply.last.session_id == session.id
        assert reply.last.rounds == len(session.rounds)
        assert self.twin.call(call).last.rounds == len(session.rounds)
        session.opened = self.world.now
        self.sessions.append(session)
        self._remember(session, call, reply)

    @precondition(lambda self: self.sessions)
    @rule(which=ANY, undone=st.integers(1, 4), trouble=TROUBLES)
    def undo(self, which: int, undone: int, trouble: Trouble) -> None:
        self._step("undo")
        session = self._one(which)
        before, count = len(session.rounds), max(0, len(session.rounds) - undone)
        request = pb.RewindSessionRequest(session_id=session.id, rounds=count, expected_rounds=before)
        call = self._call(session.caller, "RewindSession", request)
        if self._done(session, call, trouble):
            session.undone += list(enumerate(session.rounds))[count:]
            del session.rounds[count:]

    @precondition(lambda self: any(each.rounds for each in self.sessions))
    @rule(
        which=ANY,
        index=ANY,
        number=st.integers(1, 5),
        how=st.sampled_from(["drawn", "own", "held"]),
        trouble=TROUBLES,
    )
    def amend(self, which: int, index: int, number: int, how: str, trouble: Trouble) -> None:
        """By a mask that is drawn; by the digest of its own one, or of any that the session holds."""
        self._step("amend")
        session = self._having_rounds(which)
        index %= len(session.rounds)
        of, given = session.rounds[index], pb.GivenMask(origin="by hand")
        if how == "drawn" or of.made == NO_MASK:
            given.mask.CopyFrom(drawn(number))
        else:
            given.mask_digest = of.made if how == "own" else sorted(session.held)[number % len(session.held)]
        mask = digest_of(given.mask) if given.HasField("mask") else given.mask_digest
        call = self._amendment(session, of.round_id, given)
        if of.made == NO_MASK:
            self._refused(session, call, "FAILED_PRECONDITION", "NO_MASK")
            return
        if self._done(session, call, trouble, self._amendment(session, self._twin_of(session, index), given)):
            session.rounds[index] = of.amended_by(mask, "by hand")

    @precondition(lambda self: len(self.sessions) == MOST)
    @rule(which=ANY, trouble=TROUBLES)
    def close(self, which: int, trouble: Trouble) -> None:
        self._step("close")
        session = self._one(which)
        call = self._call(session.caller, "CloseSession", pb.CloseSessionRequest(session_id=session.id))
        if self._done(session, call, trouble):
            self._end(session)

    @precondition(lambda self: self.repeats)
    @rule(which=ANY)
    def come_again(self, which: int) -> None:
        """A request whose answer was lost."""
        self._step("come again")
        _, again = self.repeats[which % len(self.repeats)]
        again()

    # ---- what happens to the server

    @precondition(lambda self: any(each.rounds for each in self.sessions))
    @rule(old=st.booleans())
    def park(self, old: bool) -> None:
        """Nothing is asked for so long that sessions leave the memory; or that the eldest are deleted."""
        self._step("grow old" if old else "park")
        self._let_pass(LIFETIME / 2 if old else IDLE)
        self._count()

    @precondition(lambda self: any(each.rounds for each in self.sessions))
    @rule()
    def kill(self) -> None:
        self._step("kill")
        self.world.kill()
        self._drop_unkept()
        self._count()
        for session in self.sessions:
            for each in session.rounds:
                self._check_masks(session, each)

    def _count(self) -> None:
        """Nothing else is in the file, and nothing in part."""
        if self.world.durable:
            kept = [each for each in self.sessions if self._survives(each)]
            assert self.world.kept() == (len(kept), sum(len(each.rounds) for each in kept))

    # ---- what must hold

    @invariant()
    def all_that_was_acknowledged_is_there(self) -> None:
        for session in self.sessions:
            told = self._read(session).last
            assert len(told.rounds) == len(session.rounds)
            for each, of in zip(session.rounds, told.rounds, strict=True):
                assert each.equals(of), (each, of)
            assert told.session.expires_at.ToNanoseconds() == self._expires(session) * 1e9
            assert (told.session.keep, told.session.opened_at.ToSeconds()) == (session.keep, session.opened)
            if session.rounds:
                self._check_masks(session, session.rounds[self.number % len(session.rounds)])

    @invariant()
    def lists_show_all_of_ones_own(self) -> None:
        caller, listed, token = CALLERS[self.number % len(CALLERS)], list[str](), ""
        while not listed or token:
            request = pb.ListSessionsRequest(page_size=2, page_token=token)
            reply = self.world.call(self._call(caller, "ListSessions", request, named=False))
            if not caller:
                assert reply.refusal is not None
                assert reply.refusal.reason == "NOT_AUTHENTICATED"
                return
            listed += [each.session_id for each in reply.last.sessions]
            token = reply.last.next_page_token
            if not listed:
                break
        assert sorted(listed) == sorted(each.id for each in self.sessions if each.caller == caller)

    @invariant()
    def what_has_ended_is_not_there(self) -> None:
        for session in self.gone[-GONE:]:
            refusal = self._read(session).refusal
            assert refusal is not None
            assert refusal.code in {"NOT_FOUND", "FAILED_PRECONDITION"}

    # ---- of these steps

    def _check_masks(self, session: ModelSession, of: ModelRound) -> None:
        """As the round's mask is, and as it was made."""
        for original, digest in ((False, of.mask), (True, of.made)):
            request = pb.GetMaskRequest(session_id=session.id, round_id=of.round_id, original=original)
            reply = self.world.call(self._call(session.caller, "GetMask", request, named=False))
            if digest == NO_MASK:
                assert reply.refusal is not None
                assert reply.refusal.reason == "NO_MASK"
                continue
            told = reply.last.mask
            bits = masks.decode(told.data, told.encoding, told.height, told.width)
            assert reply.last.mask_digest == masks.digest(bits) == digest

    def _twin_of(self, session: ModelSession, index: int) -> str:
        """The id of its round in the twin."""
        request = pb.GetSessionRequest(session_id=session.id)
        call = self._call(session.caller, "GetSession", request, named=False)
        return str(self.twin.call(call).last.rounds[index].round_id)

    def _amendment(self, session: ModelSession, round_id: str, given: pb.GivenMask) -> Call:
        request = pb.AmendRoundRequest(
            session_id=session.id, round_id=round_id, given_mask=given, expected_rounds=len(session.rounds)
        )
        return self._call(session.caller, "AmendRound", request)
