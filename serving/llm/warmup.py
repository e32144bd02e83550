"""The warm-up prompt of a language engine: an image, a reference to it, and a few words.

Knows what touches every path of an engine once. Does not know engines.
"""

from __future__ import annotations

import hashlib

import numpy as np

from serving.bundle import Manifest
from serving.domain import Rectangle, Reference, TowerImage
from serving.ports import Prompt


def first_prompt(manifest: Manifest) -> Prompt:
    """A made-up image and all of it as the reference; read at both of its tokens, and answered."""
    side, tokens = manifest.tower.side, manifest.tokens
    pixels = np.random.default_rng(0).integers(1, 256, (side, side, 3), np.uint8)
    picture = TowerImage(hashlib.sha256(pixels.data).hexdigest(), pixels)
    everything = Rectangle(0, 0, side - 1, side - 1)
    box = np.array([0, 0, 1, 1], np.float32)
    return Prompt(
        dialogue="first",
        tenant="first",
        token_ids=(tokens.bos, tokens.image, tokens.crop, tokens.bbox),
        image=picture,
        references=(Reference(0, picture, everything, box, everything, whole_image=True),),
        feature_positions=(2, 3),  # two, so that an engine which reads chosen rows reads some
        max_new_tokens=2,
        ensure_seg=False,
    )
