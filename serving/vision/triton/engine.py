"""The vision half on a Triton server: the image encoder and the mask decoder as its models.

Knows the two models' tensors, and that values in a slot need not travel: the encoder writes the embedding into the
lease's slot, the decoder reads it there and writes masks into a slot of ours. By gRPC go pixels, features and
flags; without slots, everything. Does not know calls' failures (``serving.vision.triton.connection``), images'
sizes before preprocessing, or leases beyond the one given.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import numpy as np

from serving import request_context
from serving.bundle import IMAGE_ENCODER, MASK_DECODER, Bundle
from serving.domain import F32, EncoderImage, Priority
from serving.errors import EngineFault, StillWriting
from serving.ports import DecodedMasks, EmbeddingLease
from serving.runtime.graph import Array
from serving.runtime.record import RuntimeRecord
from serving.runtime.slab import Slab, SlabError, Slot
from serving.stats import TritonCounts
from serving.vision.interface import check_finite, decoder_interface, encoder_interface
from serving.vision.triton.client import InputTensor, OutputTensor, TritonCall, TritonClient, TritonFailure
from serving.vision.triton.connection import Expected, TritonConnection
from serving.vision.triton.failures import kind_of

logger = logging.getLogger(__name__)

ENCODER = "image_encoder"
DECODER = "mask_decoder"
SLOT_MASKS = 8
"""Masks that a slot of ours holds, and so the most that are decoded by one call."""
_LOOK_SECONDS = 1.0
_PRIORITIES = {Priority.INTERACTIVE: 1, Priority.BATCH: 2}
"""Triton's numbers: lower goes first."""


@dataclass(frozen=True, slots=True)
class TritonOptions:
    version: str = "1"
    """Version of both models to call."""
    admin_key: str | None = None
    """Key that the server asks for before it maps memory (``--grpc-restricted-protocol``)."""
    patience: float = 30.0
    """Seconds after which a request without a reply counts as lost; two thirds of them in the model's queue."""


class TritonVision:
    """A VisionEngine. Make it within the event loop, and close it."""

    def __init__(
        self,
        bundle: Bundle,
        address: str,
        options: TritonOptions,
        *,
        embeddings: Slab | None = None,
        masks: Slab | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """``embeddings``: the slab of leases' slots, if there is one. ``masks``: see ``mask_slab``."""
        manifest = bundle.manifest
        image, feature = manifest.image, manifest.language.feature
        self._judged, self._side = manifest.judge.present, image.logits_side
        self._masks = masks
        self._client = TritonClient(address, options.version, options.admin_key, credentials)
        expected = (
            Expected(ENCODER, encoder_interface(image), manifest.graph_digest(IMAGE_ENCODER)),
            Expected(DECODER, decoder_interface(image, feature), manifest.graph_digest(MASK_DECODER)),
        )
        slabs = [slab for slab in (embeddings, masks) if slab is not None]
        self._link = TritonConnection(self._client, expected, slabs, options.patience)
        self._available = False
        self._encodes = self._decodes = self._decoded = self._encoded_by_value = self._decoded_by_value = 0

    @property
    def description(self) -> str:
        encoder = self.encoder
        return f"triton/{f'{encoder.version} {encoder.provider}' if encoder.version else 'not reached yet'}"

    @property
    def encoder(self) -> RuntimeRecord:
        """Triton says neither a model's precision nor its threads."""
        return self._record(ENCODER)

    @property
    def decoder(self) -> RuntimeRecord:
        return self._record(DECODER)

    @property
    def available(self) -> bool:
        """Whether both models were ready at the last look of ``availability``."""
        return self._available

    @property
    def counts(self) -> TritonCounts:
        return TritonCounts(
            encodes=self._encodes,
            decodes=self._decodes,
            masks=self._decoded,
            encodes_by_value=self._encoded_by_value,
            decodes_by_value=self._decoded_by_value,
            bytes_sent=self._client.sent,
            bytes_received=self._client.received,
            retries=self._link.retries,
            handshakes=self._link.handshakes,
            mappings=self._link.mappings,
        )

    async def reached(self) -> None:
        """Return when the server serves our bundle.

        Raises:
            BundleError: it serves something else; the message says what differs.
            SlabError: it cannot map our memory.
        """
        last = None
        while True:
            try:
                await self._link.handshake()
                break
            except TritonFailure as failure:
                kind = kind_of(failure)
                if kind is not last:
                    logger.warning("waiting for Triton: %s", kind.value)
                last = kind
                await asyncio.sleep(_LOOK_SECONDS)
        if self._link.refusal:
            raise SlabError(self._link.refusal)

    async def availability(self) -> AsyncGenerator[bool]:
        """Whether both models are ready, now and each time that it has changed."""
        last = None
        while True:
            self._available = await self._link.ready()
            if self._available != last:
                last = self._available
                if last:
                    logger.info("Triton: serving")
                else:
                    logger.warning("Triton: not serving (%s)", self._link.absence)
                yield last
            await asyncio.sleep(_LOOK_SECONDS)

    async def encode(self, image: EncoderImage, lease: EmbeddingLease) -> RuntimeRecord:
        """Have the embedding written into the lease's slot, or put it there. See ``VisionEngine``."""
        await self._link.ensure_ready()
        slot = lease.slot if self._link.maps(lease.slot) else None
        inputs = (
            InputTensor("image_u8", image.pixels[np.newaxis]),  # (1, S, S, 3)
            InputTensor("valid_hw", np.array([image.valid_hw], np.int32)),  # (1, 2)
        )
        output = OutputTensor("image_embeddings", slot, lease.values.nbytes)
        arrays = await self._link.ask(self._call(ENCODER, inputs, (output,)))
        if slot is None:
            lease.values[...] = _shaped(arrays["image_embeddings"], (1, *lease.values.shape))[0]
            self._encoded_by_value += 1
        self._encodes += 1
        check_finite(lease.values)
        return self.encoder

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        """Judge, correct and decode; more features than one call takes, by several. See ``VisionEngine``."""
        await self._link.ensure_ready()
        most = self._most()
        parts = [
            await self._decode(lease, features[first : first + most], thresholds[first : first + most])
            for first in range(0, len(features), most)
        ]
        if len(parts) == 1:
            return parts[0]
        return DecodedMasks(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.corrected for part in parts]),
            np.concatenate([part.features for part in parts]),
        )

    async def close(self) -> None:
        await self._link.close()

    def _record(self, model: str) -> RuntimeRecord:
        known = self._link.models.get(model)
        return RuntimeRecord("triton", self._link.version, known.platform if known else None)

    def _most(self) -> int:
        """Most features in one call: the model's configuration says it, and a slot of ours holds no more."""
        limit = self._link.models[DECODER].parameters.get("max_prompts", "1")
        return min(int(limit), SLOT_MASKS)

    async def _decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        slot = lease.slot if self._link.maps(lease.slot) else None
        inputs = (
            InputTensor("image_embeddings", lease.values[np.newaxis], slot),  # (1, 256, 64, 64)
            InputTensor("seg_features", features[np.newaxis]),  # (1, K, 256)
            InputTensor("threshold", thresholds[np.newaxis]),  # (1, K)
        )
        count, side = len(features), self._side
        with self._mask_slot() as masks:
            outputs = (
                OutputTensor("low_res_masks", masks, count * side * side * 4),
                *(OutputTensor(name) for name in ("score", "corrected", "features")),
            )
            arrays = await self._link.ask(self._call(DECODER, inputs, outputs))
            if masks is not None:
                arrays["low_res_masks"] = masks.values[np.newaxis, :count].copy()
        self._decodes += 1
        self._decoded += count
        self._decoded_by_value += slot is None
        return self._checked(arrays, count, features.shape)

    def _checked(self, arrays: dict[str, Array], count: int, features: tuple[int, ...]) -> DecodedMasks:
        """Raises EngineFault for a result of another shape, or one that is not finite."""
        logits = _shaped(arrays["low_res_masks"], (1, count, self._side, self._side))[0]
        scores = _shaped(arrays["score"], (1, count))[0]
        corrected = _shaped(arrays["corrected"], (1, count))[0]
        if not np.isfinite(logits).all() or (self._judged and not np.isfinite(scores).all()):
            raise EngineFault("the mask decoder's result is not finite")
        return DecodedMasks(logits, scores, corrected, _shaped(arrays["features"], (1, *features))[0])

    @contextmanager
    def _mask_slot(self) -> Iterator[Slot | None]:
        """A slot for masks while the block runs; None when they go by gRPC."""
        slot = self._masks.take() if self._masks is not None else None
        if self._masks is None or slot is None:
            yield None
            return
        still_written = False
        try:
            yield slot if self._link.maps(slot) else None
        except StillWriting:
            still_written = True
            raise
        finally:
            (self._masks.withhold if still_written else self._masks.give_back)(slot)

    def _call(self, model: str, inputs: tuple[InputTensor, ...], outputs: tuple[OutputTensor, ...]) -> TritonCall:
        return TritonCall(model, inputs, outputs, _PRIORITIES[request_context.priority()])


def mask_slab(bundle: Bundle, slots: int) -> Slab:
    """For ``TritonVision``: a slot for each decode at the same time. Raises SlabError."""
    side = bundle.manifest.image.logits_side
    return Slab(slots, (SLOT_MASKS, side, side), np.float32)


def _shaped(array: Array, shape: tuple[int, ...]) -> Array:
    if array.shape != shape:
        raise EngineFault(f"Triton returned {array.shape} where {shape} belongs")
    return array
