"""What the steps of a schedule share: the worlds, the model, and how a request is made, carried out and checked.

Knows what an answer must be. Does not know which steps there are (``asking``, ``machine``).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from google.protobuf.message import Message
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from mediround.v1 import segmentation_pb2 as pb
from tests.unit.schedules.calls import Call, Refusal, Reply
from tests.unit.schedules.faults import BROKEN, ENGINES, NONE, STORE, Trouble
from tests.unit.schedules.model import ModelSession
from tests.unit.schedules.world import IDLE, IMAGES, LIFETIME, SIDE, World

CALLERS = ("anna", "bob", "")
"""The last has no certificate."""
MOST_WAITS = 4
_PASSING = ("expires_at", "progress", "cache", "timings", "upload_skipped", "amended")
"""Fields of answers that differ when a request comes again."""

Again = tuple[ModelSession, Callable[[], None]]
"""A request of a session that may come again, and checks its answer."""


class Lost(Exception):
    """The session has ended while it was asked, as it may: with a server that died, or for others."""


class Schedule(RuleBasedStateMachine):
    """A world with faults, and its twin, in whose memory all happens once."""

    steps: ClassVar[Counter[str]] = Counter()
    """Of all schedules so far."""
    troubles: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[ModelSession] = []
        self.gone: list[ModelSession] = []
        self.repeats: list[Again] = []
        self.number = 0

    @initialize(store=st.sampled_from(["file with images", "file", "memory"]), room=st.sampled_from([64, 64, 2]))
    def begin(self, store: str, room: int) -> None:
        self.steps["schedules"] += 1
        self.directory = tempfile.TemporaryDirectory()
        path = None if store == "memory" else Path(self.directory.name)
        self.world = World(path, images=store == "file with images", room=room)
        self.twin = World()

    def teardown(self) -> None:
        if hasattr(self, "twin"):
            self.world.close()
            self.twin.close()
            self.directory.cleanup()

    def _step(self, name: str) -> None:
        self.steps[name] += 1
        self.number += 1

    # ---- a request

    def _call(self, caller: str, method: str, *messages: Message, named: bool = True) -> Call:
        """``named``: it has the id of this step."""
        return Call(caller, method, messages, str(UUID(int=self.number)) if named else "")

    def _request(self, session: ModelSession, call: Call, trouble: Trouble = NONE) -> tuple[Reply, Reply | None]:
        """What the caller is told in the end, when the request has come again; and before the trouble, if any.

        Raises:
            Lost: its session has ended meanwhile, as it may have.
        """
        self.troubles[trouble.kind] += 1
        before = None
        if trouble.kind in BROKEN:
            before = self.world.trouble(call, trouble)
            _check_refusal(trouble, before.refusal)
            if trouble.kind == "killed":
                self._drop_unkept()
            call = _by_another_method(call)
        elif trouble.kind == "twice at once":
            # Where there is no room, or no image, neither did anything.
            first, second = self.world.twice(call)
            if first.refusal is None and second.refusal is None:
                assert _same(first, second), "one of them did the work"
        return self._settled(session, call), before

    def _settled(self, session: ModelSession, call: Call) -> Reply:
        """What is told who does as the refusals say."""
        for waits in range(MOST_WAITS):
            reply = self.world.call(call)
            if waits:
                self._see_who_gave_way()
            if session in self.gone:
                if call.method == "ForkSession" and reply.refusal is None:
                    return reply  # the branch was kept before its origin was lost
                assert reply.refusal is not None
                assert reply.refusal.code == "NOT_FOUND"
                raise Lost
            if reply.refusal is None:
                return reply
            if reply.refusal.reason == "NEEDS_IMAGE":
                assert self._survives(session)
                assert not self.world.images
                assert self._settled(session, self._image(session, resume=True)).refusal is None
            elif reply.refusal.code == "RESOURCE_EXHAUSTED":
                assert self.world.room < len(self.sessions) + 1, "there is room"
                assert reply.refusal.retry_s is not None
                self._let_pass(reply.refusal.retry_s)
            else:
                return reply
        raise AssertionError("there was no room when it was to be there")

    def _image(self, session: ModelSession, **header: Any) -> Call:
        raw = pb.RawPixels(height=SIDE, width=SIDE, channels=3, pixel_type=pb.PIXEL_TYPE_UINT8)
        said = pb.ImageHeader(raw=raw, session_id=session.id, keep=session.keep, **header)
        named = not header.get("resume")
        chunk = pb.OpenSessionRequest(chunk=IMAGES[session.image])
        return self._call(session.caller, "OpenSession", pb.OpenSessionRequest(header=said), chunk, named=named)

    def _read(self, session: ModelSession) -> Reply:
        request = pb.GetSessionRequest(session_id=session.id)
        return self.world.call(self._call(session.caller, "GetSession", request, named=False))

    def _remember(self, session: ModelSession, call: Call, first: Reply) -> None:
        """The request is answered so whenever it comes again."""

        def again() -> None:
            before = self.world.passes
            try:
                reply = self._settled(session, call)
            except Lost:
                return
            assert _same(reply, first), "the first answer"
            assert self.world.passes == before, "nothing is done twice"

        self.repeats.append((session, again))

    def _done(
        self, session: ModelSession, call: Call, trouble: Trouble = NONE, for_twin: Call | None = None
    ) -> bool:
        """Whether a change was made, once, here and by the twin."""
        passes = self.world.passes
        try:
            reply, _ = self._request(session, call, trouble)
        except Lost:
            return False
        assert reply.refusal is None, reply.refusal
        assert self.world.passes == passes
        assert self.twin.call(for_twin or call).refusal is None
        self._remember(session, call, reply)
        return True

    def _refused(self, session: ModelSession, call: Call, code: str, reason: str = "") -> None:
        """And nothing is done."""
        before = self.world.passes
        try:
            reply = self._settled(session, call)
        except Lost:
            return
        assert reply.refusal is not None
        assert (reply.refusal.code, reply.refusal.reason) == (code, reason), reply.refusal.said
        assert self.world.passes == before

    # ---- who is there

    def _new_id(self) -> str:
        return f"schedule-{self.steps['schedules']:06d}-{self.number:04d}-{len(self.sessions)}"

    def _known(self) -> list[ModelSession]:
        return [*self.sessions, *self.gone]

    def _one(self, which: int) -> ModelSession:
        return self.sessions[which % len(self.sessions)]

    def _having_rounds(self, which: int) -> ModelSession:
        asked = [each for each in self.sessions if each.rounds]
        return asked[which % len(asked)]

    def _survives(self, session: ModelSession) -> bool:
        """That the memory is lost."""
        return session.keep and self.world.durable

    def _expires(self, session: ModelSession) -> float:
        """When, if nothing is asked from now on."""
        old = session.opened + LIFETIME
        return old if self._survives(session) else min(old, self.world.now + IDLE)

    def _let_pass(self, seconds: float) -> None:
        self.world.let_pass(seconds)
        for each in [*self.sessions]:
            idle = seconds >= IDLE and not self._survives(each)
            if idle or each.opened + LIFETIME <= self.world.now:
                self._end(each)
                told = self._read(each).refusal
                assert told is not None
                assert told.said == ("NOT_FOUND", "SESSION_EXPIRED", "")

    def _drop_unkept(self) -> None:
        for session in [each for each in self.sessions if not self._survives(each)]:
            self._end(session)

    def _see_who_gave_way(self) -> None:
        """Those in memory alone may have ended for others."""
        for session in [each for each in self.sessions if not self._survives(each)]:
            refusal = self._read(session).refusal
            if refusal is not None:
                assert refusal.said == ("NOT_FOUND", "SESSION_EXPIRED", "")
                self._end(session)

    def _end(self, session: ModelSession) -> None:
        self.sessions.remove(session)
        self.gone.append(session)
        self.repeats = [each for each in self.repeats if each[0] is not session]


def _check_refusal(trouble: Trouble, refusal: Refusal | None) -> None:
    """Of what the trouble is to blame for: it says when to come again, or that the fault is ours."""
    if refusal is None or refusal.code in {"INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND", "ABORTED"}:
        return
    codes = {"RESOURCE_EXHAUSTED"}  # there is no room, or no room in the file
    if trouble.kind in STORE:
        codes.add(STORE[trouble.kind][1])
    if trouble.kind in ENGINES:
        codes.add("UNAVAILABLE" if trouble.number % 2 else "INTERNAL")
    assert refusal.code in codes
    assert (refusal.retry_s is None) == (refusal.code == "INTERNAL")


def _by_another_method(call: Call) -> Call:
    """The same request for one round, which is one request by either method."""
    if call.method != "AskRound":
        return call
    same = pb.AskRoundWithProgressRequest.FromString(call.messages[0].SerializeToString())
    return Call(call.caller, "AskRoundWithProgress", (same,), call.id)


def _same(one: Reply, other: Reply) -> bool:
    """What does not change with time."""
    return _lasting(one) == _lasting(other)


def _lasting(reply: Reply) -> tuple[list[bytes], object]:
    told = []
    for message in reply.messages:
        lasting = type(message)()
        lasting.CopyFrom(message)
        _clear(lasting)
        if "result" in lasting.DESCRIPTOR.fields_by_name and lasting.HasField("result"):
            _clear(lasting.result)
        if lasting.ByteSize() or not message.ByteSize():  # progress passes as a whole
            told.append(lasting.SerializeToString(deterministic=True))
    return told, reply.refusal and reply.refusal.said


def _clear(message: Any) -> None:
    for name in _PASSING:
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    if isinstance(message, pb.OpenSessionResponse):
        message.ClearField("rounds")
