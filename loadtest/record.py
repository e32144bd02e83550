"""What happened to every round of a run.

Knows one fixed row a round: no list grows while the load runs. Does not know how a round is asked or summed up.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from mediround import (
    AccessDenied,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MediRoundError,
    NotFound,
    ProtocolMismatch,
    ResourceExhausted,
    RoundResult,
    Unavailable,
)


class Outcome(IntEnum):
    """How a round ended; lower-case names stand in reports."""

    NOT_ASKED = 0
    """The run ended before: the target was gone."""
    ANSWERED = 1
    CANCELLED = 2
    """As planned."""
    HURRIED = 3
    """As planned: its short deadline passed, or the server refused to begin within it."""
    EXHAUSTED = 4
    """RESOURCE_EXHAUSTED, after the last attempt."""
    UNAVAILABLE = 5
    TIMED_OUT = 6
    """The ordinary timeout passed."""
    REFUSED = 7
    """INVALID_ARGUMENT or FAILED_PRECONDITION: the scenario does not fit the server."""
    NOT_FOUND = 8
    """The session was gone."""
    ACCESS_DENIED = 9
    FAULT = 10
    """INTERNAL, or an answer that the client cannot read."""
    ABANDONED = 11
    """An earlier round of its dialogue failed."""
    DROPPED = 12
    """Never sent: too many dialogues were open on this side."""
    UNFINISHED = 13
    """Still open when the run was over."""


PLANNED = (Outcome.CANCELLED, Outcome.HURRIED)
"""Given up by the caller: neither answered nor failed."""

_BY_ERROR: tuple[tuple[type[MediRoundError], Outcome], ...] = (
    (ResourceExhausted, Outcome.EXHAUSTED),
    (Unavailable, Outcome.UNAVAILABLE),
    (DeadlineExceeded, Outcome.TIMED_OUT),
    (InvalidArgument, Outcome.REFUSED),
    (FailedPrecondition, Outcome.REFUSED),
    (NotFound, Outcome.NOT_FOUND),
    (AccessDenied, Outcome.ACCESS_DENIED),
    (ProtocolMismatch, Outcome.FAULT),
)

_ROW = np.dtype(
    [
        ("due", "f8"),
        ("sent", "f8"),
        ("done", "f8"),
        ("index", "u2"),
        ("outcome", "u1"),
        ("late", "f4"),
        ("embedding_hit", "u1"),
        ("cached_tokens", "u4"),
        ("prompt_tokens", "u4"),
    ]
)


def outcome_of(error: MediRoundError) -> Outcome:
    return next((outcome for kind, outcome in _BY_ERROR if isinstance(error, kind)), Outcome.FAULT)


class Recording:
    """One row a round; times in seconds from the run's start."""

    def __init__(self, rounds: int) -> None:
        self.rows = np.zeros(rounds, _ROW)
        for name in ("due", "sent", "done", "late"):
            self.rows[name] = np.nan
        self.told_to_retry: int = 0
        """Answers that named a time to come back after."""
        self.retried: int = 0
        """Of those, the ones that were honoured."""
        self.answered: int = 0
        self.failed: int = 0

    def planned(self, row: int, index: int, due: float) -> None:
        self.rows["due"][row], self.rows["index"][row] = due, index

    def sent(self, row: int, due: float, now: float, ready: float) -> None:
        """``ready``: when it could have been sent at the earliest."""
        self.rows["due"][row], self.rows["sent"][row] = due, now
        self.rows["late"][row] = now - ready

    def answer(self, row: int, now: float, result: RoundResult) -> None:
        rows, cache = self.rows, result.cache
        rows["embedding_hit"][row] = cache.embedding_hit
        rows["cached_tokens"][row], rows["prompt_tokens"][row] = cache.cached_tokens, cache.prompt_tokens
        self.end(row, now, Outcome.ANSWERED)

    def end(self, row: int, now: float, outcome: Outcome) -> None:
        self.rows["done"][row], self.rows["outcome"][row] = now, outcome
        self.answered += outcome is Outcome.ANSWERED
        self.failed += outcome is not Outcome.ANSWERED and outcome not in PLANNED

    def waits(self, begins: float, ends: float) -> bool:
        """Whether a round that was due in [begins, ends) is not over."""
        return bool(np.any(self.measured(begins, ends)["outcome"] == Outcome.NOT_ASKED))

    def measured(self, begins: float, ends: float) -> npt.NDArray[np.void]:
        """The rows of rounds that were due in [begins, ends)."""
        due = self.rows["due"]
        return self.rows[(due >= begins) & (due < ends)]
