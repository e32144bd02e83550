"""Images, decoded and prepared, that callers may open again by the digest of the bytes they sent.

Knows callers, keys, a byte budget and an idle time; the least recently used is evicted first. One caller never
gets what another sent, even with the same digest. Does not know formats, the wire or sessions. All on one event
loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.domain import ContentAddress, SourceImage
from serving.runtime.cache import ByteLru
from serving.stats import CacheStats


@dataclass(frozen=True, slots=True)
class UploadKey:
    """The caller, and what was sent: equal bytes of another shape are another image."""

    caller: str
    address: ContentAddress


@dataclass(slots=True)
class _Held:
    image: SourceImage
    last_used: float


class ImageCache:
    """Images within a byte budget, until they were idle for too long."""

    def __init__(self, max_bytes: int, idle_timeout_s: float, clock: Callable[[], float]) -> None:
        """``clock`` gives seconds, never backwards."""
        self._images: ByteLru[UploadKey, _Held] = ByteLru(max_bytes, lambda held: held.image.nbytes)
        self._idle_timeout, self._clock = idle_timeout_s, clock

    @property
    def nbytes(self) -> int:
        return self._images.nbytes

    @property
    def stats(self) -> CacheStats:
        """A miss is an image that had to be sent."""
        return self._images.stats

    def get(self, key: UploadKey) -> SourceImage | None:
        """The image, if it is still held."""
        self.sweep()
        held = self._images.get(key)
        if held is None:
            return None
        self._images.count(hit=True)
        held.last_used = self._clock()
        return held.image

    def put(self, key: UploadKey, image: SourceImage) -> None:
        """Hold an image that was sent; one larger than the whole budget is not held."""
        if key not in self._images:
            self._images.count(hit=False)
        self._images.put(key, _Held(image, self._clock()))

    def sweep(self) -> None:
        """Drop what has been idle for too long."""
        deadline = self._clock() - self._idle_timeout
        while (oldest := self._images.oldest()) and oldest[1].last_used <= deadline:
            self._images.drop(oldest[0])
