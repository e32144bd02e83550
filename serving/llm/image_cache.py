"""Cache of pixels sent before, so that a dialogue's next rounds name them by digest.

Knows tenants: pixels are found only by the tenant that sent them, so that none learns which pictures another has.
Does not know messages.
"""

from __future__ import annotations

from serving.domain import TowerImage
from serving.runtime.cache import ByteLru
from serving.stats import CacheStats


class ImageCache:
    """Pictures within a byte budget. For one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._held: ByteLru[tuple[str, str], TowerImage] = ByteLru(max_bytes, lambda image: image.pixels.nbytes)

    @property
    def nbytes(self) -> int:
        return self._held.nbytes

    @property
    def stats(self) -> CacheStats:
        """A miss is a picture that had to be sent."""
        return self._held.stats

    def get(self, tenant: str, digest: str) -> TowerImage | None:
        picture = self._held.get((tenant, digest))
        if picture is not None:
            self._held.count(hit=True)
        return picture

    def put(self, tenant: str, picture: TowerImage) -> None:
        """``picture.digest`` must be that of its pixels; the caller has computed it."""
        if self._held.get((tenant, picture.digest)) is None:
            self._held.count(hit=False)
            self._held.put((tenant, picture.digest), picture)
