"""An image as it arrives at a scripted server: its digest and its size; its pixels are not looked at.

Knows the order of an opening's messages, and where PNG, JPEG and TIFF files say how large they are. Does not
know sessions. What only decoding shows (a torn file, colours, frames) is not refused here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from mediround._description import Limits
from mediround.image import CHUNK_BYTES
from mediround.pictures import WINDOWING
from mediround.raw import PIXEL_TYPES, DeepForm, deep_form
from mediround.testing._rules import invalid, priority_of
from mediround.v1 import segmentation_pb2 as pb

_DIGEST_BYTES = hashlib.sha256().digest_size
_PNG, _JPEG, _TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", {b"II*\0": "<", b"MM\0*": ">"}
_NO_FRAME = {0xC4, 0xC8, 0xCC}
"""Markers among JPEG's SOF0 to SOF15 that begin no frame: DHT, JPG, DAC."""
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SHORT = 256, 257, 3


@dataclass(frozen=True, slots=True)
class RawShape:
    """Raw pixels; ``deep``: of 16 bits, and what they mean."""

    height: int
    width: int
    channels: int
    deep: DeepForm | None

    @property
    def nbytes(self) -> int:
        return self.height * self.width * self.channels * (2 if self.deep else 1)


@dataclass(frozen=True, slots=True)
class ReceivedImage:
    """What an opening brought.

    Attributes:
        digest: SHA-256 of the bytes, as they came or as the caller named it.
        raw: the form of raw pixels; None: the bytes are a file.
        size: (height, width) of the image; None: no bytes came, the caller asks for those that are held.
        header: as it came.
    """

    digest: bytes
    raw: RawShape | None
    size: tuple[int, int] | None
    header: pb.ImageHeader


async def receive(
    messages: AsyncIterator[pb.OpenSessionRequest], limits: Limits, accepted: Callable[[], Awaitable[None]]
) -> ReceivedImage:
    """Read an opening's messages; ``accepted`` lets the bytes come. Raises InvalidArgument."""
    first = await anext(messages, pb.OpenSessionRequest())
    if not first.HasField("header"):
        raise invalid("header", "must be the first message")
    header, raw = first.header, _raw_shape(first.header, limits)
    if len(header.content_sha256) not in {0, _DIGEST_BYTES}:
        raise invalid("header.content_sha256", f"must be {_DIGEST_BYTES} bytes, or empty")
    max_bytes = limits.max_image_bytes if raw is None else raw.nbytes
    if header.content_bytes > max_bytes:
        raise invalid("header.content_bytes", f"must be at most the {max_bytes} allowed for this image")
    if header.content_sha256 == hashlib.sha256().digest():
        raise invalid("image", "must not be empty: it has 0 bytes")
    await accepted()
    payload = await _payload(messages, max_bytes)
    if payload and header.content_bytes not in {0, len(payload)}:
        raise invalid("header.content_bytes", f"must be the number of bytes that come: {len(payload)} did")
    priority_of(header.priority, "header.priority")
    if not payload:
        if not header.content_sha256:
            raise invalid(
                "chunk", "must be sent, or header.content_sha256 must name an image that the server holds"
            )
        return ReceivedImage(header.content_sha256, raw, None, header)
    digest = hashlib.sha256(payload).digest()
    if header.content_sha256 not in {b"", digest}:
        raise invalid("header.content_sha256", "must be the SHA-256 of the bytes sent")
    return ReceivedImage(digest, raw, _size(payload, raw, limits), header)


async def _payload(messages: AsyncIterator[pb.OpenSessionRequest], allowed: int) -> bytes:
    payload = bytearray()
    async for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise invalid("header", "must be sent once, before any chunk")
        if len(message.chunk) > CHUNK_BYTES:
            raise invalid("chunk", f"must hold at most {CHUNK_BYTES} bytes")
        if len(payload) + len(message.chunk) > allowed:
            raise invalid("chunk", f"all chunks together must hold at most {allowed} bytes")
        payload += message.chunk
    return bytes(payload)


def _raw_shape(header: pb.ImageHeader, limits: Limits) -> RawShape | None:
    if header.WhichOneof("encoding") == "encoded":
        return None
    if header.WhichOneof("encoding") != "raw":
        raise invalid("header.encoding", "must be set: encoded or raw")
    raw = header.raw
    if raw.pixel_type not in PIXEL_TYPES:
        raise invalid("header.raw.pixel_type", "must be UINT8, UINT16 or INT16")
    form = deep_form(raw)
    if raw.channels not in {1, 3}:
        raise invalid("header.raw.channels", "must be 1 (grey) or 3 (RGB)")
    _check_size(raw.height, raw.width, limits)
    shape = RawShape(raw.height, raw.width, raw.channels, form)
    if shape.nbytes > limits.max_image_bytes:
        raise invalid("header.raw", f"must have at most {limits.max_image_bytes} bytes; scale it down")
    return shape


def _size(payload: bytes, raw: RawShape | None, limits: Limits) -> tuple[int, int]:
    if raw is not None:
        expected = raw.nbytes
        if len(payload) != expected:
            raise invalid(
                "chunk", f"must hold the {expected} bytes of the header's shape; {len(payload)} were sent"
            )
        return raw.height, raw.width
    try:
        height, width = _file_size(payload)
    except (struct.error, IndexError, KeyError) as error:
        raise invalid("image", f"is truncated or malformed ({type(error).__name__})") from None
    _check_size(height, width, limits)
    return height, width


def _check_size(height: int, width: int, limits: Limits) -> None:
    if not height or not width:
        raise invalid("image", "must have pixels")
    if height * width > limits.max_image_pixels:
        raise invalid("image", f"must have at most {limits.max_image_pixels} pixels; scale it down")
    if max(height, width) > limits.max_aspect_ratio * min(height, width):
        words = (
            f"the longer side must be at most {limits.max_aspect_ratio} times the shorter; it is {height}x{width}"
        )
        raise invalid("image", words)


def _file_size(payload: bytes) -> tuple[int, int]:
    """(height, width), as the file's header has it."""
    if payload.startswith(_PNG):
        width, height, depth = struct.unpack_from(">IIB", payload, 16)
        if depth > 8:  # bits
            raise invalid("image", WINDOWING)
        return height, width
    if payload.startswith(_JPEG):
        return _jpeg_size(payload)
    if payload[:4] in _TIFF:
        return _tiff_size(payload, _TIFF[payload[:4]])
    raise invalid("image", "must be a PNG, JPEG or TIFF file")


def _jpeg_size(payload: bytes) -> tuple[int, int]:
    """Source: ITU-T T.81, B.1.1 and B.2.2."""
    position = 2
    while True:
        marker = payload[position + 1]
        if marker in {0xFF, 0x01, *range(0xD0, 0xD9)}:  # a fill byte, or a marker that nothing follows
            position += 1 if marker == 0xFF else 2  # JPEG's fill byte
            continue
        length, _, height, width = struct.unpack_from(">HBHH", payload, position + 2)
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:  # SOF0 to SOF15
            return height, width
        position += 2 + length


def _tiff_size(payload: bytes, order: str) -> tuple[int, int]:
    """Source: TIFF 6.0, section 2: the first image file directory."""
    (start,) = struct.unpack_from(f"{order}I", payload, 4)
    (count,) = struct.unpack_from(f"{order}H", payload, start)
    found = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", payload, entry)
        (found[tag],) = struct.unpack_from(f"{order}{'H' if kind == _TIFF_SHORT else 'I'}", payload, entry + 8)
    return found[_TIFF_HEIGHT], found[_TIFF_WIDTH]
