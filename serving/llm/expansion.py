"""A prompt with its image placeholder expanded: what the language graphs are fed.

Knows placeholders, positions, and each token's content. Does not know graphs, caches or text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.bundle import Manifest, TokenSpec
from serving.domain import F32, TowerImage
from serving.llm.prefix import TokenKey
from serving.llm.validation import check_prompt
from serving.ports import Prompt

I64 = npt.NDArray[np.int64]

CROP_ROW = -1
"""Stands where a patch's index would: the tower's one token for a crop."""


@dataclass(frozen=True, slots=True)
class Media:
    """Embeddings that come from the tower: for each, its position, its picture, and the row of the picture."""

    positions: I64
    """(M,), ascending, in the expanded prompt."""
    pictures: I64
    """(M,), indices into ``Expanded.pictures``."""
    rows: I64
    """(M,), the patch, or CROP_ROW."""

    def since(self, start: int) -> Media:
        kept = self.positions >= start
        return Media(self.positions[kept], self.pictures[kept], self.rows[kept])


@dataclass(frozen=True, slots=True)
class Expanded:
    """T tokens, the image's included."""

    ids: I64
    """(T,)"""
    tokens: tuple[TokenKey, ...]
    """T contents."""
    pictures: tuple[TowerImage, ...]
    media: Media
    box_positions: I64
    """(X,), ascending."""
    boxes: F32
    """(X, 4)"""
    feature_positions: tuple[int, ...]
    """Of the prompt's ``feature_positions``, in the expanded prompt."""

    def __len__(self) -> int:
        return len(self.tokens)

    def boxes_since(self, start: int) -> F32:
        """(X', 4): those of the tokens from ``start`` on."""
        return self.boxes[self.box_positions >= start]


def expand(prompt: Prompt, manifest: Manifest) -> Expanded:
    """Check a prompt and expand its image.

    Raises:
        InvalidInput: as ``check_prompt`` says.
    """
    check_prompt(prompt, manifest)
    ids = np.asarray(prompt.token_ids, np.int64)
    tokens, patches = manifest.tokens, manifest.tower.tokens
    image = int(np.flatnonzero(ids == tokens.image)[0])
    repeats = np.ones(ids.size, np.int64)
    repeats[image] = patches
    expanded = np.repeat(ids, repeats)
    last = np.cumsum(repeats) - 1  # of each token, its last position
    crops, boxes = np.flatnonzero(expanded == tokens.crop), np.flatnonzero(expanded == tokens.bbox)
    return Expanded(
        expanded,
        _contents(expanded, image, patches, prompt, manifest.tokens),
        (prompt.image, *(reference.crop for reference in prompt.references)),
        _media(image, patches, crops),
        boxes,
        np.array([reference.box for reference in prompt.references], np.float32).reshape(-1, 4),
        tuple(int(last[position]) for position in prompt.feature_positions),
    )


def _contents(ids: I64, image: int, patches: int, prompt: Prompt, tokens: TokenSpec) -> tuple[TokenKey, ...]:
    contents: list[TokenKey] = list(ids.tolist())
    contents[image : image + patches] = [(prompt.image.digest, patch) for patch in range(patches)]
    crops, boxes = np.flatnonzero(ids == tokens.crop), np.flatnonzero(ids == tokens.bbox)
    for crop, box, reference in zip(crops, boxes, prompt.references, strict=True):
        contents[crop] = reference.crop.digest
        contents[box] = reference.box.tobytes()
    return tuple(contents)


def _media(image: int, patches: int, crops: I64) -> Media:
    positions = np.concatenate([np.arange(image, image + patches), crops])
    pictures = np.concatenate([np.zeros(patches, np.int64), np.arange(1, crops.size + 1)])
    rows = np.concatenate([np.arange(patches), np.full(crops.size, CROP_ROW)])
    order = np.argsort(positions)
    return Media(positions[order], pictures[order], rows[order])
