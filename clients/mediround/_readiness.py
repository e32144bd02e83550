"""Waiting for a server that may be starting: what to try, and when to give up.

Knows which errors pass with time. Does not know calls; both clients use it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from mediround._calls import Call
from mediround.errors import DeadlineExceeded, MediRoundError, ResourceExhausted, Unavailable

_ATTEMPT_SECONDS = 5.0
_PAUSE_SECONDS = 0.25
_PASSES = (Unavailable, ResourceExhausted, DeadlineExceeded)


@dataclass(slots=True)
class Readiness:
    """One wait, with the id and the deadline of ``whole``."""

    whole: Call
    last: MediRoundError | None = None

    def attempt(self) -> Call:
        """The next one. Raises DeadlineExceeded when the time is over."""
        if self.whole.left <= 0:
            words = f"the server was not ready within {self.whole.allowed:g} s: {self.last or 'it was not asked'}"
            late = DeadlineExceeded(words)
            late.request_id = self.whole.request_id
            raise late from self.last
        return Call(min(self.whole.left, _ATTEMPT_SECONDS), 0, self.whole.request_id)

    def pause(self, error: MediRoundError) -> float:
        """Seconds until the next attempt. Raises ``error`` when it does not pass with time."""
        if not isinstance(error, _PASSES):
            raise error
        self.last = error
        return max(0.0, min(self.whole.left, _PAUSE_SECONDS * random.uniform(1, 2)))  # noqa: S311  # no secret
