"""Sessions of a scripted server: who is open, whose turn it is, their rounds, and the requests that they remember.

Knows sizes, rounds and time. Does not know calls or scripts. All on one event loop.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeAlias

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mediround._description import Limits
from mediround.errors import (
    IdempotencyMismatch,
    MovedOn,
    NeedsImage,
    NotFound,
    ResourceExhausted,
    SessionClosed,
    SessionExpired,
    StaleReference,
)
from mediround.testing._given import because
from mediround.testing._metadata import check_session, request_id
from mediround.testing._past import ScriptedRound
from mediround.testing._rules import invalid
from mediround.testing.script import Bits
from mediround.v1 import segmentation_pb2 as pb

_UNKNOWN = "no such session: it never was, it expired or gave way, or it is not yours; open a new one"
_CLOSED = "the session is closed; open a new one"
_EXPIRED = "the session has expired: nothing was asked of it for too long; open a new one"
_UNASKED_SECONDS, _GIVES_WAY_SECONDS = 1.0, 60.0
"""Idle for so long, a session gives way where no more fit: one of which nothing was asked, and any other."""
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{22,64}")
_DISTINCT = 8


Changing: TypeAlias = pb.RewindSessionRequest | pb.ForkSessionRequest | pb.AmendRoundRequest


@dataclass(slots=True)
class Remembered:
    """What a request was answered with."""

    request: bytes
    results: list[pb.RoundResult] = field(default_factory=list)
    response: Message | None = None


@dataclass(slots=True, eq=False)
class ScriptedSession:
    """One image and its rounds."""

    session_id: str
    image: bytes
    """Equal for equal images."""
    size: tuple[int, int]
    keep: bool = False
    rounds: list[ScriptedRound] = field(default_factory=list)
    requests: dict[str, Remembered] = field(default_factory=dict)
    parked: bool = False
    window: str = ""
    """As the server's own summary says it."""
    opened_at: float = field(default_factory=time.time)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Wakes its waiters in the order of their arrival."""
    users: int = 0
    last_used: float = field(default_factory=monotonic)

    @property
    def held(self) -> list[Bits]:
        """All its masks."""
        return [mask for each in self.rounds for mask in each.masks]

    def check_image(self) -> None:
        """Raises NeedsImage."""
        if self.parked:
            raise NeedsImage("the session is parked without its image: send the bytes again, with resume")

    def index_of(self, round_id: str) -> int:
        """Raises StaleReference."""
        for index, each in enumerate(self.rounds):
            if each.round_id == round_id:
                return index
        raise StaleReference("the session has no round of this round_id: it was undone")

    def told_again(self, result: pb.RoundResult) -> pb.RoundResult:
        """As it was; it says whether the round was amended since."""
        again = pb.RoundResult.FromString(result.SerializeToString())
        again.amended = any(each.round_id == result.round_id and each.amended is not None for each in self.rounds)
        return again

    def check_expected(
        self, request: pb.RewindSessionRequest | pb.ForkSessionRequest | pb.AmendRoundRequest
    ) -> None:
        """Raises MovedOn."""
        expected, there = request.expected_rounds, len(self.rounds)
        if request.HasField("expected_rounds") and expected != there:
            words = f"the session has {there} rounds, not {expected}: read it (GetSession), then decide again"
            raise MovedOn(words)

    def repetition(self, request: bytes) -> Remembered | None:
        """What the request was answered with before. Raises IdempotencyMismatch."""
        before = self.requests.get(request_id())
        if before is not None and before.request != request:
            words = "this x-request-id stands for another request: each request must have its own"
            raise IdempotencyMismatch(words)
        return before

    def remember(self, request: bytes) -> Remembered:
        """To be filled with what it is answered with."""
        made = Remembered(request)
        if request_id():
            made = self.requests.setdefault(request_id(), made)
        return made


class ScriptedSessions:
    """All sessions of a server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: dict[str, ScriptedSession] = {}
        self._closed: set[str] = set()
        self._expired: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, image: bytes, size: tuple[int, int], session_id: str, *, keep: bool) -> ScriptedSession:
        """``session_id``: empty: one is made.

        Raises:
            ResourceExhausted: no more are held and none may give way yet.
            FailedPrecondition: the id was used.
        """
        self._sweep()
        if session_id in self._open or session_id in self._closed | self._expired:
            raise because("SESSION_ID_USED", "this session id was used before: a new session needs a new one")
        if len(self._open) >= self._limits.max_sessions:
            self._let_one_give_way()
        session = ScriptedSession(session_id or secrets.token_urlsafe(16), image, size, keep)
        self._open[session.session_id] = session
        return session

    @asynccontextmanager
    async def exclusive(self, session_id: str, request: bytes) -> AsyncIterator[ScriptedSession]:
        """Hold a session when its turn comes. Raises NotFound or FailedPrecondition; not for a request that was
        answered before from one that is parked.
        """
        session = self.find(session_id)
        session.users += 1
        try:
            async with session.turn:
                self.find(session_id)  # it may have been closed meanwhile
                if session.repetition(request) is None:
                    session.check_image()
                yield session
        finally:
            session.users -= 1
            session.last_used = monotonic()

    def find(self, session_id: str) -> ScriptedSession:
        """Raises NotFound or FailedPrecondition when the session is not open; InvalidArgument where the call's
        metadata names another.
        """
        check_session(session_id)
        self._sweep()
        if session_id in self._closed:
            raise SessionClosed(_CLOSED)
        if session_id in self._expired:
            raise SessionExpired(_EXPIRED)
        if session_id not in self._open:
            raise NotFound(_UNKNOWN)
        session = self._open[session_id]
        session.last_used = monotonic()
        return session

    def opened_before(self, session_id: str, request: bytes) -> ScriptedSession | None:
        """The session, where this very request opened it. Raises IdempotencyMismatch."""
        session = self._open.get(session_id)
        return session if session is not None and session.repetition(request) is not None else None

    def close(self, session_id: str) -> None:
        """Raises NotFound when there never was one."""
        check_session(session_id)
        if session_id not in self._closed:
            self.find(session_id)
            del self._open[session_id]
            self._closed.add(session_id)

    def expire(self, session_id: str) -> None:
        """As if its idle time were over. Raises KeyError."""
        del self._open[session_id]
        self._expired.add(session_id)

    def lose(self, session_id: str) -> None:
        """As if it had never been. Raises KeyError."""
        del self._open[session_id]

    def park(self, session_id: str) -> None:
        """As a store does that keeps no images. Raises KeyError."""
        self._open[session_id].parked = True

    def ends(self) -> Timestamp:
        """When a session ends of which nothing is asked from now on."""
        moment = Timestamp()
        moment.FromNanoseconds(int((time.time() + self._limits.session_idle_timeout) * 1e9))
        return moment

    def _let_one_give_way(self) -> None:
        """Drop the session that may go first; one that was asked something may later than one that was not."""
        asked = min(_GIVES_WAY_SECONDS, self._limits.session_idle_timeout)
        ready = {
            key: session.last_used + (asked if session.rounds else min(_UNASKED_SECONDS, asked))
            for key, session in self._open.items()
            if not session.users
        }
        first = min(ready, key=ready.__getitem__, default=None)
        wait = asked if first is None else ready[first] - monotonic()
        if first is None or wait > 0:
            words = f"{self._limits.max_sessions} sessions are open, the most that this server holds; close some"
            raise ResourceExhausted(words, wait)
        self.expire(first)

    def _sweep(self) -> None:
        deadline = monotonic() - self._limits.session_idle_timeout
        for session in list(self._open.values()):
            if session.last_used <= deadline and not session.users:
                self.expire(session.session_id)


def check_session_id(session_id: str, path: str) -> None:
    """Raises InvalidArgument for an id that a caller must not give to a new session."""
    if not _SESSION_ID.fullmatch(session_id) or len(set(session_id)) < _DISTINCT:
        raise invalid(path, 'must be 128 random bits as 22 to 64 characters of A-Z, a-z, 0-9, "-" and "_"')
