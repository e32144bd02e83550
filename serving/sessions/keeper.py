"""The life of sessions: opened, taken up again, read, undone, branched, corrected by hand, closed.

Knows what each of these needs of a session and leaves of it. Does not know rounds' work
(``serving.orchestrator``), messages, or where sessions lie.

Concurrency: what changes a session waits for its turn, as rounds do; what reads it does not. A request that comes
again is answered as it was the first time, and finds that out when its turn has come: so it waits for the first.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from serving.domain import U8, ContentAddress, DecodedImage, GivenMask, Mask, SourceImage
from serving.errors import Exhausted, NotFound, PreconditionFailed, Reason
from serving.geometry import Geometry
from serving.history import changes
from serving.history.record import RequestKey, RequestRecord, Session, SessionRecord, SessionSummary, Snapshot
from serving.history.rounds import Amendment, RoundResult
from serving.ports import SessionStore
from serving.runtime.tasks import run_in_executor


@dataclass(frozen=True, slots=True)
class NewSession:
    """What a caller says of a session that it opens."""

    caller: str
    session_id: str = ""
    """Empty: one is made."""
    content: bytes = b""
    """SHA-256 of the image's bytes as they were sent."""
    keep: bool = False
    request: RequestKey | None = None
    """What the opening is known by when it comes again."""
    account: str = ""
    """Of a caller that is nobody in particular: in whose budget it counts."""
    window: str = ""
    """What makes 8 bits of the image's 16; empty where it was sent in 8."""


@dataclass(frozen=True, slots=True)
class Held:
    """A session whose turn it is to be changed by a request."""

    record: SessionRecord
    before: RequestRecord | None
    """What the request was answered with before."""
    image: SourceImage | PreconditionFailed | Exhausted
    """Or why it is not here: a request that was answered needs none."""

    @property
    def session(self) -> Session:
        """Raises PreconditionFailed (NEEDS_IMAGE) or Exhausted."""
        if isinstance(self.image, SourceImage):
            return Session(self.record, self.image)
        raise self.image


@dataclass(frozen=True, slots=True)
class SessionKeeper:
    """Keeps the sessions of one model."""

    store: SessionStore
    geometry: Geometry
    opening_executor: Executor
    """Works on the pixels of new images."""
    model_digest: str
    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""

    async def prepare(
        self,
        rgb: U8,
        address: ContentAddress | None = None,
        decoded: Callable[[DecodedImage], None] = lambda _: None,
    ) -> SourceImage:
        """What sessions need of an image, RGB uint8 (H, W, 3); ``address``: what it was read from, where known.

        ``decoded`` hears of it as soon as it can be encoded, and before the rest is made.
        """
        image = await run_in_executor(self.opening_executor, partial(self.geometry.decoded_image, rgb, address))
        decoded(image)
        return await run_in_executor(self.opening_executor, partial(self.geometry.with_tower, image))

    async def open(self, new: NewSession, image: SourceImage) -> Session:
        """Open a session.

        Raises:
            Exhausted: no more sessions are held.
            PreconditionFailed: the id was used (SESSION_ID_USED), perhaps by this request: see ``opened_before``.
        """
        record = self._record(new, image.size)
        session = Session(changes.with_request(record, new.request), image)
        await self.store.create(session)
        return session

    async def opened_before(self, new: NewSession) -> SessionRecord | None:
        """The session, where this very request opened it before; None: its id is new.

        Raises:
            PreconditionFailed: another request has used the id.
        """
        try:
            record = (await self.store.read(new.session_id, new.caller)).record
        except NotFound as error:
            if error.reason is None:
                return None
            raise _used() from None
        except PreconditionFailed:
            raise _used() from None
        if changes.earlier_request(record, new.request) is None:
            raise _used()
        return record

    async def resume(
        self, new: NewSession, prepared: Callable[[], Awaitable[SourceImage]]
    ) -> tuple[SessionRecord, SourceImage | None]:
        """Give a parked session its image again: the session, and the image if it needed
        one; a session of another model needs none, for it is read alone.

        Raises:
            PreconditionFailed: another image; and as ``read`` does.
        """
        snapshot = await self.read(new.session_id, new.caller)
        record = snapshot.record
        asked_again = snapshot.parked and record.model_digest == self.model_digest
        same = (record.content, record.window) == (new.content, new.window)
        image = await prepared() if asked_again and same else None
        if not same or (image is not None and record.size != image.size):
            raise PreconditionFailed("the session is on another image", Reason.OTHER_IMAGE)
        if image is not None:
            await self.store.resume(new.session_id, new.caller, image)
        return record, image

    async def read(self, session_id: str, caller: str) -> Snapshot:
        """The session as it is, without waiting for its rounds under way. See ``SessionStore``."""
        return await self.store.read(session_id, caller)

    async def mask(self, session_id: str, caller: str, digest: bytes) -> Mask:
        """Any mask that the session holds. Raises PreconditionFailed where it holds none of this digest."""
        mask = changes.held_masks((await self.read(session_id, caller)).record).get(digest)
        if mask is None:
            raise changes.mask_not_held()
        return mask

    async def mask_of_round(self, session_id: str, caller: str, round_id: str, *, original: bool) -> Mask:
        """A round's mask as it is, or as it was before it was amended. Raises PreconditionFailed where it has
        none.
        """
        record = (await self.read(session_id, caller)).record
        match = record.rounds[changes.index_of(record, round_id)]
        if match.segmentation is None or match.mask is None:
            raise PreconditionFailed("the round has no mask", Reason.NO_MASK)
        return match.segmentation.mask if original else match.mask

    async def page(self, caller: str, after: tuple[float, str] | None, count: int) -> list[SessionSummary]:
        """A caller's sessions, the latest opened first. See ``SessionStore``."""
        return await self.store.page(caller, after, count)

    def expires_at(self, session_id: str, caller: str) -> float:
        """When the session ends if nothing is asked of it from now on, in seconds since the epoch."""
        return self.clock() + self.store.seconds_left(session_id, caller)

    @asynccontextmanager
    async def exclusive(self, session_id: str, caller: str, key: RequestKey | None) -> AsyncIterator[Held]:
        """The session, for a request that changes it, when its turn comes.

        Raises:
            PreconditionFailed: its rounds are another model's, whatever else it lacks; the request's id stands for
                another request; and as ``SessionStore.exclusive`` does, unless the request was answered before.
        """
        async with AsyncExitStack() as stack:
            try:
                session = await stack.enter_async_context(self.store.exclusive(session_id, caller))
            except (PreconditionFailed, Exhausted) as refusal:
                held = self._held((await self.read(session_id, caller)).record, key, refusal)
                if held.before is None:
                    raise
            else:
                held = self._held(session.record, key, session.image)
            yield held

    def _held(
        self, record: SessionRecord, key: RequestKey | None, image: SourceImage | PreconditionFailed | Exhausted
    ) -> Held:
        """Raises PreconditionFailed: OTHER_MODEL, IDEMPOTENCY_MISMATCH."""
        if record.model_digest != self.model_digest:
            words = "the session's rounds are another model's: it may be read, not changed"
            raise PreconditionFailed(words, Reason.OTHER_MODEL)
        return Held(record, changes.earlier_request(record, key), image)

    async def rewind(
        self, session_id: str, caller: str, count: int, expected: int | None, key: RequestKey | None
    ) -> int:
        """Keep the first ``count`` rounds; how many the session had then.

        Raises:
            InvalidInput: it has fewer.
            MovedOn: it has not as many rounds as ``expected``.
        """
        async with self.exclusive(session_id, caller, key) as held:
            if held.before:
                return held.before.rounds
            changes.check_expected(held.record, expected)
            await self.store.commit(changes.with_first_rounds(held.record, count, key))
            return count

    async def fork(self, session_id: str, new: NewSession, count: int | None, expected: int | None) -> int:
        """Open a session on the same image with the first ``count`` rounds; None: all. How many it began with.

        Raises:
            InvalidInput: there are fewer.
            MovedOn: the session has not as many rounds as ``expected``.
            PreconditionFailed: the new id was used before.
        """
        if before := await self.opened_before(new):
            return _rounds_first(before, new)
        async with self.exclusive(session_id, new.caller, None) as held:
            session = held.session
            if before := await self.opened_before(new):  # a repetition that met the first
                return _rounds_first(before, new)
            changes.check_expected(session.record, expected)
            branch = self._record(new, session.record.size)
            record = changes.branch_of(session.record, count, branch, new.request)
            await self.store.create(Session(record, session.image))
            return len(record.rounds)

    async def amend(
        self,
        session_id: str,
        caller: str,
        round_id: str,
        given: GivenMask,
        *,
        expected: int | None,
        key: RequestKey | None,
    ) -> RoundResult:
        """Put a mask in place of a round's. By the digest of its original one, that is in its place again.

        Raises:
            PreconditionFailed: the round is not there any more, or has no mask; or the session has no mask of this
                digest.
            MovedOn: the session has not as many rounds as ``expected``.
        """
        async with self.exclusive(session_id, caller, key) as held:
            if held.before:
                return held.before.results[0]
            changes.check_expected(held.record, expected)
            record = _amended(held.record, round_id, given, key)
            await self.store.commit(record)
            index = changes.index_of(record, round_id)
            return changes.untimed_result(index, record.rounds[index])

    async def close(self, session_id: str, caller: str) -> None:
        """Close a session. Raises NotFound when the caller has none of this id."""
        await self.store.close(session_id, caller)

    def _record(self, new: NewSession, size: tuple[int, int]) -> SessionRecord:
        return SessionRecord(
            session_id=new.session_id or secrets.token_urlsafe(16),
            caller=new.caller,
            size=size,
            content=new.content,
            model_digest=self.model_digest,
            keep=new.keep,
            opened_at=self.clock(),
            window=new.window,
            account=new.account,
        )


def _amended(record: SessionRecord, round_id: str, given: GivenMask, key: RequestKey | None) -> SessionRecord:
    index = changes.index_of(record, round_id)
    own = record.rounds[index].segmentation
    if own is None:
        raise PreconditionFailed(f"round {index} has no mask to amend", Reason.NO_MASK)
    mask = given.mask or changes.held_masks(record).get(given.digest)
    if mask is None:
        raise changes.mask_not_held()
    amendment = None if mask.digest == own.mask.digest else Amendment(mask, given.origin)
    return changes.with_amendment(record, index, amendment, key)


def _rounds_first(record: SessionRecord, new: NewSession) -> int:
    """How many rounds a session had when its request was answered first."""
    before = changes.earlier_request(record, new.request)
    return len(record.rounds) if before is None else before.rounds


def _used() -> PreconditionFailed:
    words = "this session id was used before: a new session needs a new one"
    return PreconditionFailed(words, Reason.SESSION_ID_USED)
