"""Sessions that are kept lie in a place of their own; those at work, and those that are not kept, in memory.

Knows what of a session is where, and when. Does not know the place, or how pixels are derived: both are given.

A change is in its place before anybody is told of it. What is in memory is a copy: whoever holds it or reads it
asks the place first whether another server has changed it. A session that nobody asks of is parked: in its place
alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from serving.domain import U8, Mask, Reference, SourceImage, TowerImage
from serving.errors import NotFound, PreconditionFailed, Reason, ServingError, Unavailable
from serving.history.record import Session, SessionRecord, SessionSummary, Snapshot
from serving.history.rounds import Round
from serving.observer import NullObserver, Observer
from serving.runtime.tasks import run_in_executor, wait_until_done
from serving.stats import SessionStats
from serving.stores.endings import OLD, ended
from serving.stores.kept.codec import StoredImage
from serving.stores.kept.records import Held, Listed, Records, Stored
from serving.stores.sessions import MemorySessions

NEEDS_IMAGE = "the session is parked without its image: open it with resume and the same bytes"
_MOST_SEEN = 10_000


class Derivation(Protocol):
    """What of a session is derived from its image and masks."""

    def tower_image(self, pixels: U8) -> TowerImage: ...

    def reference(self, image: SourceImage, mask: Mask, round_index: int) -> Reference: ...


@dataclass(frozen=True, slots=True)
class Keeping:
    """How sessions are kept."""

    lifetime_s: float
    """From the opening; longer ago they are deleted."""
    images: bool
    """Whether their images are kept, too."""
    clock: Callable[[], float]
    """Seconds since the epoch."""
    observer: Observer = field(default_factory=NullObserver)
    """Hears of each operation."""


class KeptSessions:
    """A SessionStore."""

    def __init__(
        self,
        live: MemorySessions,
        records: Records,
        keeping: Keeping,
        derivation: Derivation,
        executor: Executor,
    ) -> None:
        """``live`` holds what is at work, and parks; ``executor`` derives pixels."""
        self._live, self._records, self._keeping = live, records, keeping
        self._derivation, self._executor = derivation, executor
        self._opened: dict[tuple[str, str], float] = {}  # of the kept sessions that were seen
        self._purging: asyncio.Task[None] | None = None
        self._held = Held()

    @property
    def count(self) -> int:
        """Sessions in memory."""
        return self._live.count

    @property
    def nbytes(self) -> int:
        """Bytes that those hold."""
        return self._live.nbytes

    @property
    def stats(self) -> SessionStats:
        """Those in their place as the last sweep found them."""
        here = self._live.kept
        parked = max(0, self._held.sessions - here)
        return SessionStats(here, parked, self._live.gave_way, self._held.nbytes)

    async def create(self, session: Session) -> None:
        """See ``SessionStore``. An id is one session's, whether it is kept or not."""
        record, image = session.record, session.image
        if not record.keep:
            with suppress(Unavailable):  # its id is random: what is not kept does not wait for what keeps
                await self._records.check_unused(record.session_id, record.caller)
            await self._live.create(session)
            return
        pixels = StoredImage(image.pixels, image.embedding_key) if self._keeping.images else None
        opened = self._keeping.clock()
        await self._records.put(record, opened, pixels)
        try:
            await self._live.create(session)
        except ServingError:
            await self._records.remove(record.session_id, record.caller)
            raise
        self._saw(record.caller, record.session_id, opened)

    def exclusive(self, session_id: str, caller: str) -> AbstractAsyncContextManager[Session]:
        """See ``SessionStore``."""
        return self._exclusive(session_id, caller)

    @asynccontextmanager
    async def _exclusive(self, session_id: str, caller: str) -> AsyncIterator[Session]:
        if self._live.find(session_id, caller) is None:
            await self._wake(session_id, caller, None)
        async with self._live.exclusive(session_id, caller) as session:
            yield await self._current(session) if session.record.keep else session

    async def commit(self, record: SessionRecord) -> None:
        """See ``SessionStore``. Raises Unavailable, too: it cannot be written, or another server did so."""
        await self._live.commit(record, self._records.change if record.keep else None)

    async def read(self, session_id: str, caller: str) -> Snapshot:
        """See ``SessionStore``."""
        held = self._live.find(session_id, caller)
        if held is not None and await self._is_current(held) and self._live.holds(session_id, caller):
            return await self._live.read(session_id, caller)
        stored = await self._get(session_id, caller, image=False)
        parked = not self._live.holds(session_id, caller)
        return Snapshot(stored.record, self._left(stored.opened), parked)

    async def resume(self, session_id: str, caller: str, image: SourceImage) -> None:
        """See ``SessionStore``."""
        if self._live.find(session_id, caller) is None:
            await self._wake(session_id, caller, image)

    async def page(self, caller: str, after: tuple[float, str] | None, count: int) -> list[SessionSummary]:
        """See ``SessionStore``."""
        here = [each for each in await self._live.page(caller, after, self._live.count) if not each.keep]
        kept = [self._summary(each) for each in await self._records.page(caller, after, count)]
        both = sorted(here + kept, key=lambda each: (each.opened_at, each.session_id), reverse=True)
        return both[:count]

    def seconds_left(self, session_id: str, caller: str) -> float:
        """See ``SessionStore``."""
        here = self._live.seconds_left(session_id, caller)
        opened = self._opened.get((caller, session_id))
        return here if here or opened is None else self._left(opened)

    async def close(self, session_id: str, caller: str) -> None:
        """See ``SessionStore``."""
        try:
            held = self._live.find(session_id, caller)
        except PreconditionFailed:
            return  # it is closed
        if held is None or held.record.keep:
            await self._records.end(session_id, caller, self._keeping.clock())
            self._opened.pop((caller, session_id), None)
        if self._live.holds(session_id, caller):
            await self._live.close(session_id, caller)

    def on_gone(self, listener: Callable[[str, str], None]) -> None:
        """See ``SessionStore``."""
        self._live.on_gone(listener)

    def sweep(self) -> None:
        """Park what has been idle, and delete what is too old. A timer must call it."""
        self._live.sweep()
        if self._purging is None or self._purging.done():
            self._purging = asyncio.create_task(self._purge())

    async def stop(self) -> None:
        """Let no work of a timer go on, and finish what was begun. What is kept stays."""
        if self._purging is not None:
            self._purging.cancel()
            await wait_until_done(self._purging)
        await self._records.close()

    async def _purge(self) -> None:
        now = self._keeping.clock()
        with suppress(ServingError):  # it is in the log, and tried again
            await self._records.purge(now - self._keeping.lifetime_s, now)
            self._held = await self._records.held()

    async def _wake(self, session_id: str, caller: str, image: SourceImage | None) -> None:
        """Take a parked session into memory. Raises PreconditionFailed (NEEDS_IMAGE) where there is none."""
        stored = await self._get(session_id, caller, image=image is None)
        if image is None:
            image = await run_in_executor(self._executor, partial(self._image, stored))
        session = await self._whole(stored.record, image)
        if self._live.find(session_id, caller) is None:  # another request may have done so meanwhile
            self._live.admit(session, self._keeping.clock() - stored.opened)

    async def _current(self, held: Session) -> Session:
        """A session that is held, as it lies in its place."""
        if await self._is_current(held):
            return held
        stored = await self._get(held.session_id, held.caller, image=False)
        changed = await self._whole(stored.record, held.image)
        if self._live.find(held.session_id, held.caller) is not None:  # it may have been closed meanwhile
            self._live.replace(changed)
        return changed

    async def _is_current(self, held: Session) -> bool:
        """Whether what is in memory is what is kept. Raises as ``SessionStore`` for what ended there."""
        if not held.record.keep:
            return True
        try:
            return await self._records.version(held.session_id, held.caller) == held.record.version
        except (NotFound, PreconditionFailed):
            self._live.drop(held.session_id, held.caller)
            raise

    async def _get(self, session_id: str, caller: str, *, image: bool) -> Stored:
        stored = await self._records.get(session_id, caller, image=image)
        if not self._left(stored.opened):
            await self._purge()
            raise ended(OLD)
        self._saw(caller, session_id, stored.opened)
        return stored

    def _saw(self, caller: str, session_id: str, opened: float) -> None:
        self._opened[caller, session_id] = opened
        if len(self._opened) > _MOST_SEEN:
            self._opened.pop(next(iter(self._opened)))

    def _image(self, stored: Stored) -> SourceImage:
        if stored.image is None:
            raise PreconditionFailed(NEEDS_IMAGE, Reason.NEEDS_IMAGE)
        tower = self._derivation.tower_image(stored.image.pixels)
        return SourceImage(stored.image.pixels, stored.image.embedding_key, tower)

    async def _whole(self, record: SessionRecord, image: SourceImage) -> Session:
        """With what is derived."""

        def derived(of: Round) -> Round:
            if of.used is None:
                return of
            referred = of.used.referred
            return replace(of, reference=self._derivation.reference(image, referred.mask, referred.round))

        rounds = await run_in_executor(self._executor, lambda: tuple(map(derived, record.rounds)))
        return Session(replace(record, rounds=rounds), image)

    def _summary(self, listed: Listed) -> SessionSummary:
        parked = not self._live.holds(listed.record.session_id, listed.record.caller)
        plain = SessionSummary.of(Snapshot(listed.record, self._left(listed.opened), parked))
        return replace(plain, rounds=listed.rounds)

    def _left(self, opened: float) -> float:
        return max(0.0, opened + self._keeping.lifetime_s - self._keeping.clock())
