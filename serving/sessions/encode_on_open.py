"""Encode on open: what a first question needs of its image, computed while its caller still thinks.

It begins when the image is decoded, beside the rest of the opening. Knows who waits for it and what became of it.
Does not know how an image is encoded, or rounds. All on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeAlias

from serving.domain import DecodedImage
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

    def __call__(
        self, image: DecodedImage, caller: str, session: Awaitable[Session], begins: Callable[[], None]
    ) -> Coroutine[Any, Any, float | None]:
        """Once admitted, call ``begins`` and encode the image: how many seconds that took; None where its
        embedding was there by then. What takes more than the image waits for the session. Raises ServingError.
        """


@dataclass(slots=True, eq=False)
class Opening:
    """A session on its way. It tells of its image, and of itself once it is there."""

    ahead: EncodeOnOpen
    caller: str
    wanted: bool
    """False: nothing is begun for it."""
    seen: bool = False

    def decoded(self, image: DecodedImage) -> None:
        """The image can be encoded."""
        self.seen = True
        if self.wanted:
            self.ahead.begin(image, self.caller, self)

    def opened(self, session: Session) -> None:
        """The session is there. Work that was not begun for its image, or was refused, is not begun again."""
        if self.wanted:
            self.ahead.opened(session, begin=not self.seen)


_Owner: TypeAlias = "Opening | tuple[str, str]"
"""A session by its caller and id, or one on its way."""


@dataclass(slots=True, eq=False)
class _Begun:
    """One image's."""

    owners: set[_Owner]
    """All that is open on it: the last to end ends the work."""
    since: float
    session: asyncio.Future[Session] | None
    """The first that was opened on it; None once the work has ended: it may outlive the session."""
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

    @contextmanager
    def opening(self, caller: str, *, wanted: bool) -> Iterator[Opening]:
        """An opening, for as long as the block runs: what it began for a session that did not come stops after."""
        opening = Opening(self, caller, wanted)
        try:
            yield opening
        finally:
            self._left(opening)

    def begin(self, image: DecodedImage, caller: str, owner: _Owner) -> None:
        """Begin, unless the image's embedding is there or on its way, or too many wait for a first question."""
        self._forget_old()
        key = image.embedding_key
        if begun := self._images.get(key):
            begun.owners.add(owner)
            return
        if self._embeddings.holds(key) or len(self._images) >= self._max_images:
            return
        session: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        begun = self._images[key] = _Begun({owner}, self._clock(), session)
        # In a context of its own: the opening's deadline, id and priority are not this work's.
        work = self._prepare(image, caller, session, partial(self._begins, begun))
        begun.task = asyncio.create_task(work, context=Context())
        begun.task.add_done_callback(partial(self._ended, key, begun))

    def opened(self, session: Session, *, begin: bool) -> None:
        """Work for its image, which may ``begin`` now, has this session."""
        owner = (session.caller, session.session_id)
        if begin:
            self.begin(session.image, session.caller, owner)
        if image := self._images.get(session.image.embedding_key):
            image.owners.add(owner)
            if image.session and not image.session.done():
                image.session.set_result(session)

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
        self._left((caller, session_id))

    async def close(self) -> None:
        """Stop all, and return when nothing runs."""
        tasks = [image.task for image in self._images.values()]
        for key in list(self._images):
            self._drop(key)
        for task in tasks:
            await wait_until_done(task)

    def _left(self, owner: _Owner) -> None:
        for key, image in list(self._images.items()):
            image.owners.discard(owner)
            if not image.owners:
                self._drop(key)

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
        image.session = None
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ServingError):
            LOG.error("an image could not be encoded ahead of its first question", exc_info=error)
        seconds = None if task.cancelled() or error else task.result()
        if seconds is not None:
            self._observer.encoded(seconds)
        if (seconds is None or image.asked) and self._images.get(key) is image:
            self._drop(key)
