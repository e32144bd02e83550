"""Tensor names, types and shapes of the two vision graphs, whatever runtime runs them; results must be finite.

Knows what a manifest says of them. Does not know what runs the graphs.
"""

from __future__ import annotations

import numpy as np

from serving.bundle import ImageSpec
from serving.domain import F32
from serving.errors import EngineFault
from serving.runtime.graph import Interface, TensorSpec


def encoder_interface(image: ImageSpec) -> Interface:
    return Interface(
        inputs=(
            TensorSpec("image_u8", "uint8", (None, image.side, image.side, 3)),
            TensorSpec("valid_hw", "int32", (None, 2)),
        ),
        outputs=(TensorSpec("image_embeddings", image.embedding_dtype, (None, *image.embedding)),),
    )


def decoder_interface(image: ImageSpec, feature: int) -> Interface:
    """``feature``: length of a [SEG] feature."""
    return Interface(
        inputs=(
            TensorSpec("image_embeddings", image.embedding_dtype, (None, *image.embedding)),
            TensorSpec("seg_features", "float32", (None, None, feature)),
            TensorSpec("threshold", "float32", (None, None)),
        ),
        outputs=(
            TensorSpec("low_res_masks", "float32", (None, None, image.logits_side, image.logits_side)),
            TensorSpec("iou", "float32", (None, None)),
            TensorSpec("score", "float32", (None, None)),
            TensorSpec("corrected", "bool", (None, None)),
            TensorSpec("features", "float32", (None, None, feature)),
        ),
    )


def check_finite(embedding: F32) -> None:
    """Raises EngineFault unless every value is finite: only then is their sum, which takes a tenth of the time."""
    if not np.isfinite(embedding.sum(dtype=np.float32)):
        raise EngineFault("the image encoder's result is not finite")
