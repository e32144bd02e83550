"""``python -m serving``: the place that builds things (``serving.llm.__main__`` is the other process's).

Reads the settings once, builds engines, stores, orchestrator and service, asks one round to warm up, says
SERVING, and drains on SIGTERM or SIGINT. Before that round it waits for each half that is a server of its own;
afterwards it goes on without it: the sessions live here, and who asks a round then is told to come again. A
start that fails ends with status 2 and one line that names the fix.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

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
from serving.ports import LanguageEngine, VisionEngine
from serving.program import before, beside, run, server_tls, stop_asked
from serving.server import LANGUAGE, VISION, Server
from serving.service import SegmentationService
from serving.settings import Settings
from serving.slab import Slab
from serving.slab import sweep as sweep_slabs
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.sessions import MemorySessions
from serving.tokenizer import Tokenizer
from serving.uploads import Uploads
from serving.vision.onnx import OnnxVision
from serving.vision.triton.engine import TritonOptions, TritonVision, mask_slab

LOG = logging.getLogger("serving")
SWEEP_SECONDS = 30.0


class RemoteHalf(Protocol):
    """A half that is a server of its own."""

    async def reached(self) -> None:
        """Return when it serves. Raises BundleError or OSError when it never will as it is."""

    def availability(self) -> AsyncGenerator[bool]:
        """Whether it serves, now and each time that it has changed."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Memory that Triton maps; None where tensors go by gRPC."""

    embeddings: Slab | None = None
    masks: Slab | None = None


def remote_language(bundle: Bundle, settings: Settings) -> RemoteLanguage | None:
    """None: the language half is in this process. Raises OSError when a certificate cannot be read."""
    if not settings.language_servers:
        return None
    files = settings.language_tls
    tls = Tls(files.ca, files.certificate, files.private_key) if settings.language_secure else None
    credentials = tls.credentials() if tls else None
    return RemoteLanguage(settings.language_servers, bundle, settings.limits.max_rounds, credentials)


def remote_vision(bundle: Bundle, settings: Settings, shared: Shared) -> TritonVision | None:
    """None: the vision half is in this process. Raises OSError when a certificate cannot be read."""
    if settings.triton_server is None:
        return None
    files, said = settings.vision_tls, settings.triton
    tls = Tls(files.ca, files.certificate, files.private_key) if settings.vision_secure else None
    return TritonVision(
        bundle,
        settings.triton_server,
        TritonOptions(said.version, said.admin_key.get_secret_value() if said.admin_key else None, said.patience),
        embeddings=shared.embeddings,
        masks=shared.masks,
        credentials=tls.credentials() if tls else None,
    )


@contextmanager
def shared_memory(bundle: Bundle, settings: Settings) -> Iterator[Shared]:
    """What the settings ask for. Raises SlabError when this host has not so much."""
    image = bundle.manifest.image
    size = int(np.prod(image.embedding)) * np.dtype(image.embedding_dtype).itemsize
    slots = settings.slab_bytes // size
    if slots == 0:
        yield Shared()
        return
    sweep_slabs()
    embeddings = Slab(slots, image.embedding, image.embedding_dtype)
    try:
        masks = mask_slab(bundle, settings.triton.mask_slots)
        try:
            yield Shared(embeddings, masks)
        finally:
            masks.close()
    finally:
        embeddings.close()


@asynccontextmanager
async def engines(
    bundle: Bundle, settings: Settings, remote: RemoteLanguage | None, triton: TritonVision | None
) -> AsyncIterator[tuple[LanguageEngine, VisionEngine]]:
    """Both halves, closed at the end."""
    threads = settings.engines.threads
    language = remote or OnnxLanguage(bundle, threads, settings.engines.prefix_cache_bytes)
    vision = triton or OnnxVision(bundle, threads)
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
    vision: VisionEngine,
    sessions: MemorySessions,
    executor: Executor,
    slab: Slab | None = None,
) -> Orchestrator:
    """The orchestrator with an embedding store of its own, which puts embeddings into ``slab`` first."""
    manifest = bundle.manifest
    image, budget = manifest.image, settings.engines.embedding_bytes
    return Orchestrator(
        language=language,
        vision=vision,
        embeddings=MemoryEmbeddings(budget, image.embedding, image.embedding_dtype, slab),
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


async def get_ready(target: Orchestrator, *remotes: RemoteHalf) -> None:
    """Warm up, once the halves that are servers of their own are there.

    Raises:
        BundleError: one of them does not serve our bundle.
        SlabError: Triton cannot map our memory.
    """
    while True:
        for remote in remotes:
            await remote.reached()
        try:
            return await warm_up(target)
        except (Exhausted, Unavailable) as later:
            if not remotes:
                raise
            LOG.warning("warm-up round: %s; trying again", later)
            await asyncio.sleep(later.retry_after)


async def sweep(*stores: MemorySessions | Uploads) -> None:
    """Drop what is idle, also while no call comes."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        for store in stores:
            store.sweep()


async def report_half(server: Server, name: str, remote: RemoteHalf | None) -> None:
    """Health of one half, under a name of its own."""
    await server.report(name, serving=remote is None)
    if remote:
        async for available in remote.availability():
            await server.report(name, serving=available)


async def serve(settings: Settings) -> int:
    """Serve until told to stop."""
    stop = stop_asked()
    bundle = load_bundle(settings.bundle)
    remote = remote_language(bundle, settings)
    with (
        ThreadPoolExecutor(2, thread_name_prefix="pixels") as executor,
        shared_memory(bundle, settings) as shared,
    ):
        triton = remote_vision(bundle, settings, shared)
        async with engines(bundle, settings, remote, triton) as (language, vision):
            limits = settings.limits
            idle, clock = limits.session_idle_timeout, time.monotonic
            sessions = MemorySessions(limits.max_sessions, limits.max_session_bytes, idle, clock)
            uploads = Uploads(limits.max_upload_bytes_held, idle, clock)
            target = orchestrator(
                bundle,
                settings,
                language=language,
                vision=vision,
                sessions=sessions,
                executor=executor,
                slab=shared.embeddings,
            )
            service = SegmentationService(target, description(bundle, settings), uploads, executor)
            server = Server(service, settings.listen, server_tls(settings.tls))
            async with (
                beside(sweep(sessions, uploads)),
                server.running(settings.drain_seconds),
                beside(report_half(server, LANGUAGE, remote)),
                beside(report_half(server, VISION, triton)),
            ):
                if await before(stop, get_ready(target, *(half for half in (remote, triton) if half))):
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
