"""Events of the request path. Each is emitted once, where it is first known.

Knows the events. Does not know the observers, or what they do with an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from serving.domain import Priority
from serving.errors import Shed
from serving.history.rounds import RoundResult


class Ahead(StrEnum):
    """What became of an encode that began before a question asked for it; its values stand in metrics."""

    BEGUN = "begun"
    USED = "used"
    """Its image was asked about."""
    WASTED = "wasted"
    """Its session ended first, its embedding gave way, or newer images took its turn."""


class StoreOutcome(StrEnum):
    """How an operation on kept sessions ended; its values stand in metrics."""

    OK = "ok"
    FULL = "full"
    """There was no room, or a budget was reached."""
    UNAVAILABLE = "unavailable"
    """The store could not be used, or another server was first."""


@dataclass(frozen=True, slots=True)
class WaveTerms:
    """On which a wave was asked."""

    threshold: float
    priority: Priority
    correctable: int
    """Masks that the policy lets be corrected."""


class Observer(Protocol):
    """Called on the event loop: returns at once and never raises. Times are in seconds."""

    def opened(self, pixels: float, preprocess: float) -> None:
        """An image that was sent is ready for sessions: seconds to decode it, and to prepare it for rounds."""

    def ahead(self, outcome: Ahead) -> None:
        """An encode has begun before a question asked for it; or what became of it is known."""

    def encoded(self, seconds: float) -> None:
        """An encode that began so is done."""

    def read_ahead(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A language pass over what an image's dialogues begin with is done, before any question asked for it;
        ``cached_tokens``: of the prompt's, those that were not computed again.
        """

    def wave(self, results: Sequence[RoundResult], terms: WaveTerms) -> None:
        """One language pass and its masks are done; ``results`` share their timings."""

    def dialogue(self, rounds: int, waves: int) -> None:
        """A dialogue known in advance was answered whole."""

    def rounds(self, indices: Sequence[int | None], code: str) -> None:
        """Rounds ended with a gRPC status. An index counts from 0; None where the
        request failed before its first round was answered."""

    def call(self, method: str, code: str, shed: Shed | None) -> None:
        """A call of the public contract ended; ``shed`` with RESOURCE_EXHAUSTED, the limit that it reached."""

    def stored(self, operation: str, outcome: StoreOutcome, seconds: float) -> None:
        """An operation on kept sessions, ``read`` or ``write``, has ended."""


class NullObserver:
    """An Observer that ignores every event; a base for those that need only some."""

    def opened(self, pixels: float, preprocess: float) -> None:
        """Ignored."""

    def ahead(self, outcome: Ahead) -> None:
        """Ignored."""

    def encoded(self, seconds: float) -> None:
        """Ignored."""

    def read_ahead(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Ignored."""

    def wave(self, results: Sequence[RoundResult], terms: WaveTerms) -> None:
        """Ignored."""

    def dialogue(self, rounds: int, waves: int) -> None:
        """Ignored."""

    def rounds(self, indices: Sequence[int | None], code: str) -> None:
        """Ignored."""

    def call(self, method: str, code: str, shed: Shed | None) -> None:
        """Ignored."""

    def stored(self, operation: str, outcome: StoreOutcome, seconds: float) -> None:
        """Ignored."""


class CompositeObserver:
    """Several as one."""

    def __init__(self, *listeners: Observer) -> None:
        self._listeners = listeners

    def opened(self, pixels: float, preprocess: float) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.opened(pixels, preprocess)

    def ahead(self, outcome: Ahead) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.ahead(outcome)

    def encoded(self, seconds: float) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.encoded(seconds)

    def read_ahead(self, prompt_tokens: int, cached_tokens: int) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.read_ahead(prompt_tokens, cached_tokens)

    def wave(self, results: Sequence[RoundResult], terms: WaveTerms) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.wave(results, terms)

    def dialogue(self, rounds: int, waves: int) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.dialogue(rounds, waves)

    def rounds(self, indices: Sequence[int | None], code: str) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.rounds(indices, code)

    def call(self, method: str, code: str, shed: Shed | None) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.call(method, code, shed)

    def stored(self, operation: str, outcome: StoreOutcome, seconds: float) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.stored(operation, outcome, seconds)
