"""Encode on open: what a first question needs of its image, computed while its caller still thinks.

It begins when the image is decoded, beside the rest of the opening. Knows who waits for it and what became of it.
Does not know how an image is encoded, or rounds. All on one event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Protocol, TypeAlias, TypeVar

from serving.domain import DecodedImage
from serving.errors import ServingError
from serving.history.record import Session
from serving.observer import Ahead, Observer
from serving.ports import Completion, EmbeddingStore
from serving.runtime.tasks import wait_until_done

LOG = logging.getLogger(__name__)
T = TypeVar("T")
_LEFT_SECONDS = 1800.0
"""After which an image without a question counts as wasted: its sessions will have expired."""


class Preparation(Protocol):
    """The work. Each half calls ``begins`` once it is admitted."""

    def encode(
        self, image: DecodedImage, caller: str, begins: Callable[[], None]
    ) -> Coroutine[Any, Any, float | None]:
        """Encode the image: how many seconds that took; None where its embedding was there when it was admitted,
        and nothing began. Raises ServingError.
        """

    def read(self, session: Session, begins: Callable[[], None]) -> Coroutine[Any, Any, Completion | None]:
        """The language pass over what the session's dialogue begins with; None where it is refused, or fails."""


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

    pixels: int
    """By id: with which the encode waits."""
    owners: dict[_Owner, int]
    """All that is open on it, and the pixels of each; some have the same. The last to end ends the work."""
    since: float
    session: Session | None = None
    """The first that was opened on it; None once it is read: this may outlive the session."""
    begun: bool = False
    """The encode was admitted."""
    reads: bool = False
    """The language pass was admitted."""
    asked: bool = False
    encode: asyncio.Task[float | None] = field(init=False)
    read: asyncio.Task[Completion | None] | None = None
    """From when the encode has begun and the session is there."""

    @property
    def tasks(self) -> list[asyncio.Task[Any]]:
        return [self.encode, self.read] if self.read else [self.encode]

    @property
    def ended(self) -> bool:
        return all(task.done() for task in self.tasks)

    @property
    def is_left(self) -> bool:
        """By all; or, before the encode has begun, by all that have its pixels: no session counts them now."""
        return not (self.owners if self.begun else self.pixels in self.owners.values())

    def is_about_to_read(self, session: Session) -> bool:
        """The language pass, for this session's dialogue, waits for its turn."""
        waits = self.read is not None and not self.reads
        return waits and self.session is not None and _owner(self.session) == _owner(session)


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
        """``max_images``: that nobody has asked about yet, of which those whose work has ended give way to new
        ones; 0: the work is never begun.

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
        """Begin, unless the image's embedding is there or on its way, or work has yet to end for as many images
        as may wait for a first question.
        """
        self._forget_old()
        key = image.embedding_key
        if begun := self._images.get(key):
            begun.owners[owner] = id(image.pixels)
            return
        if self._embeddings.holds(key) or not self._has_room():
            return
        pixels = id(image.pixels)
        begun = self._images[key] = _Begun(pixels, {owner: pixels}, self._clock())
        # In a context of its own: the opening's deadline, id and priority are not this work's.
        work = self._prepare.encode(image, caller, partial(self._begins, key, begun))
        begun.encode = asyncio.create_task(work, context=Context())
        begun.encode.add_done_callback(partial(self._encoded, key, begun))

    def opened(self, session: Session, *, begin: bool) -> None:
        """Work for its image, which may ``begin`` now, has this session."""
        owner = _owner(session)
        if begin:
            self.begin(session.image, session.caller, owner)
        key = session.image.embedding_key
        if image := self._images.get(key):
            image.owners[owner] = id(session.image.pixels)
            if not image.session and not image.read:
                image.session = session
                self._read(key, image)

    def asked(self, session: Session) -> None:
        """A question has come: it joins work that has begun. What waits stays: the question may be refused."""
        key = session.image.embedding_key
        image = self._images.get(key)
        if image and image.begun and not image.asked:
            image.asked = True
            self._observer.ahead(Ahead.USED if self._embeddings.holds(key) else Ahead.WASTED)
            self._forget_ended(key, image)

    def admitted(self, session: Session) -> None:
        """The question runs: it does itself what waits for its turn."""
        self.asked(session)
        key = session.image.embedding_key
        image = self._images.get(key)
        if image and not image.begun:
            self._drop(key)
        elif image and image.read and image.is_about_to_read(session):
            image.read.cancel()

    def closed(self, session_id: str, caller: str) -> None:
        """A session is not in memory any more, however it went: work for it alone stops, and holds no image."""
        self._left((caller, session_id))

    async def close(self) -> None:
        """Stop all, and return when nothing runs."""
        tasks = [task for image in self._images.values() for task in image.tasks]
        for key in list(self._images):
            self._drop(key)
        for task in tasks:
            await wait_until_done(task)

    def _left(self, owner: _Owner) -> None:
        for key, image in list(self._images.items()):
            if image.owners.pop(owner, None) is None:
                continue
            if image.is_left:
                self._drop(key)
            elif image.session and not image.reads and _owner(image.session) == owner:
                image.session = None
                if image.read:
                    image.read.cancel()

    def _forget_old(self) -> None:
        """Those that were left: their sessions have expired, or their embedding gave way."""
        before = self._clock() - _LEFT_SECONDS
        for key, image in list(self._images.items()):
            if image.ended and (image.since < before or not self._embeddings.holds(key)):
                self._drop(key)

    def _has_room(self) -> bool:
        """For one more image: the oldest whose work has ended gives way, and its embedding before all others; else
        the oldest that waits, which newer ones go before.
        """
        if len(self._images) < self._max_images:
            return True
        ended = (key for key, image in self._images.items() if image.ended)
        waits = (key for key, image in self._images.items() if not image.begun)
        gives_way = next(chain(ended, waits), None)
        if gives_way is not None:
            self._drop(gives_way)
        return gives_way is not None

    def _drop(self, key: str) -> None:
        image = self._images.pop(key)
        for task in image.tasks:
            task.cancel()
        if image.begun and not image.asked:
            self._observer.ahead(Ahead.WASTED)
            self._embeddings.demote(key)  # before those of dialogues under way

    def _begins(self, key: str, image: _Begun) -> None:
        image.begun = True
        self._observer.ahead(Ahead.BEGUN)
        self._read(key, image)

    def _read(self, key: str, image: _Begun) -> None:
        """Begin the language pass, if its time has come."""
        if image.begun and image.session and not image.asked:
            work = self._prepare.read(image.session, partial(setattr, image, "reads", True))
            image.read = asyncio.create_task(work, context=Context())
            image.read.add_done_callback(partial(self._was_read, key, image))

    def _encoded(self, key: str, image: _Begun, task: asyncio.Task[float | None]) -> None:
        """A refusal, or an engine's failure, is nothing to tell: the question will hear of it, if it comes."""
        seconds = _result(task)
        if seconds is not None:
            self._observer.encoded(seconds)
            self._forget_ended(key, image)
        elif self._images.get(key) is image:
            self._drop(key)

    def _was_read(self, key: str, image: _Begun, task: asyncio.Task[Completion | None]) -> None:
        if completion := _result(task):
            self._observer.read_ahead(completion.prompt_tokens, completion.cached_tokens)
        image.session = None
        if task.cancelled():  # it holds the session: where it was stopped is part of its error
            image.read = None
        self._forget_ended(key, image)

    def _forget_ended(self, key: str, image: _Begun) -> None:
        """Work that has ended, and was asked for, has nothing to wait for."""
        if image.asked and image.ended and self._images.get(key) is image:
            self._drop(key)


def _owner(session: Session) -> tuple[str, str]:
    return session.caller, session.session_id


def _result(task: asyncio.Task[T]) -> T | None:
    """None where it was stopped, or failed; the log has what no engine or gate raises."""
    if task.cancelled():
        return None
    if (error := task.exception()) is None:
        return task.result()
    if not isinstance(error, ServingError):
        LOG.error("an image could not be prepared for its first question", exc_info=error)
    return None
