"""Cost model: how long each kind of work takes, and how fast work gets done. Admission decides by it.

Knows seconds of an encode, a language pass and a mask, learnt from what is done, and the expected work done per
second. Does not know requests, queues or engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from serving.history.rounds import RoundResult
from serving.observer import NullObserver, WaveTerms
from serving.ports import ExpectedWork

_FALL, _RISE = 0.5, 0.02
_HORIZON_SECONDS = 20.0


class CostEstimate:
    """Seconds that one piece of work takes when nothing else runs.

    Beside other work it takes longer, and how much longer is the throughput's to say: so a shorter time is
    believed at once, and a longer one only when it keeps coming.
    """

    def __init__(self, seconds: float) -> None:
        """``seconds`` is a guess, replaced by the first measurement."""
        self.seconds = seconds
        self._measured = False

    def learn(self, seconds: float) -> None:
        step = seconds - self.seconds
        share = 1.0 if not self._measured else _FALL if step < 0 else _RISE
        self.seconds += share * step
        self._measured = True


class CostModel(NullObserver):
    """What requests cost, learnt from rounds that are done."""

    def __init__(self) -> None:
        self.encode, self.language_pass, self.mask = CostEstimate(0.5), CostEstimate(0.1), CostEstimate(0.02)

    def cost(self, work: ExpectedWork) -> float:
        """Seconds of engine time, when nothing else runs; never 0."""
        parts = (
            work.encodes * self.encode.seconds,
            work.passes * self.language_pass.seconds,
            work.masks * self.mask.seconds,
        )
        return max(sum(parts), 1e-3)

    def encoded(self, seconds: float) -> None:
        """Learn. See ``Observer``."""
        self.encode.learn(seconds)

    def wave(self, results: Sequence[RoundResult], terms: WaveTerms) -> None:  # noqa: ARG002  # Observer's
        """Learn. See ``Observer``."""
        timings = results[0].timings
        masks = sum(result.segmentation is not None for result in results)
        self.language_pass.learn(timings.language)
        if timings.encode and not results[0].cache.embedding_hit:  # else it was others' work, begun before
            self.encode.learn(timings.encode)
        if masks:
            self.mask.learn((timings.decode + timings.postprocess) / masks)


class Throughput:
    """Expected seconds of work done in a second of the clock, lately. Above 1 where engines batch."""

    def __init__(self, now: float) -> None:
        self._done = self._busy = 1.0
        self._last = now

    @property
    def rate(self) -> float:
        return max(self._done / self._busy, 1e-3)

    def tick(self, now: float, *, busy: bool, done: float = 0.0) -> None:
        """Time went on until ``now``, with or without work in progress; ``done`` was finished at its end."""
        if busy:
            passed = now - self._last
            kept = exp(-passed / _HORIZON_SECONDS)
            self._busy = self._busy * kept + passed
            self._done = self._done * kept
        self._done += done
        self._last = now
