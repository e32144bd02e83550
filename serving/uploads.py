"""Decoded images that callers may open again by the digest of what they sent.

Knows callers, keys and a byte budget; what was used longest ago leaves first. Nobody reaches what another
caller sent, even with the same digest. Does not know formats, the wire or sessions. All on one event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from serving.domain import U8
from serving.images import RawShape


@dataclass(frozen=True, slots=True)
class UploadKey:
    """What was sent, and by whom: equal bytes of another shape are another image."""

    caller: str
    digest: bytes
    """SHA-256 of the bytes as sent."""
    shape: RawShape | None
    """None: the bytes are a file, whose shape is its own."""


class Uploads:
    """Images, RGB uint8 (H, W, 3), within a byte budget."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._images: OrderedDict[UploadKey, U8] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        return self._bytes

    def get(self, key: UploadKey) -> U8 | None:
        """The image, if it is still held."""
        rgb = self._images.get(key)
        if rgb is not None:
            self._images.move_to_end(key)
        return rgb

    def put(self, key: UploadKey, rgb: U8) -> None:
        """Hold an image; one larger than the whole budget is not held."""
        if rgb.nbytes > self._max_bytes:
            return
        previous = self._images.pop(key, None)
        self._bytes += rgb.nbytes - (previous.nbytes if previous is not None else 0)
        self._images[key] = rgb
        while self._bytes > self._max_bytes:
            _, oldest = self._images.popitem(last=False)
            self._bytes -= oldest.nbytes
