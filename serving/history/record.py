"""A session as values: its record, and the record with its image.

Knows what a session is made of and what it is known by. Does not know how it changes (``serving.history.changes``)
or where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.domain import SourceImage
from serving.history.rounds import Round, RoundResult


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What a request is known by when it comes again."""

    id: str
    """The caller's, a UUID."""
    fingerprint: bytes
    """Of all that it asks: the same id with another one is refused."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that was carried out, and its first answer."""

    key: RequestKey
    rounds: int
    """How many the session had afterwards."""
    results: tuple[RoundResult, ...] = ()
    """The rounds that it was answered with so far; of an amend, the round as it was amended."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """All of a session but its image's pixels. Immutable: a request that fails leaves it as it was."""

    session_id: str
    caller: str
    """Its owner: the authenticated peer, or the one anonymous caller of an open server."""
    size: tuple[int, int]
    """(height, width) of its image, in pixels."""
    content: bytes = b""
    """SHA-256 of the image's bytes as they were sent."""
    model_digest: str = ""
    """Of the model that its rounds are of."""
    keep: bool = False
    """It is to outlive its time in memory, where the store can keep it."""
    opened_at: float = 0.0
    """Seconds since the epoch."""
    account: str = ""
    """Where the owner is nobody in particular: in whose budget it counts (a connection's)."""
    root: str = ""
    """The session that it was branched from first; empty: it was not."""
    window: str = ""
    """What made 8 bits of its image's 16; empty where it was sent in 8."""
    version: int = 0
    """Counts its changes."""
    rounds: tuple[Round, ...] = ()
    requests: tuple[RequestRecord, ...] = ()
    """The last ones, oldest first."""

    @property
    def payer(self) -> tuple[str, str]:
        """In whose budget it counts."""
        return self.caller, self.account

    @property
    def dialogue(self) -> str:
        """Of all branches the same: they extend one another."""
        return self.root or self.session_id


@dataclass(frozen=True, slots=True)
class Session:
    """A session that rounds can be asked in."""

    record: SessionRecord
    image: SourceImage

    @property
    def session_id(self) -> str:
        return self.record.session_id

    @property
    def caller(self) -> str:
        return self.record.caller

    @property
    def rounds(self) -> tuple[Round, ...]:
        return self.record.rounds


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session as its last finished change left it."""

    record: SessionRecord
    seconds_left: float
    """Until it ends, if nothing is asked of it from now on."""
    parked: bool = False
    """It is in a store alone; its image may have to be sent again."""


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session in a list."""

    session_id: str
    size: tuple[int, int]
    rounds: int
    keep: bool
    parked: bool
    opened_at: float
    seconds_left: float
    content: bytes
    model_digest: str
    window: str

    @classmethod
    def of(cls, snapshot: Snapshot) -> SessionSummary:
        record = snapshot.record
        return cls(
            session_id=record.session_id,
            size=record.size,
            rounds=len(record.rounds),
            keep=record.keep,
            parked=snapshot.parked,
            opened_at=record.opened_at,
            seconds_left=snapshot.seconds_left,
            content=record.content,
            model_digest=record.model_digest,
            window=record.window,
        )
