"""Errors of the domain, by who must act. Only the gRPC boundary turns them into status codes.

    ServingError
    ├── InvalidInput          the caller must change the request
    │   └── InvalidQuestion   one of its questions, or their number and length together
    ├── NotFound              the caller names something that is not there (for them)
    ├── PreconditionFailed    the caller must do something else first
    ├── MovedOn               the caller must read the session and decide again
    ├── Exhausted             the caller may try again later: a limit of this server is reached
    ├── Unavailable           the caller may try again later: a part of this server is down
    │   └── StillWriting      the same; and a buffer of ours may still be written
    ├── DeadlineExceeded      no one must act: the caller's deadline has passed
    └── EngineFault           we must act: an engine broke its contract

No message carries pixels, file names, user text or identifiers of people.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Shed(StrEnum):
    """Which limit a refused call has reached; its values stand in metrics."""

    QUEUE = "queue"
    """As much work waits as may wait."""
    DEADLINE = "deadline"
    """The work that waits before it takes longer than the caller allowed."""
    REQUESTS = "requests"
    """Requests for rounds that are held, in work and waiting."""
    UPLOADS = "uploads"
    SESSIONS = "sessions"
    """Their number, or the bytes of all."""
    EMBEDDINGS = "embeddings"
    ENGINE = "engine"
    """An engine's own queue."""
    SLOW_CALLER = "slow_caller"
    """Chunks or results did not move for too long."""


class Reason(StrEnum):
    """Why a session, or what is named in it, is not as its caller thinks: words for programs, in the contract."""

    SESSION_EXPIRED = "SESSION_EXPIRED"
    SESSION_CLOSED = "SESSION_CLOSED"
    SESSION_ID_USED = "SESSION_ID_USED"
    NEEDS_IMAGE = "NEEDS_IMAGE"
    OTHER_IMAGE = "OTHER_IMAGE"
    OTHER_MODEL = "OTHER_MODEL"
    STALE = "STALE"
    NO_MASK = "NO_MASK"
    MASK_NOT_HELD = "MASK_NOT_HELD"
    NOT_AUTHENTICATED = "NOT_AUTHENTICATED"
    IDEMPOTENCY_MISMATCH = "IDEMPOTENCY_MISMATCH"
    MOVED_ON = "MOVED_ON"


class ServingError(Exception):
    """Base of every error that a caller may see. ``str(error)`` is safe to send. It may be pickled and copied."""

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own would call __init__ with the message alone.
        return _rebuilt, (type(self), self.args), self.__dict__


class InvalidInput(ServingError):
    """The request cannot be served as it is. ``field`` is the path of the field that must change, within what was
    given to the one that raises; empty: all of it."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description

    def inside(self, path: str) -> InvalidInput:
        """The same, where ``field`` is a part of the field at ``path``."""
        return InvalidInput(f"{path}.{self.field}" if self.field else path, self.description)


class InvalidQuestion(InvalidInput):
    """A question cannot be asked; ``field`` is a part of it.

    ``position`` counts from 0 among the questions asked at once; None: they cannot be asked together.
    """

    def __init__(self, position: int | None, field: str, description: str) -> None:
        super().__init__(field, description)
        self.position = position


class NotFound(ServingError):
    """Unknown session, expired session, another caller's session, or bytes that are not held.

    ``reason`` is for the owner alone: None where another caller's session must look like one that never was.
    """

    def __init__(self, description: str, reason: Reason | None = None) -> None:
        super().__init__(description)
        self.reason = reason


class PreconditionFailed(ServingError):
    """The session's state does not allow the request: it is closed, or the round referred to has no mask."""

    def __init__(self, description: str, reason: Reason | None = None) -> None:
        super().__init__(description)
        self.reason = reason


class MovedOn(ServingError):
    """The session has other rounds than the request was made for: another request came between."""

    reason = Reason.MOVED_ON


class Exhausted(ServingError):
    """A limit of the server is reached. Retry after ``retry_after`` seconds, or close sessions."""

    def __init__(self, description: str, retry_after: float = 1.0, reason: Shed = Shed.ENGINE) -> None:
        super().__init__(description)
        self.retry_after = retry_after
        self.reason = reason


class Unavailable(ServingError):
    """An engine cannot be reached or is starting. Retry after ``retry_after`` seconds; sessions survive."""

    def __init__(self, description: str, retry_after: float = 1.0) -> None:
        super().__init__(description)
        self.retry_after = retry_after


class StillWriting(Unavailable):
    """The engine filling this buffer was lost without a reply and may still write to it; the store must not reuse
    it.
    """


class DeadlineExceeded(ServingError):
    """A part of this server saw the caller's deadline pass, a moment before the call itself was cancelled."""


class EngineFault(ServingError):
    """An engine answered with something that its contract excludes. Logged with an id; a bug of ours."""


def _rebuilt(kind: type[ServingError], args: tuple[object, ...]) -> ServingError:
    return kind.__new__(kind, *args)
