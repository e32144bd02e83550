"""Events of the request path. Each is emitted once, where it is first known.

Knows the events. Does not know the observers, or what they do with an event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.domain import Priority
from serving.errors import Shed
from serving.history.rounds import RoundResult


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

    def wave(self, results: Sequence[RoundResult], terms: WaveTerms) -> None:
        """One language pass and its masks are done; ``results`` share their timings."""

    def dialogue(self, rounds: int, waves: int) -> None:
        """A dialogue known in advance was answered whole."""

    def rounds(self, indices: Sequence[int | None], code: str) -> None:
        """Rounds ended with a gRPC status. An index counts from 0; None where the
        request failed before its first round was answered."""

    def call(self, method: str, code: str, shed: Shed | None) -> None:
        """A call of the public contract ended; ``shed`` with RESOURCE_EXHAUSTED, the limit that it reached."""


class NullObserver:
    """An Observer that ignores every event; a base for those that need only some."""

    def opened(self, pixels: float, preprocess: float) -> None:
        """Ignored."""

    def wave(self, results: Sequence[RoundResult], terms: WaveTerms) -> None:
        """Ignored."""

    def dialogue(self, rounds: int, waves: int) -> None:
        """Ignored."""

    def rounds(self, indices: Sequence[int | None], code: str) -> None:
        """Ignored."""

    def call(self, method: str, code: str, shed: Shed | None) -> None:
        """Ignored."""


class CompositeObserver:
    """Several as one."""

    def __init__(self, *listeners: Observer) -> None:
        self._listeners = listeners

    def opened(self, pixels: float, preprocess: float) -> None:
        """See ``Observer``."""
        for listener in self._listeners:
            listener.opened(pixels, preprocess)

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
