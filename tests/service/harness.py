"""The real service and orchestrator over scripted engines: what a service test plays on."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry

from serving.admission.cost import CostModel
from serving.admission.queue import AdmissionQueue
from serving.api.description import ServerDescription
from serving.api.image_cache import ImageCache
from serving.api.limits import Limits
from serving.api.records import EngineRecords
from serving.api.service import SegmentationService
from serving.bundle import Manifest
from serving.domain import U8, Priority
from serving.geometry import Geometry
from serving.observer import CompositeObserver, Observer
from serving.offline import compose
from serving.ports import Prompt
from serving.prompt import PromptTemplate
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.kept.sessions import KeptSessions
from serving.stores.sessions import MemorySessions
from serving.telemetry.recorder import MetricsRecorder
from tests.scripted.language import Answer, ScriptedLanguage
from tests.scripted.vision import ScriptedVision
from tests.unit.serving.manifests import manifest as made_up

MODEL_DIGEST = "d" * 64
LIMITS = {
    "max_image_bytes": 3 << 20,
    "max_image_pixels": 1 << 20,
    "max_aspect_ratio": 10,
    "max_rounds": 6,
    "max_question_bytes": 64,
    "max_sessions": 8,
    "session_idle_timeout": 60.0,
    "max_concurrent_rounds": 8,
    "max_concurrent_uploads": 4,
    "upload_timeout": 5.0,
}


class CharacterTokenizer:
    """One id a character, after the reserved ones."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(ord(character) + 16 for character in text)

    def decode(self, ids: tuple[int, ...]) -> str:
        return "".join(chr(token - 16) for token in ids)


@dataclass(frozen=True, slots=True)
class Stage:
    manifest: Manifest
    language: ScriptedLanguage
    vision: ScriptedVision
    sessions: MemorySessions | KeptSessions
    embeddings: MemoryEmbeddings
    uploads: ImageCache
    gate: AdmissionQueue
    registry: CollectorRegistry
    """Of all that the service tells."""
    observer: Observer
    service: SegmentationService

    @property
    def shed(self) -> dict[str, float]:
        """Refusals by reason, those that there were."""
        samples = [s for f in self.registry.collect() for s in f.samples if s.name == "mediround_shed_total"]
        return {sample.labels["reason"]: sample.value for sample in samples if sample.value}


def stage(
    executor: Executor,
    *,
    openings: Executor | None = None,
    template_trained: bool = True,
    judge: bool = True,
    concurrency: int = 8,
    max_wait: float = 60.0,
    sessions: KeptSessions | MemorySessions | None = None,
    version: str = "0.1.0",
    model_digest: str = MODEL_DIGEST,
    ahead: int = 0,
    **limits: float,
) -> Stage:
    """``limits`` replace those above; ``concurrency`` and ``max_wait`` are the gate's.

    ``openings`` works on new images; ``executor`` if none is given. ``sessions``: where they lie; by default in
    memory. ``version``: the server's. ``ahead``: images that may be encoded before their first question.
    """
    default_mode = "forced" if template_trained else "free"
    answers = {"default_mode": default_mode, "template_trained": template_trained, "max_new_tokens": 8}
    manifest = made_up(answers=answers, judge={"present": judge, "threshold": 0.6})
    bounds = Limits(**(LIMITS | limits))
    language, vision = ScriptedLanguage(manifest, answer=_spoken), ScriptedVision(manifest)
    idle = bounds.session_idle_timeout
    store = sessions or MemorySessions(bounds.max_sessions, 1 << 30, idle, time.monotonic)
    embeddings = MemoryEmbeddings.of(manifest.image, 1 << 26)
    uploads = ImageCache(1 << 22, 3600.0, time.monotonic)
    expectations, registry = CostModel(), CollectorRegistry()
    observer = CompositeObserver(expectations, MetricsRecorder(registry))
    waits = {Priority.INTERACTIVE: max_wait, Priority.BATCH: 4 * max_wait}
    gate = AdmissionQueue(concurrency, concurrency, waits, expectations, time.monotonic)
    description = ServerDescription(manifest, model_digest, version, bounds, {"pillow": "12"})
    records = EngineRecords(description)
    orchestrator = compose(
        PromptTemplate(manifest, CharacterTokenizer()),
        Geometry(manifest.image, manifest.tower, "e" * 64),
        language,
        vision,
        executor,
        openings=openings,
        embeddings=embeddings,
        sessions=store,
        gate=gate,
        observer=observer,
        max_rounds=bounds.max_rounds,
        model_digest=model_digest,
        engine_digest=records.digest_of,
        max_images_ahead=ahead,
    )
    service = SegmentationService(orchestrator, description, uploads, executor, observer, records=records)
    return Stage(manifest, language, vision, store, embeddings, uploads, gate, registry, observer, service)


def _spoken(prompt: Prompt) -> Answer:
    """What the model says of itself: no mask to who asks whether it can hear."""
    words = CharacterTokenizer().decode(tuple(token for token in prompt.token_ids if 16 <= token < 2**21))
    if "hear me" in words.rpartition("[INST]")[2]:
        return CharacterTokenizer().encode("Yes."), False
    return CharacterTokenizer().encode("Here "), True


def picture(height: int = 48, width: int = 64, seed: int = 0) -> U8:
    """RGB uint8 (H, W, 3) without a black pixel."""
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), np.uint8)
