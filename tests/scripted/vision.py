"""A vision engine without a model.

An embedding is drawn from the image's pixels; a mask is a rectangle drawn from the decoded feature and the
embedding. So a wrong image, feature or place shows in the mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from serving.bundle import Manifest
from serving.domain import F32, EncoderImage
from serving.errors import Unavailable
from serving.ports import DecodedMasks, EmbeddingLease
from serving.runtime.record import RuntimeRecord
from tests.scripted.script import Script


class ScriptedVision:
    """A VisionEngine. ``judge`` scores a raw feature; by default from its hash, within (0, 1)."""

    def __init__(self, manifest: Manifest, judge: Callable[[F32], float] | None = None) -> None:
        self.script = Script()
        self.runtime = RuntimeRecord("scripted", "1")
        self._manifest = manifest
        self._judge = judge or _hashed_score
        self._closed = False

    @property
    def description(self) -> str:
        return "scripted/hash"

    @property
    def encoder(self) -> RuntimeRecord:
        return self.runtime

    @property
    def decoder(self) -> RuntimeRecord:
        return self.runtime

    async def encode(self, image: EncoderImage, lease: EmbeddingLease) -> RuntimeRecord:
        self._check_open()
        lease.values[...] = np.nan  # who reads before the end sees it
        async with self.script.play("encode", image):
            seed = hashlib.sha256(image.pixels.tobytes() + bytes(str(image.valid_hw), "ascii")).digest()
            draw = np.random.default_rng(int.from_bytes(seed[:8]))
            lease.values[...] = draw.standard_normal(self._manifest.image.embedding, np.float32)
            return self.runtime

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        """A corrected feature is the raw one reversed."""
        self._check_open()
        async with self.script.play("decode", len(features)):
            judged = self._manifest.judge.present
            scores = np.array([self._judge(feature) if judged else np.nan for feature in features], np.float32)
            corrected = scores <= thresholds
            decoded = np.where(corrected[:, np.newaxis], features[:, ::-1], features)  # (K, 256)
            logits = np.stack([self._logits(lease, feature) for feature in decoded])
            return DecodedMasks(logits, scores, corrected, decoded)

    async def close(self) -> None:
        self._closed = True

    def _logits(self, lease: EmbeddingLease, feature: F32) -> F32:
        """(L, L): 4 inside a rectangle near the top left, which every image covers; -4 outside."""
        side = self._manifest.image.logits_side
        seen = feature.tobytes() + lease.values[::16].tobytes()
        top, left, height, width = hashlib.sha256(seen).digest()[:4]
        rows = slice(top * side // 2048, top * side // 2048 + side // 8 + height * side // 1024)
        columns = slice(left * side // 2048, left * side // 2048 + side // 8 + width * side // 1024)
        logits = np.full((side, side), -4.0, np.float32)
        logits[rows, columns] = 4.0
        return logits

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the engine is closed")


def _hashed_score(feature: F32) -> float:
    digest = hashlib.sha256(feature.tobytes()).digest()
    return (digest[0] + 0.5) / 256
