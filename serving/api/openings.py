"""Openings: an image that comes or is held, and the session on it; a parked session that gets its image again.

Knows whose turn it is to be decoded, the memory that images on their way may take, and images held for the caller.
Does not know gRPC, or how a session is kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from mediround.v1 import segmentation_pb2 as pb
from serving import request_context
from serving.admission.permits import ByteBudget
from serving.admission.turns import Turns
from serving.api.description import ServerDescription
from serving.api.identity import check_session
from serving.api.image_cache import ImageCache, UploadKey
from serving.api.images import rgb_of_file, rgb_of_pixels
from serving.api.repetition import request_key
from serving.api.requests import RequestReader
from serving.api.upload import ReceivedImage, receive
from serving.domain import U8, ContentAddress, Priority, SourceImage
from serving.errors import NotFound, PreconditionFailed, Shed
from serving.history.record import Session, SessionRecord
from serving.observer import Observer
from serving.orchestrator import Orchestrator
from serving.runtime.stopwatch import Stopwatch
from serving.runtime.tasks import run_in_executor
from serving.sessions.encode_on_open import Opening
from serving.sessions.keeper import NewSession

_MAX_OPENINGS_WAITING = 512
"""Their bytes have a bound of their own."""

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that its caller may ask in."""

    record: SessionRecord
    upload_skipped: bool


class Openings:
    """Opens sessions for callers."""

    def __init__(
        self, orchestrator: Orchestrator, description: ServerDescription, uploads: ImageCache, observer: Observer
    ) -> None:
        limits = description.limits
        self._keeper, self._ahead = orchestrator.keeper, orchestrator.encode_on_open
        self._requests, self._limits = RequestReader(description), limits
        self._uploads, self._observer = uploads, observer
        self._turns = Turns(limits.max_concurrent_uploads, _MAX_OPENINGS_WAITING, "images", Shed.UPLOADS)
        images = max(2, limits.max_concurrent_uploads)  # of which one caller may send half
        self._bytes = ByteBudget(images * limits.max_image_bytes, "images that are being sent", Shed.UPLOADS)

    async def open(
        self,
        messages: AsyncIterator[pb.OpenSessionRequest],
        caller: str,
        account: str,
        metadata: Metadata | None,
        accepted: Callable[[], Awaitable[None]],
    ) -> Opened:
        """Read a call to its end, and open what it asks for. See ``receive`` and ``SessionKeeper``."""
        with self._bytes.share((caller, account)) as take:
            received = await receive(messages, self._limits, accepted, take)
            check_session(metadata, received.header.session_id)
            priority = self._requests.priority(received.header.priority, "header.priority")
            with self._ahead.opening(caller, wanted=priority is Priority.INTERACTIVE) as opening:
                # A caller that still sends, or asks for an image that is held, takes no turn from work.
                async with self._turns.turn(priority) if received.payload else nullcontext():
                    record, image = await self._session(caller, account, received, opening)
                if image is not None:
                    opening.opened(Session(record, image))
            return Opened(record, not received.payload)

    async def _session(
        self, caller: str, account: str, received: ReceivedImage, opening: Opening
    ) -> tuple[SessionRecord, SourceImage | None]:
        """The session, and its image where it has not had it before."""
        header = received.header
        digest = await self._digest(received)
        key = request_key(request_context.repeatable_id(), "OpenSession", caller, _sameness(header, digest))
        new = NewSession(caller, header.session_id, digest, header.keep, key, account, received.window)
        if header.resume:
            return await self._keeper.resume(new, partial(self._image, caller, received, digest, opening))
        if new.session_id and (before := await self._keeper.opened_before(new)):
            return before, None
        try:
            return await self._opened(new, caller, received, opening)
        except PreconditionFailed:
            # Perhaps this request itself came twice, and met itself; else the id is refused again.
            if before := await self._keeper.opened_before(new):
                return before, None
            raise

    async def _opened(
        self, new: NewSession, caller: str, received: ReceivedImage, opening: Opening
    ) -> tuple[SessionRecord, SourceImage]:
        session = await self._keeper.open(new, await self._image(caller, received, new.content, opening))
        return session.record, session.image

    async def _digest(self, received: ReceivedImage) -> bytes:
        """SHA-256 of what was sent, or of what is held. Raises InvalidInput where the caller named another."""
        if not received.payload:
            return received.promised
        return await run_in_executor(self._keeper.opening_executor, received.digest)

    async def _image(self, caller: str, received: ReceivedImage, digest: bytes, opening: Opening) -> SourceImage:
        """Decoded and prepared, or held. Raises NotFound for bytes that are neither sent nor held."""
        key = UploadKey(caller, ContentAddress(received.form, digest))
        if not received.payload:
            held = self._uploads.get(key)
            if held is None:
                raise NotFound("no image of this content_sha256 is held: its bytes must be sent")
            return held
        with Stopwatch() as decoding:
            rgb = await run_in_executor(self._keeper.opening_executor, partial(self._decoded, received))
        with Stopwatch() as preprocessing:
            image = await self._keeper.prepare(rgb, key.address, opening.decoded)
        self._uploads.put(key, image)
        self._observer.opened(decoding.seconds, preprocessing.seconds)
        return image

    def _decoded(self, received: ReceivedImage) -> U8:
        if received.shape is not None:
            return rgb_of_pixels(received.payload, received.shape)
        return rgb_of_file(received.payload, self._limits)


def _sameness(header: pb.ImageHeader, digest: bytes) -> bytes:
    """What a repeated header has in common, also where one of the two names its bytes and the other sends them."""
    same = pb.ImageHeader()
    same.CopyFrom(header)
    same.content_sha256 = digest
    same.ClearField("content_bytes")
    return same.SerializeToString(deterministic=True)
