"""Decoded images that callers may open again by the digest of what they sent.

Knows callers, keys, a byte budget and an idle time; what was used longest ago leaves first. Nobody reaches
what another caller sent, even with the same digest. Does not know formats, the wire or sessions. All on one
event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from serving.api.images import RawShape
from serving.domain import U8
from serving.runtime.cache import CacheStats


@dataclass(frozen=True, slots=True)
class UploadKey:
    """What was sent, and by whom: equal bytes of another shape are another image."""

    caller: str
    digest: bytes
    """SHA-256 of the bytes as sent."""
    shape: RawShape | None
    """None: the bytes are a file, whose shape is its own."""


@dataclass(slots=True)
class _Held:
    rgb: U8
    last_used: float


class ImageCache:
    """Images, RGB uint8 (H, W, 3), within a byte budget, until nobody asked for them for a while."""

    def __init__(self, max_bytes: int, idle_timeout_s: float, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds, never backwards."""
        self._max_bytes, self._idle_timeout, self._clock = max_bytes, idle_timeout_s, clock
        self._images: OrderedDict[UploadKey, _Held] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._hits = self._misses = self._evictions = 0

    @property
    def nbytes(self) -> int:
        return self._bytes

    @property
    def stats(self) -> CacheStats:
        """A miss is an image that had to be sent."""
        return CacheStats(self._hits, self._misses, self._evictions, self._bytes)

    def get(self, key: UploadKey) -> U8 | None:
        """The image, if it is still held."""
        self.sweep()
        held = self._images.get(key)
        if held is None:
            return None
        self._hits += 1
        held.last_used = self._clock()
        self._images.move_to_end(key)
        return held.rgb

    def put(self, key: UploadKey, rgb: U8) -> None:
        """Hold an image that was sent; one larger than the whole budget is not held."""
        self._misses += key not in self._images
        if rgb.nbytes > self._max_bytes:
            return
        if key in self._images:
            self._drop(key)
        self._images[key] = _Held(rgb, self._clock())
        self._bytes += rgb.nbytes
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._images)))
            self._evictions += 1

    def sweep(self) -> None:
        """Drop what has been idle for too long."""
        deadline = self._clock() - self._idle_timeout
        while self._images and next(iter(self._images.values())).last_used <= deadline:
            self._drop(next(iter(self._images)))

    def _drop(self, key: UploadKey) -> None:
        self._bytes -= self._images.pop(key).rgb.nbytes
