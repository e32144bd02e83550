"""The vision half in this process, by onnxruntime: mask decoder and, unless given by another runtime, image
encoder.

Knows the two graphs' tensors. Does not know images' sizes before preprocessing, masks at the image's size,
or leases. Encodes have a thread of their own, and so have decodes: a round on a known image
does not wait until another image is encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from serving.bundle import IMAGE_ENCODER, MASK_DECODER, Bundle
from serving.domain import F32, EncoderImage
from serving.errors import EngineFault
from serving.ports import DecodedMasks, EmbeddingLease
from serving.runtime.graph import CPU, Array, Graph
from serving.runtime.record import RuntimeRecord
from serving.runtime.worker import Stop, Worker
from serving.vision.interface import check_finite, decoder_interface, encoder_interface

LARGEST_DECODE = 4
"""Masks decoded in one run: onnxruntime keeps for good the memory that its largest run took."""


@dataclass(frozen=True, slots=True)
class VisionCounts:
    """What the engine has done since it started."""

    encodes: int
    decodes: int
    """Batches."""
    masks: int


class ImageEncoder(Protocol):
    """A runtime with the image encoder's graph opened."""

    @property
    def description(self) -> str:
        """The runtime and its precision."""

    @property
    def record(self) -> RuntimeRecord:
        """How it runs."""

    def run_into(self, feeds: Mapping[str, Array], out: Array, stop: Stop) -> None:
        """Write the embeddings (1, 256, 64, 64) into ``out``, and nothing after the return.

        Raises:
            EngineFault: the runtime failed.
            Unavailable: ``stop`` was requested.
        """


class OnnxVision:
    """A VisionEngine."""

    def __init__(
        self, bundle: Bundle, threads: int, providers: Sequence[str] = CPU, encoder: ImageEncoder | None = None
    ) -> None:
        """Raises BundleError when a graph is not what the manifest says; ProviderError as ``Graph`` does."""
        manifest = bundle.manifest
        image, feature = manifest.image, manifest.language.feature
        self._judged = manifest.judge.present
        precision = image.compute_dtype
        self._encoder: ImageEncoder = encoder or Graph(
            bundle.path(IMAGE_ENCODER), encoder_interface(image), threads, providers, precision
        )
        self._decoder = Graph(
            bundle.path(MASK_DECODER), decoder_interface(image, feature), threads, providers, precision
        )
        self._encoding, self._decoding = Worker("encode"), Worker("decode")
        self._encodes = self._decodes = self._masks = 0

    @property
    def description(self) -> str:
        both = (self._encoder.description, self._decoder.description)
        return ", ".join(dict.fromkeys(both))

    @property
    def encoder(self) -> RuntimeRecord:
        return self._encoder.record

    @property
    def decoder(self) -> RuntimeRecord:
        return self._decoder.record

    @property
    def counts(self) -> VisionCounts:
        return VisionCounts(self._encodes, self._decodes, self._masks)

    async def encode(self, image: EncoderImage, lease: EmbeddingLease) -> RuntimeRecord:
        """Write the embedding straight into the lease's buffer. See ``VisionEngine``.

        Raises:
            Unavailable: the engine closes.
            EngineFault: the runtime failed, or its result is not finite.
        """
        await self._encoding.run(partial(self._encode, image, lease.values))
        return self.encoder

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        """Judge, correct and decode K features (K, 256) as one batch; thresholds (K,). See ``VisionEngine``.

        Raises:
            Unavailable: the engine closes.
            EngineFault: onnxruntime failed, or a result is not finite.
        """
        return await self._decoding.run(partial(self._decode, lease.values, features, thresholds))

    async def close(self) -> None:
        await self._encoding.close()
        await self._decoding.close()

    def _encode(self, image: EncoderImage, values: F32, stop: Stop) -> None:
        feeds: dict[str, Array] = {
            "image_u8": image.pixels[np.newaxis],  # (1, S, S, 3)
            "valid_hw": np.array([image.valid_hw], np.int32),  # (1, 2)
        }
        self._encoder.run_into(feeds, values[np.newaxis], stop)
        self._encodes += 1
        check_finite(values)

    def _decode(self, values: F32, features: F32, thresholds: F32, stop: Stop) -> DecodedMasks:
        parts = []
        for start in range(0, len(features), LARGEST_DECODE):
            part = slice(start, start + LARGEST_DECODE)
            feeds: dict[str, Array] = {
                "image_embeddings": values[np.newaxis],  # (1, 256, 64, 64)
                "seg_features": features[np.newaxis, part],  # (1, k, 256)
                "threshold": thresholds[np.newaxis, part],  # (1, k)
            }
            logits, _, scores, corrected, decoded = self._decoder.run(feeds, stop)
            if not np.isfinite(logits).all() or (self._judged and not np.isfinite(scores).all()):
                raise EngineFault("the mask decoder's result is not finite")
            parts.append((logits[0], scores[0], corrected[0], decoded[0]))
        self._decodes += 1
        self._masks += len(features)
        return DecodedMasks(*(np.concatenate(each) for each in zip(*parts, strict=True)))
