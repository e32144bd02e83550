"""Crops of masks that questions are about: cut when one asks, or ahead of it while nothing else is to be done.

Knows that a live question is mostly about the mask before it, and how many such crops are held. Does not know how
one is cut, or rounds. All on one event loop; cutting is done in an executor's threads.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from serving.domain import Reference
from serving.geometry import Geometry
from serving.history.record import Session
from serving.history.rounds import ReferredMask, RoundResult
from serving.runtime.tasks import run_in_executor

_MOST_AHEAD = 16
"""Sessions that have one: of 336 pixels a side it takes a third of a MiB."""


@dataclass(frozen=True, slots=True)
class _Ahead:
    digest: bytes
    """The mask's."""
    cut: Future[Reference]


class Crops:
    """Cuts for requests."""

    def __init__(self, geometry: Geometry, executor: Executor) -> None:
        self._geometry, self._executor = geometry, executor
        # By caller and session, the oldest first.
        self._ahead: OrderedDict[tuple[str, str], _Ahead] = OrderedDict()
        self._working = 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """A request is at work."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1

    def answered(self, session: Session, result: RoundResult) -> None:
        """The session's next question may be about this mask: it is cut out now, unless others are at work."""
        if result.segmentation is None or self._working > 1:
            return
        self.closed(session.session_id, session.caller)
        mask = result.segmentation.mask
        cut = self._executor.submit(self._geometry.reference, session.image, mask, result.index)
        self._ahead[session.caller, session.session_id] = _Ahead(mask.digest, cut)
        if len(self._ahead) > _MOST_AHEAD:
            self._ahead.popitem(last=False)

    async def of(self, session: Session, referred: ReferredMask) -> Reference:
        """What the language half is shown of a mask."""
        ahead = self._ahead.pop((session.caller, session.session_id), None)
        if ahead is not None and ahead.digest == referred.mask.digest:
            return replace(await asyncio.wrap_future(ahead.cut), round=referred.round)
        if ahead is not None:
            ahead.cut.cancel()
        cut = partial(self._geometry.reference, session.image, referred.mask, referred.round)
        return await run_in_executor(self._executor, cut)

    def closed(self, session_id: str, caller: str) -> None:
        """A session has ended, or its next question is about another mask."""
        if ahead := self._ahead.pop((caller, session_id), None):
            ahead.cut.cancel()
