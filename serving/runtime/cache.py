"""What a cache has done, as a value: the same four numbers of every cache.

Does not know what is kept, or where.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheStats:
    hits: int
    """Lookups that found what they asked for, at least in part."""
    misses: int
    evictions: int
    """Entries given up for their bytes; not those that were replaced, or idle for too long."""
    nbytes: int
    """Held now."""
