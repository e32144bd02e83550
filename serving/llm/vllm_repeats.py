"""Repeats: which beginnings of prompts were read before, so that vLLM's prefix cache is likely to have their rows.

A row that the prefix cache has cannot be chosen (``serving.llm.plugin.rows``): a request for nothing else would be
made in vain. Knows hashes of what was read, and no more than ``_KEPT`` of them. Does not know what the cache still
holds: a wrong guess costs time, never a feature.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.llm.vllm_requests import VllmRequest
from serving.runtime.cache import ByteLru

_KEPT = 16384


class Repeats:
    """For one event loop."""

    def __init__(self) -> None:
        self._read: ByteLru[int, bool] = ByteLru(_KEPT, lambda _: 1)

    def are(self, parts: Sequence[VllmRequest]) -> bool:
        """Whether all features of a prompt but that of its end were read before; ``parts``: a request for each."""
        wanted = [part for part in parts if part.rows]
        before = wanted if wanted != parts else wanted[:-1]
        return bool(before) and all(self._read.get(_key(part)) for part in before)

    def add(self, parts: Sequence[VllmRequest]) -> None:
        """They were read."""
        for part in parts:
            if part.rows:
                self._read.put(_key(part), True)


def _key(part: VllmRequest) -> int:
    media = tuple(item.key for items in (part.image, part.crops, part.boxes) for item in items)
    return hash((part.salt, part.token_ids, media))
