"""Masks that callers give: from messages into masks of the domain, or a refusal that says what to change.

Knows sizes and encodings. Does not know sessions, or what a mask is for. Decoding takes milliseconds for a large
image: it is for a worker thread. Errors' paths are within the message that is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mediround import masks
from mediround.v1 import segmentation_pb2 as pb
from serving.api.images import bits_of_png
from serving.domain import Bits, GivenMask, Mask
from serving.errors import InvalidInput
from serving.pixels.masks import pack_mask

DIGEST_BYTES = 32
MAX_ORIGIN_BYTES = 64
_LONGEST_RUN_BYTES = 7
"""Of one run in COCO's compressed run lengths: a mask has at most one run a pixel, and one."""


def masks_in(questions: Iterable[pb.Question]) -> int:
    """How many masks come with them."""
    return sum(each.HasField("seed_mask") + each.given_mask.HasField("mask") for each in questions)


@dataclass(frozen=True, slots=True)
class MaskReader:
    """Reads masks that are given to one session."""

    size: tuple[int, int]
    """(height, width) of its image."""
    max_bytes: int
    """Of a mask as it is sent."""

    @property
    def mask_bytes(self) -> int:
        """Memory that one takes."""
        return math.ceil(self.size[0] * self.size[1] / 8)

    def mask(self, message: pb.Mask) -> Mask:
        """Raises InvalidInput for anything but a mask of the image's size that has a pixel set."""
        height, width = self.size
        if (message.height, message.width) != self.size:
            words = f"must be of the image's size, {height}x{width}; it is {message.height}x{message.width}"
            raise InvalidInput("", words)
        if not 0 < len(message.data) <= self.max_bytes:
            raise InvalidInput("data", f"must hold 1 to {self.max_bytes} bytes; it holds {len(message.data)}")
        packed = pack_mask(self._bits(message))
        if not packed.area:
            raise InvalidInput("", "must have a pixel set: a mask without one has no crop and no box")
        return packed

    def _bits(self, message: pb.Mask) -> Bits:
        encoding = message.encoding or pb.MASK_ENCODING_COCO_RLE
        if encoding == pb.MASK_ENCODING_PNG:
            return bits_of_png(message.data, *self.size)
        if encoding not in {pb.MASK_ENCODING_COCO_RLE, pb.MASK_ENCODING_PACKED_BITS}:
            raise InvalidInput("encoding", "must be COCO_RLE, PACKED_BITS or PNG")
        height, width = self.size
        if len(message.data) > _LONGEST_RUN_BYTES * (height * width + 1):
            raise InvalidInput("data", "is longer than any mask of this size")
        try:
            return masks.decode(message.data, encoding, height, width)
        except ValueError as error:
            raise InvalidInput("data", f"is truncated or malformed: {error}") from None


def given_mask(message: pb.GivenMask, reader: MaskReader | None) -> GivenMask:
    """``reader`` is there where a mask comes. Raises InvalidInput."""
    check_origin(message.origin, "origin")
    match message.WhichOneof("given"):
        case "mask" if reader is not None:
            try:
                mask = reader.mask(message.mask)
            except InvalidInput as error:
                raise error.inside("mask") from None
            return GivenMask(mask.digest, mask, message.origin)
        case "mask_digest":
            check_digest(message.mask_digest, "mask_digest")
            return GivenMask(message.mask_digest, None, message.origin)
        case _:
            raise InvalidInput("", "must hold a mask, or the digest of one")


def check_digest(digest: bytes, field: str) -> None:
    """Raises InvalidInput (``field``) for what no mask is named by."""
    if len(digest) != DIGEST_BYTES:
        raise InvalidInput(field, f"must be the {DIGEST_BYTES} bytes of a result's mask_digest")


def check_origin(origin: str, field: str) -> None:
    """Raises InvalidInput (``field``)."""
    if len(origin.encode(errors="surrogatepass")) > MAX_ORIGIN_BYTES or not origin.isprintable():
        raise InvalidInput(field, f"must be at most {MAX_ORIGIN_BYTES} bytes of printable UTF-8")
