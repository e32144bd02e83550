"""Steps of schedules: what may happen to sessions, checked against a model and a server without faults.

Knows what each step must lead to. Does not know how many schedules there are, or which bugs are planted.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from serving.domain import AnswerMode, Correction, CorrectionPolicy, GivenMask, Question
from serving.errors import NotFound, PreconditionFailed, Reason
from serving.geometry import pack_mask
from serving.history.record import RequestKey
from serving.sessions.keeper import NewSession
from serving.sessions.plan import DialogueRequest
from tests.scripted.pictures import mask
from tests.unit.schedules.model import ModelRound, ModelSession, told
from tests.unit.schedules.schedule import FORCED, Ask, Schedule
from tests.unit.schedules.world import IMAGES, World

CALLERS = ("anna", "bob")
TEXTS = ("Where?", "What lies in it?", "And beside it?")
ANY = st.integers(0, 11)
"""Of so many as there are."""
MOST = 3
"""Sessions at a time."""
ASKS = st.tuples(
    st.sampled_from(TEXTS), ANY, st.sampled_from(["round", "round", "round", "none", "given", "seed"])
)
POLICIES = st.sampled_from(CorrectionPolicy)


class SessionSchedules(Schedule):
    """Any order of these steps."""

    # ---- what callers do

    @precondition(lambda self: len(self.sessions) < MOST)
    @rule(caller=st.sampled_from(CALLERS), keep=st.sampled_from([True, True, False]), image=st.integers(0, 1))
    def open(self, caller: str, keep: bool, image: int) -> None:
        self._step("open")
        session = ModelSession(self._new_id(), caller, keep, image)
        new = NewSession(caller, session.id, bytes([image]) * 32, keep, self._key("OpenSession", session))
        self.world.run(self.world.keeper.open(new, IMAGES[image]))
        self.twin.run(self.twin.keeper.open(NewSession(caller, session.id), IMAGES[image]))
        self.sessions.append(session)

        def opened() -> str | None:
            record = self.world.run(self.world.keeper.opened_before(new))
            return None if record is None else record.session_id

        self._remember(session, opened, session.id)

    @precondition(lambda self: self.sessions)
    @rule(which=ANY, ask=ASKS, policy=POLICIES, twice=st.booleans())
    def ask(self, which: int, ask: Ask, policy: CorrectionPolicy, twice: bool) -> None:
        """One round; also twice at once."""
        self._ask("ask", self._one(which), [ask], policy, twice=twice)

    @precondition(lambda self: self.sessions)
    @rule(which=ANY, asks=st.lists(ASKS, min_size=2, max_size=4), policy=POLICIES, twice=st.booleans())
    def dialogue(self, which: int, asks: list[Ask], policy: CorrectionPolicy, twice: bool) -> None:
        self._ask("dialogue", self._one(which), asks, policy, twice=twice)

    @precondition(lambda self: any(map(self._survives, self.sessions)))
    @rule(which=ANY, asks=st.lists(ASKS, min_size=1, max_size=3), results=st.integers(0, 2), policy=POLICIES)
    def die_in_the_midst(self, which: int, asks: list[Ask], results: int, policy: CorrectionPolicy) -> None:
        """The server does, after so many results; its caller asks again."""
        kept = [each for each in self.sessions if self._survives(each)]
        session = kept[which % len(kept)]
        self._ask("die in the midst", session, asks, policy, dies_after=min(results, len(asks)))

    @precondition(lambda self: self.sessions)
    @rule(which=ANY, undone=st.integers(1, 4))
    def undo(self, which: int, undone: int) -> None:
        self._step("undo")
        session = self._one(which)
        before, count = len(session.rounds), max(0, len(session.rounds) - undone)
        key = self._key("RewindSession", session)

        async def rewind(world: World, key: RequestKey | None) -> int:
            return await world.keeper.rewind(session.id, session.caller, count, before, key)

        self._wake(session)
        assert self.world.run(rewind(self.world, key)) == count
        self.twin.run(rewind(self.twin, None))
        self.stale += [(session, n, each.known) for n, each in enumerate(session.rounds) if n >= count]
        del session.rounds[count:]
        self._remember(session, lambda: self.world.run(rewind(self.world, key)), count)

    @precondition(lambda self: self.sessions and len(self.sessions) < MOST)
    @rule(which=ANY, count=ANY, keep=st.booleans())
    def fork(self, which: int, count: int, keep: bool) -> None:
        self._step("fork")
        origin = self._one(which)
        count %= len(origin.rounds) + 1
        branch = ModelSession(self._new_id(), origin.caller, keep, origin.image, [*origin.rounds[:count]])
        new = NewSession(origin.caller, branch.id, keep=keep, request=self._key("ForkSession", origin))

        def forked() -> int:
            return self.world.run(self.world.keeper.fork(origin.id, new, count, None))

        self._wake(origin)
        assert forked() == count
        twin = NewSession(origin.caller, branch.id)
        self.twin.run(self.twin.keeper.fork(origin.id, twin, count, None))
        self.sessions.append(branch)
        self._remember(branch, forked, count)

    @precondition(lambda self: any(each.rounds for each in self.sessions))
    @rule(which=ANY, index=ANY, drawn=st.integers(1, 5))
    def amend(self, which: int, index: int, drawn: int) -> None:
        self._step("amend")
        asked = [each for each in self.sessions if each.rounds]
        session = asked[which % len(asked)]
        index %= len(session.rounds)
        given, key = GivenMask(mask(drawn).digest, mask(drawn), "by hand"), self._key("AmendRound", session)
        of = session.rounds[index]

        def amended() -> object:
            work = self.world.keeper.amend(
                session.id, session.caller, of.round_id, given, expected=len(session.rounds), key=key
            )
            return told(self.world.run(work))

        self._wake(session)
        first = amended()
        twin = self.twin.run(self.twin.keeper.read(session.id, session.caller)).record.rounds[index]
        self.twin.run(
            self.twin.keeper.amend(session.id, session.caller, twin.round_id, given, expected=None, key=None)
        )
        session.rounds[index] = of.amended(given.digest)
        self._remember(session, amended, first)

    @precondition(lambda self: self.repeats)
    @rule(which=ANY)
    def come_again(self, which: int) -> None:
        """A request whose answer was lost."""
        self._step("come again")
        session, again, first = self.repeats[which % len(self.repeats)]
        before = self.world.passes
        self._wake(session)
        assert again() == first, "the first answer"
        assert self.world.passes == before, "nothing is done twice"

    @precondition(lambda self: self.stale)
    @rule(which=ANY)
    def refer_to_what_was_undone(self, which: int) -> None:
        self._step("stale")
        session, index, known = self.stale[which % len(self.stale)]
        self._wake(session)
        question = Question("And?", index, AnswerMode.FORCED, FORCED, known)
        request = DialogueRequest(session.id, session.caller, [question], Correction(CorrectionPolicy.OFF, 0.6))
        before = self.world.passes
        with pytest.raises(PreconditionFailed) as refused:
            self.world.run(self._results(self.world, request))
        assert (refused.value.reason, self.world.passes) == (Reason.STALE, before)

    @precondition(lambda self: self.sessions)
    @rule(which=ANY)
    def reach_for_anothers(self, which: int) -> None:
        self._step("another's")
        session = self._one(which)
        other = CALLERS[1 - CALLERS.index(session.caller)]
        keeper = self.world.keeper
        for reach in (
            lambda: keeper.read(session.id, other),
            lambda: keeper.rewind(session.id, other, 0, None, None),
            lambda: keeper.close(session.id, other),
        ):
            with pytest.raises(NotFound):
                self.world.run(reach())
        theirs = {each.session_id for each in self.world.run(keeper.page(other, None, 100))}
        assert theirs == {each.id for each in self.sessions if each.caller == other}

    @precondition(lambda self: len(self.sessions) == MOST)
    @rule(which=ANY)
    def close(self, which: int) -> None:
        self._step("close")
        session = self._one(which)
        self.world.run(self.world.keeper.close(session.id, session.caller))
        self._end(session)

    # ---- what happens to the server

    @precondition(lambda self: any(each.rounds for each in self.sessions))
    @rule()
    def park(self) -> None:
        self._step("park")
        self.world.park()
        self._drop_unkept()

    @precondition(lambda self: any(each.rounds for each in self.sessions))
    @rule()
    def kill(self) -> None:
        self._step("kill")
        self.world.kill()
        self._drop_unkept()

    # ---- what must hold

    @invariant()
    def all_that_was_acknowledged_is_there(self) -> None:
        for session in self.sessions:
            snapshot = self.world.run(self.world.keeper.read(session.id, session.caller))
            assert [ModelRound.of(each) for each in snapshot.record.rounds] == session.rounds
            for each in session.rounds:
                for original in (True, False):
                    work = self.world.keeper.mask_of_round(
                        session.id, session.caller, each.round_id, original=original
                    )
                    read = self.world.run(work)
                    assert pack_mask(read.bits()).digest == (each.made if original else each.mask)

    @invariant()
    def what_has_ended_is_not_there(self) -> None:
        for session in self.gone:
            with pytest.raises((NotFound, PreconditionFailed)):
                self.world.run(self.world.keeper.read(session.id, session.caller))

    def _one(self, which: int) -> ModelSession:
        return self.sessions[which % len(self.sessions)]
