"""Checks of a prompt before it is read: its length, ids, placeholders, pixels and boxes.

Every language engine calls them first. vLLM needs them most: there, an id outside the vocabulary or a tensor of
another shape kills the engine for all callers. Does not know how prompts are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from serving.bundle import Manifest
from serving.domain import Reference, TowerImage
from serving.errors import InvalidInput
from serving.ports import Prompt


def prompt_length(prompt: Prompt, manifest: Manifest) -> int:
    """Tokens of the prompt, those of the image included."""
    return len(prompt.token_ids) - 1 + manifest.tower.tokens


def check_prompt(prompt: Prompt, manifest: Manifest) -> None:
    """Check all that an engine relies on.

    Raises:
        InvalidInput: too long, an unknown token, placeholders that do not match the references, positions that
            do not ascend within the prompt, pixels or boxes of another shape.
    """
    tokens, limit = manifest.tokens, manifest.language.max_tokens
    ids = np.asarray(prompt.token_ids, np.int64)
    if prompt.max_new_tokens < 0:
        raise InvalidInput("prompt.max_new_tokens", "must not be negative")
    length = prompt_length(prompt, manifest)
    if length + prompt.max_new_tokens > limit:
        raise InvalidInput(
            "prompt.token_ids",
            f"the prompt holds {length} tokens and an answer up to {prompt.max_new_tokens}; the limit is {limit}",
        )
    if np.any((ids != tokens.image) & ((ids < 0) | (ids >= manifest.language.vocabulary))):
        raise InvalidInput("prompt.token_ids", f"must lie within 0..{manifest.language.vocabulary - 1}")
    _check_count(ids, tokens.image, 1, "image")
    _check_count(ids, tokens.crop, len(prompt.references), "crop")
    _check_count(ids, tokens.bbox, len(prompt.references), "box")
    _check_positions(prompt.feature_positions, ids.size)
    _check_picture(prompt.image, manifest.tower.side, "prompt.image")
    for reference in prompt.references:
        _check_picture(reference.crop, manifest.tower.side, "prompt.references.crop")
        _check_box(reference)


def _check_count(ids: npt.NDArray[np.int64], placeholder: int, expected: int, name: str) -> None:
    count = int(np.count_nonzero(ids == placeholder))
    if count != expected:
        raise InvalidInput(
            "prompt.token_ids", f"must hold exactly {expected} {name} placeholders; it holds {count}"
        )


def _check_positions(positions: Sequence[int], length: int) -> None:
    ascending = all(first < second for first, second in pairwise(positions))
    if not ascending or (positions and not 0 <= positions[0] <= positions[-1] < length):
        raise InvalidInput("prompt.feature_positions", f"must ascend within 0..{length - 1}")


def _check_picture(picture: TowerImage, side: int, field: str) -> None:
    if picture.pixels.dtype != np.uint8 or picture.pixels.shape != (side, side, 3):
        raise InvalidInput(
            field, f"must be uint8 {(side, side, 3)}, not {picture.pixels.dtype} {picture.pixels.shape}"
        )


def _check_box(reference: Reference) -> None:
    box = reference.box
    if box.dtype != np.float32 or box.shape != (4,) or not np.isfinite(box).all():
        raise InvalidInput("prompt.references.box", "must be four finite float32 numbers")
