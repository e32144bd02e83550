"""Prefix cache: keys and values of dialogues' beginnings, so that a round computes only what is new.

Knows what tokens mean by content, and a byte budget. Does not know prompts or graphs. A match goes by
content alone: two tokens are the same when text id, pixels or box are the same, and so is all before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.domain import F32
from serving.runtime.cache import ByteLru
from serving.stats import CacheStats

TokenKey = int | str | bytes | tuple[str, int]
"""A token by content: text id | crop's digest | box's bytes | (image's digest, patch)."""

DialogueKey = tuple[str, str]
"""Whose dialogue, and its name."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Tokens that were computed, with their keys and values: float32 (layers, 1, kv_heads, P, head_dim)."""

    tokens: tuple[TokenKey, ...]
    keys: F32
    values: F32

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def cut(self, length: int) -> Prefix:
        """Its first ``length`` tokens."""
        if length == len(self):
            return self
        keys, values = self.keys[:, :, :, :length], self.values[:, :, :, :length]
        return Prefix(self.tokens[:length], np.ascontiguousarray(keys), np.ascontiguousarray(values))


class PrefixCache:
    """One prefix a dialogue, the least recently used given up first. For one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._prefixes: ByteLru[DialogueKey, Prefix] = ByteLru(max_bytes, lambda prefix: prefix.nbytes)

    @property
    def nbytes(self) -> int:
        return self._prefixes.nbytes

    @property
    def stats(self) -> CacheStats:
        """May be read from any thread; the numbers are then of about the same time."""
        return self._prefixes.stats

    def longest(self, dialogue: DialogueKey, tokens: Sequence[TokenKey], limit: int) -> Prefix | None:
        """What is held of ``tokens[:limit]``; None when the dialogue has nothing of it."""
        held = self._prefixes.get(dialogue)
        common = _common(held.tokens, tokens, min(limit, len(held), len(tokens))) if held else 0
        self._prefixes.count(hit=common > 0)
        return held.cut(common) if held and common else None

    def keep(self, dialogue: DialogueKey, prefix: Prefix) -> None:
        """Hold ``prefix`` in place of the dialogue's last one, if it fits the budget at all. One that begins with
        it stays: what was read ahead may come after the dialogue's own.
        """
        held = self._prefixes.get(dialogue)
        if held is None or held.tokens[: len(prefix)] != prefix.tokens:
            self._prefixes.put(dialogue, prefix)


def _common(cached: Sequence[TokenKey], tokens: Sequence[TokenKey], limit: int) -> int:
    pairs = zip(cached[:limit], tokens[:limit], strict=True)
    return next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), limit)
