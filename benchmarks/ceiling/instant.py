"""Both servers with nothing slow behind them: the service without its halves, the language server without weights.

Run as a file, never imported by what it serves: ``serving`` is the first on PYTHONPATH, which may be another
checkout's. Knows the sizes of both models, and which threads of the service used how much CPU, which it says where
an engine describes itself. Does not know who asks.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import serving.__main__ as root
import serving.llm.__main__ as language_root
from serving.bundle import Bundle, Manifest, load_bundle
from serving.domain import F32, EncoderImage, SegFeature
from serving.engines import Engines, Remotes, SharedMemory
from serving.llm.settings import LanguageServerSettings
from serving.llm.vllm_options import VllmOptions, environment
from serving.ports import Completion, DecodedMasks, EmbeddingLease, Prompt
from serving.settings import Settings

SIZES = "MEDIROUND_CEILING_SIZES"
"""Names the sizes, in the environment: ``published``, or ``lite`` for those of the bundle itself."""
HALF = "MEDIROUND_CEILING_HALF"
"""``language``: the language server in place of the service."""
INSTANT: Any = None
"""A RuntimeRecord; None in a checkout whose results do not name what computed them: there nobody asks for one."""
with suppress(ModuleNotFoundError):
    from serving.runtime.record import RuntimeRecord

    INSTANT = RuntimeRecord("instant")
PATCH = 14
"""Pixels of the published tower's patches, a side."""
MASKS = 8
"""Different masks that are drawn in turn."""


def published(manifest: Manifest) -> Manifest:
    """The same words and tokens, at the published model's sizes."""
    image = {"side": 1024, "embedding": (256, 64, 64), "logits_side": 256}
    return manifest.model_copy(
        update={
            "image": manifest.image.model_copy(update=image),
            "tower": manifest.tower.model_copy(update={"side": 336, "tokens": 576}),
            "language": manifest.language.model_copy(update={"max_tokens": 4096, "feature": 256}),
        }
    )


def sized(directory: Path) -> Bundle:
    """The bundle, at the sizes that are asked for."""
    bundle = load_bundle(directory)
    return bundle if os.environ[SIZES] == "lite" else replace(bundle, manifest=published(bundle.manifest))


def cpu() -> dict[str, float]:
    """Seconds of CPU by kind of thread; ``other`` are threads that Python did not start."""
    used = {"event loop": 0.0, "pixels": 0.0, "openings": 0.0, "asyncio": 0.0}
    for thread in threading.enumerate():
        kind = "event loop" if thread is threading.main_thread() else thread.name.rpartition("_")[0]
        if thread.ident is not None and kind in used:
            used[kind] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return {**used, "other": time.process_time() - sum(used.values())}


@dataclass(frozen=True, slots=True)
class InstantLanguage:
    """A LanguageEngine whose every feature is the same."""

    manifest: Manifest
    feature: SegFeature

    @property
    def description(self) -> str:
        return "instant"

    @property
    def runtimes(self) -> tuple[Any, ...]:
        return (INSTANT,) if INSTANT else ()

    async def complete(self, prompt: Prompt) -> Completion:
        length = len(prompt.token_ids) + self.manifest.tower.tokens - 1
        generated = self.feature if prompt.max_new_tokens else None
        features = (self.feature,) * len(prompt.feature_positions)
        return Completion(features, (), generated, length, 0, *self.runtimes)

    async def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True, slots=True)
class InstantVision:
    """A VisionEngine that reads no embedding, and draws discs."""

    manifest: Manifest
    logits: F32
    """(MASKS, L, L)"""

    @property
    def description(self) -> str:
        return json.dumps(cpu())

    @property
    def encoder(self) -> Any:
        return INSTANT

    @property
    def decoder(self) -> Any:
        return INSTANT

    async def encode(self, image: EncoderImage, lease: EmbeddingLease) -> Any:
        side, spec = self.manifest.image.side, self.manifest.image
        if image.pixels.shape != (side, side, 3) or lease.values.shape != spec.embedding:
            raise AssertionError("an image or an embedding has another shape")
        return INSTANT

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        count = len(features)
        picked = np.arange(count) + int(lease.key[:2], 16)
        scores = np.full(count, 0.9, np.float32)
        return DecodedMasks(self.logits[picked % MASKS], scores, scores <= thresholds, features)

    async def close(self) -> None:
        """There is nothing to close."""


def discs(side: int) -> F32:
    """Logits (MASKS, side, side): smooth, positive within a disc of some 5 to 15 % of the square."""
    rows, columns = np.mgrid[:side, :side] / side
    drawn = [
        (0.12 + 0.012 * k) ** 2 - (rows - 0.4 - 0.03 * k) ** 2 - (columns - 0.6 + 0.04 * k) ** 2
        for k in range(MASKS)
    ]
    return np.asarray(np.stack(drawn) * 100, np.float32)


@asynccontextmanager
async def instant(bundle: Bundle, settings: Settings, shared: SharedMemory) -> AsyncIterator[Engines]:  # noqa: ARG001  # the root's signature
    """In place of ``serving.engines.engines``."""
    manifest = bundle.manifest
    vector = np.random.default_rng(0).standard_normal(manifest.language.feature).astype(np.float32)
    language = InstantLanguage(manifest, SegFeature(vector, -0.1))
    vision = InstantVision(manifest, discs(manifest.image.logits_side))
    yield Engines(language, vision, Remotes(None, None), {}, {})


def write_config(bundle: Bundle, out: Path) -> None:
    """``config.json`` of the bundle's widths at the manifest's sizes."""
    manifest = bundle.manifest
    config = json.loads((bundle.vllm_model() / "config.json").read_text())
    config["vision_config"] |= {"image_size": manifest.tower.side, "patch_size": PATCH}
    config["image_tokens"] = manifest.tower.tokens
    config["text_config"]["max_position_embeddings"] = manifest.language.max_tokens + 1
    (out / "config.json").write_text(json.dumps(config))


async def dummy(bundle: Bundle, settings: LanguageServerSettings) -> language_root.ServedEngine:
    """vLLM on a model of the bundle's widths and no weights, with the published model's tower side and tokens."""
    os.environ.update(environment(VllmOptions()))
    from serving.llm import vllm_core  # noqa: PLC0415  # imports vLLM, which reads the environment

    arguments = vllm_core._arguments  # noqa: SLF001  # of a checkout that need not know of this
    with tempfile.TemporaryDirectory() as made:
        write_config(bundle, Path(made))

        def without_weights(*given: Any) -> Any:
            return replace(arguments(*given), model=made, load_format="dummy")

        setattr(vllm_core, "_arguments", without_weights)  # noqa: B010  # as above
        return await language_root.build(bundle, settings)


if __name__ == "__main__":
    for each in (root, language_root):
        setattr(each, "load_bundle", sized)  # noqa: B010  # what a root imports is its own, not to be had from it
    setattr(root, "engines", instant)  # noqa: B010  # as above
    sys.exit(language_root.main(dummy) if os.environ.get(HALF) == "language" else root.main())
