"""Pixels that were sent once, so that a dialogue's next rounds name them by digest.

Knows a byte budget. Does not know messages. Pixels are found only by the tenant who sent them: that another
tenant has the same picture is not to be learnt here.
"""

from __future__ import annotations

from collections import OrderedDict

from serving.domain import TowerImage
from serving.runtime.cache import CacheStats


class ImageCache:
    """The least recently used are given up first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[tuple[str, str], TowerImage] = OrderedDict()
        self.nbytes = 0
        self._hits = self._misses = self._evictions = 0

    @property
    def stats(self) -> CacheStats:
        """A miss is a picture that had to be sent."""
        return CacheStats(self._hits, self._misses, self._evictions, self.nbytes)

    def get(self, tenant: str, digest: str) -> TowerImage | None:
        picture = self._held.get((tenant, digest))
        if picture is None:
            return None
        self._hits += 1
        self._held.move_to_end((tenant, digest))
        return picture

    def put(self, tenant: str, picture: TowerImage) -> None:
        """``picture.digest`` must be that of its pixels; whoever calls has computed it."""
        if (tenant, picture.digest) in self._held:
            self._held.move_to_end((tenant, picture.digest))
            return
        self._misses += 1
        self._held[tenant, picture.digest] = picture
        self.nbytes += picture.pixels.nbytes
        while self.nbytes > self._max_bytes:
            _, given_up = self._held.popitem(last=False)
            self.nbytes -= given_up.pixels.nbytes
            self._evictions += 1
