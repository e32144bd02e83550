"""An image upload: a header, then chunks.

Knows the order of an ``OpenSession`` call's messages and what they may hold together. Does not know pixels,
callers or cached images.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from mediround.errors import InvalidArgument
from mediround.raw import PIXEL_TYPES, deep_form
from mediround.v1 import segmentation_pb2 as pb
from serving.api.identity import check_session_id
from serving.api.images import RawShape, check_raw
from serving.api.limits import Limits
from serving.errors import Exhausted, InvalidInput, Shed

MAX_CHUNK_BYTES = 1 << 20
_EMPTY = hashlib.sha256().digest()
_DIGEST_BYTES = len(_EMPTY)
_FIRST_SECONDS = 2.0
"""For a connection's own delays."""


@dataclass(frozen=True, slots=True)
class ReceivedImage:
    """What a caller sent."""

    shape: RawShape | None
    """None: the payload is a file."""
    promised: bytes
    """SHA-256 that the caller named; empty where none was."""
    payload: bytes
    """Empty: the caller asks for bytes that are held."""
    header: pb.ImageHeader
    """All that the caller says of the session."""

    @property
    def form(self) -> str:
        """Of a ``ContentAddress``."""
        return "file" if self.shape is None else self.shape.form

    @property
    def window(self) -> str:
        """What makes 8 bits of 16; empty for others."""
        return "" if self.shape is None else self.shape.window

    def digest(self) -> bytes:
        """SHA-256 of the payload. Raises InvalidInput when the caller named another."""
        digest = hashlib.sha256(self.payload).digest()
        if self.promised and self.promised != digest:
            raise InvalidInput("header.content_sha256", "must be the SHA-256 of the bytes sent")
        return digest


async def receive(
    messages: AsyncIterator[pb.OpenSessionRequest],
    limits: Limits,
    accepted: Callable[[], Awaitable[None]],
    take: Callable[[int], None],
) -> ReceivedImage:
    """Read a call's messages; ``accepted`` tells the caller that its header is taken, and the bytes may come.

    ``take`` reserves memory for each chunk, or raises.

    Raises:
        InvalidInput: a message is out of order, or one too many.
        Exhausted: the messages come too slowly.
    """
    pace = _Pace(limits)
    header = await _header(messages, pace)
    _check_session(header)
    shape = _shape(header, limits)
    if len(header.content_sha256) not in {0, _DIGEST_BYTES}:
        raise InvalidInput("header.content_sha256", f"must be {_DIGEST_BYTES} bytes, or empty")
    max_bytes = limits.max_image_bytes if shape is None else shape.nbytes
    if header.content_bytes > max_bytes:
        raise InvalidInput("header.content_bytes", f"must be at most the {max_bytes} allowed for this image")
    if header.content_sha256 == _EMPTY:
        raise InvalidInput("image", "must not be empty: it has 0 bytes")
    await accepted()
    payload = await _payload(messages, max_bytes, pace, take)
    if payload and header.content_bytes not in {0, len(payload)}:
        raise InvalidInput("header.content_bytes", f"must be the number of bytes that come: {len(payload)} did")
    if not payload and not header.content_sha256:
        raise InvalidInput(
            "chunk", "must be sent, or header.content_sha256 must name an image that the server holds"
        )
    return ReceivedImage(shape, header.content_sha256, payload, header)


async def _header(messages: AsyncIterator[pb.OpenSessionRequest], pace: _Pace) -> pb.ImageHeader:
    first = await _next(messages, pace, 0) or pb.OpenSessionRequest()
    if not first.HasField("header"):
        raise InvalidInput("header", "must be the first message")
    return first.header


@dataclass(frozen=True, slots=True)
class _Pace:
    """The slowest that chunks may come."""

    limits: Limits
    began: float = field(default_factory=time.monotonic)

    def seconds(self, received: int) -> float:
        """Until the next chunk must be here."""
        slowest = _FIRST_SECONDS + (received + MAX_CHUNK_BYTES) / self.limits.min_upload_rate
        return self.began + min(slowest, self.limits.upload_timeout) - time.monotonic()


async def _next(
    messages: AsyncIterator[pb.OpenSessionRequest], pace: _Pace, received: int
) -> pb.OpenSessionRequest | None:
    try:
        async with asyncio.timeout(pace.seconds(received)):
            return await anext(messages, None)
    except TimeoutError:
        words = (
            f"the image must arrive within {pace.limits.upload_timeout:g} s, "
            f"and at {pace.limits.min_upload_rate} bytes a second"
        )
        raise Exhausted(words, reason=Shed.SLOW_CALLER) from None


async def _payload(
    messages: AsyncIterator[pb.OpenSessionRequest], max_bytes: int, pace: _Pace, take: Callable[[int], None]
) -> bytes:
    payload = bytearray()
    while (message := await _next(messages, pace, len(payload))) is not None:
        if message.WhichOneof("part") != "chunk":
            raise InvalidInput("header", "must be sent once, before any chunk")
        chunk = message.chunk  # copied each time it is asked for
        if len(chunk) > MAX_CHUNK_BYTES:
            raise InvalidInput("chunk", f"must hold at most {MAX_CHUNK_BYTES} bytes")
        if len(payload) + len(chunk) > max_bytes:
            raise InvalidInput("chunk", f"all chunks together must hold at most {max_bytes} bytes")
        take(len(chunk))
        payload += chunk
    return bytes(payload)


def _check_session(header: pb.ImageHeader) -> None:
    if header.session_id:
        check_session_id(header.session_id, "header.session_id")
    elif header.resume:
        raise InvalidInput("header.session_id", "must name the session whose image is sent again")


def _shape(header: pb.ImageHeader, limits: Limits) -> RawShape | None:
    match header.WhichOneof("encoding"):
        case "encoded":
            return None
        case "raw":
            return _raw_shape(header.raw, limits)
        case _:
            raise InvalidInput("header.encoding", "must be set: encoded or raw")


def _raw_shape(raw: pb.RawPixels, limits: Limits) -> RawShape:
    if raw.pixel_type not in PIXEL_TYPES:
        raise InvalidInput("header.raw.pixel_type", "must be UINT8, UINT16 or INT16")
    try:
        deep = deep_form(raw)
    except InvalidArgument as error:
        violation = error.violations[0]
        raise InvalidInput(violation.field, violation.description) from None
    shape = RawShape(raw.height, raw.width, raw.channels, deep)
    check_raw(shape, limits)
    if shape.nbytes > limits.max_image_bytes:
        raise InvalidInput("header.raw", f"must have at most {limits.max_image_bytes} bytes; scale it down")
    return shape
