"""Numbers of caches, queues, stores and engines, as values: what ``serving.telemetry`` shows of their owners.

Knows the numbers and what each counts. Does not know their owners, or the names they are shown under.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The same four numbers of every cache, since it was made."""

    hits: int
    """Lookups that found the entry, at least in part."""
    misses: int
    evictions: int
    """Entries evicted to free bytes; not those that were replaced, or idle for too long."""
    nbytes: int
    """Held now."""


@dataclass(frozen=True, slots=True)
class PlacementStats:
    """Embeddings in one place."""

    held: int = 0
    """Now, fills that are on their way included."""
    leased: int = 0
    """Of those, how many are in use, awaited, or being written."""


@dataclass(frozen=True, slots=True)
class EmbeddingStats(CacheStats):
    """Of a store of embeddings; ``nbytes`` includes fills that are on their way."""

    own: PlacementStats = PlacementStats()
    """In this process's memory."""
    shared: PlacementStats = PlacementStats()
    """In the slab."""
    allocated: int = 0
    """Since the start: how many began outside the slab because every slot was leased."""
    moved: int = 0
    """Since the start: how many moved out of the slab to make room."""

    @property
    def leased(self) -> int:
        """Leased embeddings, in the slab and outside."""
        return self.own.leased + self.shared.leased


@dataclass(frozen=True, slots=True)
class SlabStats:
    """Slots of a slab, now."""

    free: int = 0
    """Ready to be taken."""
    taken: int = 0
    """In use."""
    withheld: int = 0
    """A writer that never replied may still write them."""


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Sessions that are kept, and those that gave way."""

    kept_open: int = 0
    """Of the kept ones, those in memory now."""
    parked: int = 0
    """In their store alone."""
    gave_way: int = 0
    """Since the start."""
    store_bytes: int = 0
    """Of the store, when it was last looked at."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Requests of one priority, now."""

    in_progress: int
    waiting: int
    waiting_cost: float
    """Seconds of work expected."""
    age: float
    """Seconds that the request that waits longest has waited."""


@dataclass(frozen=True, slots=True)
class TritonCounts:
    """What the vision half on Triton has done since it started."""

    encodes: int
    decodes: int
    """Calls."""
    masks: int
    encodes_by_value: int
    """Of the encodes, how many embeddings came by gRPC."""
    decodes_by_value: int
    """Of the decodes, how many sent the embedding by gRPC."""
    bytes_sent: int
    bytes_received: int
    """Of tensors, by gRPC."""
    retries: int
    handshakes: int
    """How often the server was met: once, and after each loss."""
    mappings: int
    """How often it was asked to map a slab that it did not map."""
