"""An image upload: a header, then chunks.

Knows the order of an ``OpenSession`` call's messages and what they may hold together. Does not know pixels,
callers or cached images.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from mediround.pictures import WINDOWING
from mediround.v1 import segmentation_pb2 as pb
from serving.api.images import RawShape, check_raw
from serving.api.limits import Limits
from serving.errors import InvalidInput

MAX_CHUNK_BYTES = 1 << 20
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class ReceivedImage:
    """What a caller sent."""

    shape: RawShape | None
    """None: the payload is a file."""
    promised: bytes
    """SHA-256 that the caller named; empty where none was."""
    payload: bytes
    """Empty: the caller asks for bytes that are held."""

    def digest(self) -> bytes:
        """SHA-256 of the payload. Raises InvalidInput when the caller named another."""
        digest = hashlib.sha256(self.payload).digest()
        if self.promised and self.promised != digest:
            raise InvalidInput("header.content_sha256", "must be the SHA-256 of the bytes sent")
        return digest


async def receive(
    messages: AsyncIterator[pb.OpenSessionRequest], limits: Limits, accepted: Callable[[], Awaitable[None]]
) -> ReceivedImage:
    """Read a call's messages; ``accepted`` tells the caller that its header is taken, and the bytes may come.

    Raises InvalidInput as soon as one is out of order or one too many.
    """
    header = await _header(messages)
    shape = _shape(header, limits)
    if len(header.content_sha256) not in {0, _DIGEST_BYTES}:
        raise InvalidInput("header.content_sha256", f"must be {_DIGEST_BYTES} bytes, or empty")
    max_bytes = limits.max_image_bytes if shape is None else shape.nbytes
    if header.content_bytes > max_bytes:
        raise InvalidInput("header.content_bytes", f"must be at most the {max_bytes} allowed for this image")
    await accepted()
    payload = await _payload(messages, max_bytes)
    if payload and header.content_bytes not in {0, len(payload)}:
        raise InvalidInput("header.content_bytes", f"must be the number of bytes that come: {len(payload)} did")
    if not payload and not header.content_sha256:
        raise InvalidInput(
            "chunk", "must be sent, or header.content_sha256 must name an image that the server holds"
        )
    return ReceivedImage(shape, header.content_sha256, payload)


async def _header(messages: AsyncIterator[pb.OpenSessionRequest]) -> pb.ImageHeader:
    first = await anext(messages, pb.OpenSessionRequest())
    if not first.HasField("header"):
        raise InvalidInput("header", "must be the first message")
    return first.header


async def _payload(messages: AsyncIterator[pb.OpenSessionRequest], max_bytes: int) -> bytes:
    payload = bytearray()
    async for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise InvalidInput("header", "must be sent once, before any chunk")
        if len(message.chunk) > MAX_CHUNK_BYTES:
            raise InvalidInput("chunk", f"must hold at most {MAX_CHUNK_BYTES} bytes")
        if len(payload) + len(message.chunk) > max_bytes:
            raise InvalidInput("chunk", f"all chunks together must hold at most {max_bytes} bytes")
        payload += message.chunk
    return bytes(payload)


def _shape(header: pb.ImageHeader, limits: Limits) -> RawShape | None:
    match header.WhichOneof("encoding"):
        case "encoded":
            return None
        case "raw":
            return _raw_shape(header.raw, limits)
        case _:
            raise InvalidInput("header.encoding", "must be set: encoded or raw")


def _raw_shape(raw: pb.RawPixels, limits: Limits) -> RawShape:
    if raw.pixel_type == pb.PIXEL_TYPE_UINT16:
        raise InvalidInput("header.raw.pixel_type", WINDOWING)
    if raw.pixel_type != pb.PIXEL_TYPE_UINT8:
        raise InvalidInput("header.raw.pixel_type", "must be UINT8")
    shape = RawShape(raw.height, raw.width, raw.channels)
    check_raw(shape, limits)
    if shape.nbytes > limits.max_image_bytes:
        raise InvalidInput("header.raw", f"must have at most {limits.max_image_bytes} bytes; scale it down")
    return shape
