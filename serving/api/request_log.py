"""One request for rounds, from its arrival to its end: which of its rounds were answered, and how it ended.

Tells the observer, and writes one line a round to the log: ids that say nothing, times, counts and outcomes; no
text, pixels, session ids or callers. Does not know messages, or how a round is answered.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serving.domain import Priority
from serving.history.rounds import RoundResult
from serving.logs import fields
from serving.observer import Observer
from serving.rpc.status import OK, code_of
from serving.runtime.stopwatch import Stopwatch

LOG = logging.getLogger("serving.rounds")


@dataclass(slots=True)
class RequestLog:
    """A request, and its rounds answered so far."""

    id: str
    method: str
    rounds: int
    """How many it asks for."""
    priority: Priority = Priority.INTERACTIVE
    answered: list[int] = field(default_factory=list)
    """Indices of rounds."""
    waves: int = 0

    def answer(self, result: RoundResult) -> None:
        """A round is answered."""
        self.answered.append(result.index)
        self.waves = result.cache.wave + 1
        LOG.info("round", extra=fields(request=self.id, method=self.method, code=OK, **_facts(self, result)))


@contextmanager
def log_request(observer: Observer, id: str, method: str, rounds: int) -> Iterator[RequestLog]:  # noqa: A002  # as in the log
    """Around a request's work: however it ends, each of its rounds is counted once."""
    watch, request = Stopwatch(), RequestLog(id, method, rounds)
    try:
        yield request
    except BaseException as error:
        _failed(observer, request, code_of(error), watch.seconds)
        raise
    observer.rounds(request.answered, OK)
    if method == "SegmentDialogue":
        observer.dialogue(rounds, request.waves)


def _failed(observer: Observer, request: RequestLog, code: str, seconds: float) -> None:
    observer.rounds(request.answered, OK)
    missing = request.rounds - len(request.answered)
    # What follows an answered round is known; before the first, the session may not even exist.
    first = request.answered[-1] + 1 if request.answered else None
    observer.rounds([None if first is None else first + i for i in range(missing)], code)
    facts = fields(
        request=request.id,
        method=request.method,
        code=code,
        priority=request.priority.name.lower(),
        rounds=missing,
        total=round(seconds, 6),
    )
    LOG.info("rounds failed", extra=facts)


def _facts(request: RequestLog, result: RoundResult) -> dict[str, float | str | None]:
    timings, cache, segmentation = result.timings, result.cache, result.segmentation
    stages = ("queue", "prepare", "language", "encode", "decode", "postprocess", "total")
    return {
        "priority": request.priority.name.lower(),
        "round": result.index,
        "wave": cache.wave,
        **{stage: round(getattr(timings, stage), 6) for stage in stages},
        "embedding_hit": cache.embedding_hit,
        "cached_tokens": cache.cached_tokens,
        "prompt_tokens": cache.prompt_tokens,
        "mask": segmentation is not None,
        "empty": segmentation is not None and not segmentation.mask.area,
        "score": None if segmentation is None or segmentation.score is None else round(segmentation.score, 4),
        "corrected": segmentation is not None and segmentation.corrected,
    }
