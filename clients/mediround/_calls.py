"""One call, whatever it asks: how long it may take, how often it is sent, and the id that it is known by.

Knows numbers and clocks. Does not know messages or transports; both clients use it.
"""

from __future__ import annotations

import logging
import math
import random
import re
import secrets
from dataclasses import dataclass, field
from numbers import Integral, Real
from time import monotonic
from typing import TypeAlias
from uuid import uuid4

from mediround.errors import FieldViolation, InvalidArgument, ResourceExhausted, Unavailable

TIMEOUT = 60.0
"""Seconds that a call may take unless it is given others."""
BATCH_TIMEOUT = 300.0
"""The same for priority ``batch``: longer than a server lets a batch request wait (60 s unless it is set
otherwise).
"""
RETRIES = 2
REQUEST_ID = "x-request-id"
SESSION = "x-mediround-session"
"""Metadata by which a proxy can keep a session with one server."""

LOG = logging.getLogger("mediround")
LOG.addHandler(logging.NullHandler())

_FOREVER = 1e8
"""Seconds, three years: gRPC's clock does not hold much more, and nobody waits for them."""
_MOST_RETRIES = 100
_LEAST_PAUSE = 0.25
_LONGEST_PAUSE = 60.0
"""A server that asks for more time is not waited for."""
_JITTER = 0.25
"""Share of a pause that is added at random, so that those who were refused together do not come again together."""


def seconds(timeout: object) -> float:
    """A time allowed, checked; infinite for one that has no end.

    Raises:
        InvalidArgument: it is not a number of seconds above 0.
    """
    if isinstance(timeout, Real) and not isinstance(timeout, bool):
        number = float(timeout)
        if number > 0:
            return math.inf if number > _FOREVER else number
    raise _refused("timeout", 'must be seconds above 0, or float("inf") for no end')


def times(retries: object) -> int:
    """How often a call may be sent again, checked. Raises InvalidArgument."""
    if isinstance(retries, Integral) and not isinstance(retries, bool) and 0 <= int(retries) <= _MOST_RETRIES:
        return int(retries)
    raise _refused("retries", f"must be a whole number from 0 to {_MOST_RETRIES}")


Metadata: TypeAlias = tuple[tuple[str, str], ...]
_NAMES_A_SESSION = re.compile(r"[A-Za-z0-9_-]+")


def new_session_id() -> str:
    """128 random bits: where callers have no certificate it is the only guard of a session."""
    return secrets.token_urlsafe(16)


@dataclass(slots=True)
class Call:
    """One call, and its repetitions: the deadline and the id are those of all of them."""

    allowed: float
    """Seconds; infinite for no deadline."""
    retries: int
    request_id: str = field(default_factory=lambda: str(uuid4()))
    began: float = field(default_factory=monotonic)
    session_id: str = ""
    """Of the session that is asked; empty: of none."""
    repeatable: bool = False
    """Whether the server that is asked is known to answer a repeated request as it did the first: then the call
    may be sent again although it may have been carried out.
    """
    _sent_again: int = 0

    def again(self, session_id: str) -> Call:
        """Another request of the same deadline, about this session."""
        return Call(
            self.allowed, self.retries, began=self.began, session_id=session_id, repeatable=self.repeatable
        )

    @property
    def metadata(self) -> Metadata:
        named = ((SESSION, self.session_id),) if _NAMES_A_SESSION.fullmatch(self.session_id) else ()
        return ((REQUEST_ID, self.request_id), *named)

    @property
    def taken(self) -> float:
        """Seconds since it began."""
        return monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.allowed - self.taken

    @property
    def timeout(self) -> float | None:
        """Of the next attempt, as gRPC takes it."""
        return None if math.isinf(self.allowed) else max(self.left, 0.0)

    def pause(self, error: ResourceExhausted | Unavailable) -> float | None:
        """Seconds to wait before the call is sent again; None: it must not, or need not, be.

        What the server itself says that it did not begin is sent again. A call that was lost on the way may have
        been carried out: it is sent again where the server knows requests by their ids, which answers it as
        before.
        """
        lost = isinstance(error, Unavailable) and self.repeatable
        if not (error.not_begun or lost) or self._sent_again >= self.retries:
            return None
        least = max(error.retry_after, _LEAST_PAUSE) * (1 << self._sent_again)
        wait = least * random.uniform(1, 1 + _JITTER)  # noqa: S311  # no secret
        if error.retry_after > _LONGEST_PAUSE or wait >= self.left:
            return None
        self._sent_again += 1
        LOG.info("%s; again in %.2f s, request %s", type(error).__name__, wait, self.request_id)
        return wait


@dataclass(frozen=True, slots=True)
class CallDefaults:
    """What holds for a client's calls unless one is given something else."""

    allowed: float | None
    """Seconds; None: by priority."""
    retries: int

    @classmethod
    def of(cls, timeout: float | None, retries: int) -> CallDefaults:
        """Raises InvalidArgument."""
        return cls(None if timeout is None else seconds(timeout), times(retries))

    def call(
        self,
        timeout: float | None = None,
        retries: int | None = None,
        priority: str = "interactive",
        *,
        session_id: str = "",
        repeatable: bool = False,
    ) -> Call:
        """A call that begins now. Raises InvalidArgument."""
        by_priority = BATCH_TIMEOUT if priority == "batch" else TIMEOUT
        default = by_priority if self.allowed is None else self.allowed
        return Call(
            default if timeout is None else seconds(timeout),
            self.retries if retries is None else times(retries),
            session_id=session_id,
            repeatable=repeatable,
        )


def _refused(field_name: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{field_name}: {description}", (FieldViolation(field_name, description),))
