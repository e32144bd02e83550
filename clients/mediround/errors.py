"""What can go wrong, by who must act. Each docstring tells the integrator what to do.

    MediRoundError
    ├── InvalidArgument       change the request: ``violations`` name the fields
    ├── NotFound              open a new session
    │   └── SessionExpired        the same; it was yours
    ├── FailedPrecondition    do something else first
    │   ├── SessionClosed         open a new session
    │   ├── NeedsImage            client.resume(session_id, image=...)
    │   ├── StaleReference        refer to the round as it is now
    │   ├── MovedOn               read the session's history, decide again
    │   ├── OtherModel            open a new session; this one may be read
    │   └── IdempotencyMismatch   report it: something repeats requests by the wrong ids
    ├── AccessDenied          use another certificate or another server
    ├── ResourceExhausted     wait ``retry_after`` seconds, then send the same request again
    ├── Unavailable           wait ``retry_after`` seconds, then send the same request again
    ├── DeadlineExceeded      allow more time, or ask for less
    ├── Cancelled             nothing: the call was given up on this side
    └── ServerFault           report ``incident`` to the people who run the server
        └── ProtocolMismatch  install the client that fits the server

Knows what each error means. Does not know how a server tells it (``mediround.failures``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request that must change.

    Attributes:
        field: its path in the contract, for example ``questions[2].refer_to``.
        description: what is wrong with it, or what it must be.
    """

    field: str
    description: str


class MediRoundError(Exception):
    """Base of every error of this package. Catch it where you would give up on the image.

    ``str(error)`` holds no pixels, question or name, so it may be logged. Errors may be pickled and copied: they
    cross processes whole.

    Attributes:
        request_id: the id that the server's log knows the request by; None where nothing was sent.
        reason: the contract's word for why, for example ``NO_MASK``; None where the server named none.
    """

    request_id: str | None = None
    reason: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException's own would call __init__ with the message alone.
        return _rebuilt, (type(self), self.args), self.__dict__


class InvalidArgument(MediRoundError):
    """The request cannot be served as it is, now or later: change what ``violations`` name.

    The session, if there is one, is unharmed and takes further rounds.

    Attributes:
        violations: the fields that must change; empty where the server named none.
    """

    def __init__(self, message: str, violations: tuple[FieldViolation, ...] = ()) -> None:
        super().__init__(message)
        self.violations = violations


class NotFound(MediRoundError):
    """The session does not exist, has expired, or is another caller's: open a new one and ask again."""


class SessionExpired(NotFound):
    """The session was there and is gone: it was idle or open for too long, or gave way on a full server. Open a
    new one and ask again; the masks that you have may be given to it (``session.seed``).
    """

    reason = "SESSION_EXPIRED"


class FailedPrecondition(MediRoundError):
    """The session or the client does not allow the request: it is closed (open a new one), the round referred to
    has no mask (refer to another round), or what the call needs is not installed (install it). Where the server
    refuses, ``reason`` says which.
    """


class SessionClosed(FailedPrecondition):
    """The session was closed, here or by another program that knows its id: open a new one."""

    reason = "SESSION_CLOSED"


class NeedsImage(FailedPrecondition):
    """The session is kept without its image: ``client.resume(session_id, image=...)`` with the same image, in the
    same bytes; then send the request again.
    """

    reason = "NEEDS_IMAGE"


class StaleReference(FailedPrecondition):
    """The round that was named is not there any more, or its mask is another one: it was undone or amended. Take
    the round as it is now, from ``session.history()``, and refer to that.
    """

    reason = "STALE"


class MovedOn(FailedPrecondition):
    """The session has other rounds than this side knew of, because another program asks in it, or because an
    answer was lost on its way. Nothing was done: look at ``session.history()``, then decide again.
    """

    reason = "MOVED_ON"


class OtherModel(FailedPrecondition):
    """The session's rounds were answered by another model than the server has now: it may be read
    (``session.history()``, ``session.mask(...)``), not asked. Open a new one.
    """

    reason = "OTHER_MODEL"


class IdempotencyMismatch(FailedPrecondition):
    """The request's id stands for another request. The client makes a new id for each call, so this is a fault of
    whatever stands between it and the server: report ``request_id``.
    """

    reason = "IDEMPOTENCY_MISMATCH"


class AccessDenied(MediRoundError):
    """The server, or a proxy before it, does not accept this client: check the certificates in ``tls``."""


class ResourceExhausted(MediRoundError):
    """A limit of the server is reached: close sessions you no longer need, wait ``retry_after`` seconds, and
    send the same request again. Nothing was done, and the session is unharmed.

    Attributes:
        retry_after: seconds to wait; 1 where the server, or a proxy, named none.
        not_begun: whether the server itself said that it had not begun; the client has then sent the request again
            as often as ``retries`` and the time allowed let it.
    """

    def __init__(self, message: str, retry_after: float = 1.0, *, not_begun: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.not_begun = retry_after, not_begun


class Unavailable(MediRoundError):
    """The server cannot be reached, is starting, or is shutting down: wait ``retry_after`` seconds and send the
    same request again. A session may be gone after a restart: then ``NotFound`` follows.

    Attributes:
        retry_after: seconds to wait; 1 where the server, or a proxy, named none.
        not_begun: whether the server itself said that it had not begun; the client has then sent the request again
            as often as ``retries`` and the time allowed let it.
    """

    def __init__(self, message: str, retry_after: float = 1.0, *, not_begun: bool = False) -> None:
        super().__init__(message)
        self.retry_after, self.not_begun = retry_after, not_begun


class DeadlineExceeded(MediRoundError):
    """The time allowed is over and the server stops working: pass a larger ``timeout``, or ask fewer rounds.

    The session is unharmed, but this side cannot tell whether the round had just been finished:
    ``session.history()`` says so.
    """


class Cancelled(MediRoundError):
    """The call was given up on this side, by closing the client or by cancelling: nothing needs to be done."""


class ServerFault(MediRoundError):
    """A fault of the server. Report ``incident``, which its log knows; the same request may fail again.

    Attributes:
        incident: the same as ``request_id``; None where a proxy answered.
    """

    def __init__(self, message: str, incident: str | None = None) -> None:
        super().__init__(message)
        self.incident = incident


class ProtocolMismatch(ServerFault):
    """The server's answer does not fit this client: install the version of the client that fits the server."""


def _rebuilt(kind: type[MediRoundError], args: tuple[object, ...]) -> MediRoundError:
    return kind.__new__(kind, *args)
