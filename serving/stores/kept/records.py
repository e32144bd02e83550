"""What a store asks of the place where its sessions lie: put, change, read, list, end; each wholly or not at all.

Knows what is asked, and in which words a place refuses. Does not know places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from serving.errors import Exhausted, Shed
from serving.history.record import SessionRecord
from serving.stores.kept.codec import StoredImage

VERSION = 3
"""Of places and bodies together. It rises with every change that an older program would not read."""
RETRY_SECONDS = 5.0
"""A person, or another process, must act first."""
CHANGED = "another server has changed the session meanwhile: nothing of this request was kept; ask again"
UNAVAILABLE = "the store of kept sessions cannot be used now: nothing was changed"
FULL = "kept sessions hold all the bytes that there are for them; close some"
MANY = "{} sessions are kept in all, the most that this server keeps; close some"
CALLERS_MANY = "{} sessions are kept for you, the most that this server keeps of one caller; close some"
CALLERS_FULL = "your kept sessions hold {} bytes, the most that this server keeps of one caller; close some"


@dataclass(frozen=True, slots=True)
class Stored:
    """A session as it lies in its place."""

    record: SessionRecord
    """Rounds without their references."""
    opened: float
    image: StoredImage | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A session in a list, of which only the number of rounds is known."""

    record: SessionRecord
    rounds: int
    opened: float


@dataclass(frozen=True, slots=True)
class Held:
    """What a place holds now."""

    sessions: int = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What a place may hold: in all, and of one caller (of one connection where nobody is authenticated)."""

    max_bytes: int = 1 << 32
    max_sessions: int = 100_000
    max_bytes_per_caller: int = 1 << 32
    max_per_caller: int = 1000
    """Sessions."""


class Records(Protocol):
    """Sessions in one place. Every method raises Unavailable where the place cannot be used."""

    async def check_unused(self, session_id: str, caller: str) -> None:
        """Raises PreconditionFailed where the caller had a session of this id."""

    async def put(self, record: SessionRecord, opened: float, image: StoredImage | None) -> None:
        """A new session. Raises as ``check_unused`` does, and Exhausted where a limit is reached."""

    async def change(self, old: SessionRecord, new: SessionRecord) -> None:
        """The new record in the old one's place; what is the same object in both is not written again.

        Raises:
            Exhausted: a limit is reached.
            Unavailable: another server has changed it.
            NotFound, PreconditionFailed: it is not there any more.
        """

    async def version(self, session_id: str, caller: str) -> int:
        """Raises NotFound and PreconditionFailed as a ``SessionStore`` does."""

    async def get(self, session_id: str, caller: str, *, image: bool) -> Stored:
        """Raises as ``version`` does. ``image``: with it, where it is kept."""

    async def page(self, caller: str, after: tuple[float, str] | None, count: int) -> list[Listed]:
        """At most ``count`` of the caller's, the latest opened first; see ``SessionStore.page``."""

    async def remove(self, session_id: str, caller: str) -> None:
        """As if it had never been."""

    async def end(self, session_id: str, caller: str, now: float) -> None:
        """End it for good. Idempotent. Raises NotFound."""

    async def purge(self, opened_before: float, now: float) -> None:
        """Delete what was opened so long ago, and forget what ended so long ago."""

    async def held(self) -> Held:
        """What it holds."""

    async def close(self) -> None:
        """Finish what was begun. Idempotent."""


def exhausted(words: str, limit: int = 0) -> Exhausted:
    """The refusal in these words, which may name the limit."""
    return Exhausted(words.format(limit), RETRY_SECONDS, Shed.SESSIONS)


def age(record: SessionRecord) -> tuple[float, str]:
    """The order of a page."""
    return record.opened_at, record.session_id
