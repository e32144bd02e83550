"""``python -m serving``: the place that builds things (``serving.llm.__main__`` is the other process's).

Reads the settings once, builds engines, stores, orchestrator and service, asks one round to warm up, says
SERVING, and drains on SIGTERM or SIGINT. Before that round it waits for a language server, where there are such;
afterwards it goes on without one: the sessions live here, and who asks a round then is told to come again. A
start that fails ends with status 2 and one line that names the fix.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

import numpy as np

from mediround import Tls
from serving.bundle import IMAGE_ENCODER, TOKENIZER, Bundle, BundleError, load_bundle
from serving.description import ServerDescription
from serving.dialogue import PromptForm
from serving.domain import AnswerMode, Correction, CorrectionPolicy, Question
from serving.errors import Exhausted, ServingError, Unavailable
from serving.geometry import Geometry
from serving.graph import ProviderError
from serving.limits import Limits
from serving.llm.onnx import OnnxLanguage
from serving.llm.remote import RemoteLanguage
from serving.orchestrator import Orchestrator
from serving.ports import LanguageEngine
from serving.program import before, beside, run, server_tls, stop_asked
from serving.server import LANGUAGE, Server
from serving.service import SegmentationService
from serving.settings import Settings
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.sessions import MemorySessions
from serving.tokenizer import Tokenizer
from serving.uploads import Uploads
from serving.vision.onnx import OnnxVision

LOG = logging.getLogger("serving")
SWEEP_SECONDS = 30.0


def remote_language(bundle: Bundle, settings: Settings) -> RemoteLanguage | None:
    """None: the language half is in this process. Raises OSError when a certificate cannot be read."""
    if not settings.language_servers:
        return None
    files = settings.language_tls
    tls = Tls(files.ca, files.certificate, files.private_key) if settings.language_secure else None
    credentials = tls.credentials() if tls else None
    return RemoteLanguage(settings.language_servers, bundle, settings.limits.max_rounds, credentials)


@asynccontextmanager
async def engines(
    bundle: Bundle, settings: Settings, remote: RemoteLanguage | None
) -> AsyncIterator[tuple[LanguageEngine, OnnxVision]]:
    """Both halves, closed at the end."""
    threads = settings.engines.threads
    language = remote or OnnxLanguage(bundle, threads, settings.engines.prefix_cache_bytes)
    vision = OnnxVision(bundle, threads)
    try:
        yield language, vision
    finally:
        await language.close()
        await vision.close()


def orchestrator(
    bundle: Bundle,
    settings: Settings,
    *,
    language: LanguageEngine,
    vision: OnnxVision,
    sessions: MemorySessions,
    executor: Executor,
) -> Orchestrator:
    """The orchestrator with an embedding store of its own."""
    manifest = bundle.manifest
    image = manifest.image
    return Orchestrator(
        language=language,
        vision=vision,
        embeddings=MemoryEmbeddings(settings.engines.embedding_bytes, image.embedding, image.embedding_dtype),
        sessions=sessions,
        form=PromptForm(manifest, Tokenizer(bundle.path(TOKENIZER), manifest.tokens)),
        geometry=Geometry(image, manifest.tower, manifest.files[IMAGE_ENCODER]),
        pixel_executor=executor,
        max_rounds=settings.limits.max_rounds,
    )


def description(bundle: Bundle, settings: Settings) -> ServerDescription:
    """What ``DescribeServer`` tells."""
    own = {"max_session_bytes", "max_upload_bytes_held"}
    return ServerDescription(
        manifest=bundle.manifest,
        model_digest=bundle.digest,
        server_version=version("mediround-serving"),
        limits=Limits(**settings.limits.model_dump(exclude=own)),
    )


async def warm_up(target: Orchestrator) -> None:
    """One whole round, with a second that refers to it, on a made-up image."""
    side = target.form.manifest.image.side
    pixels = np.random.default_rng(0).integers(1, 256, (side, side, 3), np.uint8)
    session = await target.open("warm-up", pixels)
    questions = [
        Question("Segment this.", None, AnswerMode.FORCED),
        Question("Segment this.", 0, AnswerMode.FORCED),
    ][: target.max_rounds]
    correction = Correction(CorrectionPolicy.ALWAYS, target.form.manifest.judge.threshold)
    try:
        async for _ in target.segment(session.session_id, "warm-up", questions, correction):
            pass
    finally:
        await target.close(session.session_id, "warm-up")


async def get_ready(target: Orchestrator, remote: RemoteLanguage | None) -> None:
    """Warm up, once the language half is there.

    Raises:
        BundleError: no language server serves our bundle.
    """
    while True:
        if remote:
            await remote.reached()
        try:
            return await warm_up(target)
        except (Exhausted, Unavailable) as later:
            if remote is None:
                raise
            LOG.warning("warm-up round: %s; trying again", later)
            await asyncio.sleep(later.retry_after)


async def sweep(*stores: MemorySessions | Uploads) -> None:
    """Drop what is idle, also while no call comes."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        for store in stores:
            store.sweep()


async def report_language(server: Server, remote: RemoteLanguage | None) -> None:
    """Health of the language half, under a name of its own."""
    await server.report(LANGUAGE, serving=remote is None)
    if remote:
        async for available in remote.availability():
            await server.report(LANGUAGE, serving=available)


async def serve(settings: Settings) -> int:
    """Serve until told to stop."""
    stop = stop_asked()
    bundle = load_bundle(settings.bundle)
    remote = remote_language(bundle, settings)
    with ThreadPoolExecutor(2, thread_name_prefix="pixels") as executor:
        async with engines(bundle, settings, remote) as (language, vision):
            limits = settings.limits
            idle, clock = limits.session_idle_timeout, time.monotonic
            sessions = MemorySessions(limits.max_sessions, limits.max_session_bytes, idle, clock)
            uploads = Uploads(limits.max_upload_bytes_held, idle, clock)
            target = orchestrator(
                bundle, settings, language=language, vision=vision, sessions=sessions, executor=executor
            )
            service = SegmentationService(target, description(bundle, settings), uploads, executor)
            server = Server(service, settings.listen, server_tls(settings.tls))
            async with (
                beside(sweep(sessions, uploads)),
                server.running(settings.drain_seconds),
                beside(report_language(server, remote)),
            ):
                if await before(stop, get_ready(target, remote)):
                    await server.ready()
                    name = f"{bundle.manifest.name} {bundle.manifest.version} ({bundle.digest[:12]})"
                    LOG.info("serving %s on %s", name, server.address)
                    await stop.wait()
                LOG.info("draining for at most %g s", settings.drain_seconds)
    return 0


def main() -> int:
    cannot_serve = (BundleError, ProviderError, ServingError, OSError, RuntimeError, ValueError)
    return run("python -m serving", Settings, serve, cannot_serve)


if __name__ == "__main__":
    sys.exit(main())
