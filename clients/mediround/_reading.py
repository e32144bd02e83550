"""Parts of answers, read from messages.

Knows rectangles, times and references as the contract has them. Does not know rounds or masks.
"""

from __future__ import annotations

from typing import Literal, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mediround._parts import Box, CacheUse, Reference, Timings
from mediround.v1 import segmentation_pb2 as pb

_SOURCES: dict[int, Literal["round", "given", "amended"]] = {
    pb.REFERENCE_SOURCE_GIVEN: "given",
    pb.REFERENCE_SOURCE_AMENDED: "amended",
}


def box(message: pb.PixelBox) -> Box:
    return Box(message.x_min, message.y_min, message.x_max, message.y_max)


def reference(used: pb.ReferenceUsed) -> Reference:
    source = _SOURCES.get(used.source, "round")
    return Reference(
        index=None if source == "given" else used.round,
        crop=box(used.crop),
        box=box(used.box),
        whole_image=used.whole_image,
        source=source,
        origin=used.origin,
        round_id=used.round_id,
        mask_digest=used.mask_digest.hex(),
    )


def cache_use(cache: pb.CacheUse) -> CacheUse:
    return CacheUse(cache.embedding_hit, cache.cached_tokens, cache.prompt_tokens, cache.wave)


def timings(message: pb.Timings) -> Timings:
    return Timings(
        queue=seconds(message.queue),
        prepare=seconds(message.prepare),
        language=seconds(message.language),
        encode=seconds(message.encode),
        decode=seconds(message.decode),
        postprocess=seconds(message.postprocess),
        total=seconds(message.total),
    )


def seconds(duration: Duration | Timestamp) -> float:
    """Of a duration, or since the epoch."""
    return duration.seconds + duration.nanos / 1e9


class SaysItsEnd(Protocol):
    """An answer about a session."""

    @property
    def expires_at(self) -> Timestamp: ...
    def HasField(self, field_name: Literal["expires_at"], /) -> bool: ...  # noqa: N802  # protobuf's


def ends(message: SaysItsEnd) -> float | None:
    """When the session ends, in seconds since the epoch; None: an older server does not say."""
    return seconds(message.expires_at) if message.HasField("expires_at") else None
