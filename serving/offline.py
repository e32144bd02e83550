"""The orchestrator in one process, without a server: for programs that hold images and questions themselves.

Knows how the parts are put together, and what stands in for those that a program does not bring: ONNX engines,
stores in this process's memory, a gate that lets all in. Does not know settings, gRPC, or halves that are servers
of their own (``serving.engines``).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager

from serving.admission.permits import OpenGate
from serving.bundle import Bundle
from serving.domain import Runtimes
from serving.geometry import Geometry
from serving.llm.onnx import OnnxLanguage
from serving.observer import NullObserver, Observer
from serving.orchestrator import Orchestrator
from serving.ports import EmbeddingStore, Gate, LanguageEngine, SessionStore, VisionEngine
from serving.prompt import PromptTemplate
from serving.sessions.embedding import Encoding
from serving.sessions.encode_on_open import EncodeOnOpen
from serving.sessions.keeper import SessionKeeper
from serving.sessions.preparation import ImagePreparation
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.sessions import MemorySessions
from serving.vision.onnx import OnnxVision

PREFIX_BYTES = 1 << 28
EMBEDDING_BYTES = 1 << 26
SESSIONS, SESSION_BYTES, SESSION_IDLE_SECONDS = 64, 1 << 30, 3600.0
MAX_ROUNDS = 64
"""Of one session."""


@asynccontextmanager
async def offline(
    bundle: Bundle,
    threads: int,
    *,
    language: LanguageEngine | None = None,
    vision: VisionEngine | None = None,
    embeddings: EmbeddingStore | None = None,
) -> AsyncIterator[Orchestrator]:
    """An orchestrator of this bundle while the block runs; its engines, also those given, are closed at the end.

    Args:
        threads: for each operator of the ONNX engines, which are made where no other is given.

    Raises:
        BundleError: a graph is not what the manifest says.
    """
    async with AsyncExitStack() as stack:
        language = language or OnnxLanguage(bundle, threads, PREFIX_BYTES)
        stack.push_async_callback(language.close)
        vision = vision or OnnxVision(bundle, threads)
        stack.push_async_callback(vision.close)
        pixels = stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="pixels"))
        form, geometry = PromptTemplate.of(bundle), Geometry.of(bundle)
        yield compose(form, geometry, language, vision, pixels, embeddings=embeddings, model_digest=bundle.digest)


def compose(  # the first five are what every orchestrator has of its own
    form: PromptTemplate,
    geometry: Geometry,
    language: LanguageEngine,
    vision: VisionEngine,
    pixels: Executor,
    *,
    openings: Executor | None = None,
    embeddings: EmbeddingStore | None = None,
    sessions: SessionStore | None = None,
    gate: Gate | None = None,
    observer: Observer | None = None,
    max_rounds: int = MAX_ROUNDS,
    max_images_ahead: int = 0,
    model_digest: str = "",
    engine_digest: Callable[[Runtimes], str] = lambda _: "",
) -> Orchestrator:
    """The orchestrator of these parts. ``openings`` works on the pixels of new images; by default, ``pixels``.

    ``max_images_ahead``: most images with an embedding that nobody has asked for yet (``EncodeOnOpen``).
    """
    store = sessions or MemorySessions(SESSIONS, SESSION_BYTES, SESSION_IDLE_SECONDS, time.monotonic)
    embeddings = embeddings or MemoryEmbeddings.of(geometry.image, EMBEDDING_BYTES)
    gate, observer = gate or OpenGate(), observer or NullObserver()
    encoding = Encoding(vision, geometry, pixels)
    ahead = EncodeOnOpen(
        ImagePreparation(language, embeddings, encoding, gate, form),
        embeddings,
        observer,
        time.monotonic,
        max_images=max_images_ahead,
    )
    return Orchestrator(
        keeper=SessionKeeper(store, geometry, openings or pixels, model_digest),
        language=language,
        vision=vision,
        embeddings=embeddings,
        gate=gate,
        observer=observer,
        form=form,
        geometry=geometry,
        encoding=encoding,
        encode_on_open=ahead,
        pixel_executor=pixels,
        max_rounds=max_rounds,
        engine_digest=engine_digest,
    )
