"""Encode on open: what a first question needs of its image, computed while its caller still thinks.

Knows when that begins, who waits for it and what became of it. Does not know how an image is encoded, or rounds.
All on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from serving.errors import ServingError
from serving.history.record import Session
from serving.observer import Ahead, Observer
from serving.ports import EmbeddingStore
from serving.runtime.tasks import wait_until_done

LOG = logging.getLogger(__name__)
_LEFT_SECONDS = 1800.0
"""After which an image without a question counts as wasted: its sessions will have expired."""


class Preparation(Protocol):
    """The work."""

    def __call__(self, session: Session, begins: Callable[[], None]) -> Coroutine[Any, Any, float | None]:
        """Once admitted, call ``begins`` and encode the image: how many seconds that took; None where its
        embedding was there by then. Raises ServingError.
        """


@dataclass(slots=True, eq=False)
class _Begun:
    """One image's."""

    sessions: set[tuple[str, str]]
    """Caller and id of each that was opened on it: the last to close ends the work."""
    since: float
    begun: bool = False
    asked: bool = False
    task: asyncio.Task[float | None] = field(init=False)


class EncodeOnOpen:
    """Begins the work for images that sessions were opened on."""

    def __init__(
        self,
        prepare: Preparation,
        embeddings: EmbeddingStore,
        observer: Observer,
        clock: Callable[[], float],
        *,
        max_images: int,
    ) -> None:
        """``max_images``: with an embedding that nobody has asked for yet; 0: the work is never begun.

        ``clock``: seconds, never backwards.
        """
        self._prepare, self._embeddings, self._observer, self._clock = prepare, embeddings, observer, clock
        self._max_images = max_images
        self._images: dict[str, _Begun] = {}  # by the embedding's key; the oldest first

    def opened(self, session: Session) -> None:
        """Begin, unless the image's embedding is there or on its way, or too many wait for a first question."""
        self._forget_old()
        key, owner = session.image.embedding_key, (session.caller, session.record.session_id)
        if image := self._images.get(key):
            image.sessions.add(owner)
            return
        if self._embeddings.holds(key) or len(self._images) >= self._max_images:
            return
        image = self._images[key] = _Begun({owner}, self._clock())
        # In a context of its own: the opening's deadline, id and priority are not this work's.
        work = self._prepare(session, partial(self._begins, image))
        image.task = asyncio.create_task(work, context=Context())
        image.task.add_done_callback(partial(self._ended, key, image))

    def asked(self, session: Session) -> None:
        """A question has come: it joins work that has begun; what waits for its turn is left to the question."""
        key = session.image.embedding_key
        image = self._images.get(key)
        if image is None or image.asked:
            return
        image.asked = True
        if image.begun:
            self._observer.ahead(Ahead.USED if self._embeddings.holds(key) else Ahead.WASTED)
        if not image.begun or image.task.done():
            self._drop(key)

    def closed(self, session_id: str, caller: str) -> None:
        """A session has ended: work for it alone stops."""
        owner = (caller, session_id)
        for key, image in list(self._images.items()):
            image.sessions.discard(owner)
            if not image.sessions:
                self._drop(key)

    async def close(self) -> None:
        """Stop all, and return when nothing runs."""
        tasks = [image.task for image in self._images.values()]
        for key in list(self._images):
            self._drop(key)
        for task in tasks:
            await wait_until_done(task)

    def _forget_old(self) -> None:
        """Those that were left: their sessions have expired, or their embedding gave way."""
        before = self._clock() - _LEFT_SECONDS
        for key, image in list(self._images.items()):
            if image.task.done() and (image.since < before or not self._embeddings.holds(key)):
                self._drop(key)

    def _drop(self, key: str) -> None:
        image = self._images.pop(key)
        image.task.cancel()
        if image.begun and not image.asked:
            self._observer.ahead(Ahead.WASTED)

    def _begins(self, image: _Begun) -> None:
        image.begun = True
        self._observer.ahead(Ahead.BEGUN)

    def _ended(self, key: str, image: _Begun, task: asyncio.Task[float | None]) -> None:
        """A refusal, or an engine's failure, is nothing to tell: the question will hear of it, if it comes."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ServingError):
            LOG.error("an image could not be encoded ahead of its first question", exc_info=error)
        seconds = None if task.cancelled() or error else task.result()
        if seconds is not None:
            self._observer.encoded(seconds)
        if (seconds is None or image.asked) and self._images.get(key) is image:
            self._drop(key)
