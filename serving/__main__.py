"""``python -m serving``: the composition root of the orchestrator (``serving.llm.__main__`` is the other's).

Reads the settings once, builds engines, stores, orchestrator and service, asks one round to warm up, says
SERVING, and drains on SIGTERM or SIGINT. Before that round it waits for each half that is a server of its own;
afterwards it goes on without it: the sessions live here, and a round that needs it is refused with a time to
retry. A start that fails ends with status 2 and one line that names the fix.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import version

import numpy as np
from prometheus_client import CollectorRegistry

from mediround import InvalidArgument
from serving import geometry
from serving.admission.cost import CostModel
from serving.admission.queue import AdmissionQueue
from serving.api import images
from serving.api.description import ServerDescription
from serving.api.image_cache import ImageCache
from serving.api.limits import Limits
from serving.api.records import EngineRecords
from serving.api.server import LANGUAGE, VISION, Server
from serving.api.service import SegmentationService
from serving.bundle import Bundle, BundleError, load_bundle
from serving.domain import AnswerMode, Correction, CorrectionPolicy, Priority, Question
from serving.engines import Engines, RemoteHalf, SharedMemory, engines, session_store, shared_memory, with_encoder
from serving.errors import Exhausted, ServingError, Unavailable
from serving.geometry import Geometry
from serving.observer import CompositeObserver, Observer
from serving.offline import compose
from serving.orchestrator import Orchestrator
from serving.ports import Gate
from serving.process import background, metrics, run, server_tls, stop_signal, unless_stopped
from serving.prompt import PromptTemplate
from serving.runtime.cpus import usable_cpus
from serving.runtime.graph import ProviderError
from serving.runtime.slab import Slab
from serving.settings import Settings
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.kept.sessions import KeptSessions
from serving.stores.sessions import MemorySessions
from serving.telemetry import metrics as telemetry
from serving.telemetry.collector import CacheState, StateCollector, StateSources
from serving.telemetry.recorder import MetricsRecorder
from serving.telemetry.status import StatusBoard

LOG = logging.getLogger("serving")
SWEEP_SECONDS = 30.0
CONCURRENCY_HERE, CONCURRENCY_ELSEWHERE = 4, 32
ENCODES_HERE, ENCODES_IN_TRITON = 2, 8  # one runs, or a batch of two, and more are ready
LEAST_WORKERS = 2
"""Threads for pixels, and for openings: with one, a large image would hold up all others."""


@dataclass(frozen=True, slots=True)
class Stores:
    sessions: MemorySessions | KeptSessions
    embeddings: MemoryEmbeddings
    uploads: ImageCache


@asynccontextmanager
async def stores(
    bundle: Bundle, settings: Settings, slab: Slab | None, pixels: Executor, observer: Observer
) -> AsyncIterator[Stores]:
    """In this process's memory, but for sessions that are kept elsewhere; embeddings first in ``slab``."""
    limits = settings.limits
    async with session_store(settings, Geometry.of(bundle), pixels, observer) as sessions:
        yield Stores(
            sessions=sessions,
            embeddings=MemoryEmbeddings.of(bundle.manifest.image, settings.engines.embedding_bytes, slab),
            uploads=ImageCache(limits.max_upload_bytes_held, limits.session_idle_timeout, time.monotonic),
        )


def admission(settings: Settings, expectations: CostModel) -> AdmissionQueue:
    """A queue that lets as many requests run as the engines can work on at once."""
    options = settings.admission
    waits = {Priority.INTERACTIVE: options.max_wait, Priority.BATCH: options.max_batch_wait}
    elsewhere = settings.language_servers or settings.triton_server
    concurrency = options.concurrency or (CONCURRENCY_ELSEWHERE if elsewhere else CONCURRENCY_HERE)
    encodes = options.encode_concurrency or (ENCODES_IN_TRITON if settings.triton_server else ENCODES_HERE)
    return AdmissionQueue(concurrency, encodes, waits, expectations, time.monotonic)


def sources(
    bundle: Bundle,
    settings: Settings,
    *,
    halves: Engines,
    memory: Stores,
    shared: SharedMemory,
    queue: AdmissionQueue,
    expectations: CostModel,
) -> StateSources:
    """What metrics read at scrape time."""
    limits, manifest = settings.limits, bundle.manifest
    embeddings = CacheState(lambda: memory.embeddings.stats, settings.engines.embedding_bytes)
    uploads = CacheState(lambda: memory.uploads.stats, limits.max_upload_bytes_held)
    vision = halves.remotes.vision
    return StateSources(
        version=version("mediround-serving"),
        model={"name": manifest.name, "version": manifest.version, "digest": bundle.digest[:12]},
        engines=halves.health,
        caches={"embedding": embeddings, "uploads": uploads, **halves.caches},
        queues={priority.name.lower(): partial(queue.stats, priority) for priority in Priority},
        expected={
            "encode": lambda: expectations.encode.seconds,
            "pass": lambda: expectations.language_pass.seconds,
            "mask": lambda: expectations.mask.seconds,
        },
        embeddings=lambda: memory.embeddings.stats,
        slabs=shared.stats,
        triton=None if vision is None else lambda: vision.counts,
        sessions=lambda: memory.sessions.stats,
        store_limit_bytes=0 if settings.sessions.store == "memory" else settings.sessions.max_bytes,
        plain=[
            (telemetry.SESSIONS, lambda: memory.sessions.count),
            (telemetry.SESSIONS_LIMIT, lambda: limits.max_sessions),
            (telemetry.SESSION_BYTES, lambda: memory.sessions.nbytes),
        ],
    )


def orchestrator(
    bundle: Bundle,
    settings: Settings,
    *,
    halves: Engines,
    memory: Stores,
    gate: Gate,
    observer: Observer,
    pixels: Executor,
    openings: Executor,
    records: EngineRecords,
) -> Orchestrator:
    """The orchestrator of these parts."""
    ahead = memory.embeddings.capacity // 2 if settings.admission.encode_on_open == "auto" else 0
    return compose(
        PromptTemplate.of(bundle),
        Geometry.of(bundle),
        halves.language,
        halves.vision,
        pixels,
        openings=openings,
        embeddings=memory.embeddings,
        sessions=memory.sessions,
        gate=gate,
        observer=observer,
        max_rounds=settings.limits.max_rounds,
        max_images_ahead=ahead,
        model_digest=bundle.digest,
        engine_digest=records.digest_of,
    )


def description(bundle: Bundle, settings: Settings) -> ServerDescription:
    """What ``DescribeServer`` answers."""
    return ServerDescription(
        manifest=bundle.manifest,
        model_digest=bundle.digest,
        server_version=version("mediround-serving"),
        limits=Limits(**settings.limits.model_dump(include={each.name for each in fields(Limits)})),
        libraries=images.libraries() | geometry.LIBRARIES,
    )


async def warm_up(target: Orchestrator) -> None:
    """One whole round, with a second that refers to it, on a made-up image."""
    side = target.form.manifest.image.side
    pixels = np.random.default_rng(0).integers(1, 256, (side, side, 3), np.uint8)
    session = await target.open("warm-up", pixels)
    answer = target.form.manifest.answers.template  # trained or not: these masks are thrown away
    questions = [
        Question("Segment this.", None, AnswerMode.FORCED, answer),
        Question("Segment this.", 0, AnswerMode.FORCED, answer),
    ][: target.max_rounds]
    correction = Correction(CorrectionPolicy.ALWAYS, target.form.manifest.judge.threshold)
    try:
        async for _ in target.segment(session.session_id, "warm-up", questions, correction):
            pass
    finally:
        await target.close(session.session_id, "warm-up")


async def get_ready(target: Orchestrator, *remotes: RemoteHalf) -> None:
    """Warm up, once the halves in other processes serve.

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


async def sweep(*stores: MemorySessions | KeptSessions | ImageCache) -> None:
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


def workers(name: str, useful: int) -> ThreadPoolExecutor:
    """Threads for pixels: no more than are ``useful``, nor than there are CPUs."""
    return ThreadPoolExecutor(max(LEAST_WORKERS, min(useful, usable_cpus())), thread_name_prefix=name)


def observed(settings: Settings, expectations: CostModel, registry: CollectorRegistry) -> Observer:
    """Whatever must hear of rounds."""
    listens = settings.metrics_listen
    return CompositeObserver(expectations, MetricsRecorder(registry)) if listens else expectations


async def serve(settings: Settings) -> int:
    """Serve until a signal stops it."""
    stop = stop_signal(with_stdin=settings.stop_with_stdin)
    bundle = load_bundle(settings.bundle)
    chosen = await unless_stopped(stop, with_encoder(bundle, settings))
    if chosen is None:
        return 0
    settings, expectations, registry = chosen.result(), CostModel(), CollectorRegistry()
    observer = observed(settings, expectations, registry)
    queue, served = admission(settings, expectations), description(bundle, settings)
    records = EngineRecords(served)
    async with AsyncExitStack() as stack:
        pixels = stack.enter_context(workers("pixels", settings.limits.max_concurrent_rounds))
        openings = stack.enter_context(workers("openings", settings.limits.max_concurrent_uploads))
        shared = stack.enter_context(shared_memory(bundle, settings))
        memory = await stack.enter_async_context(stores(bundle, settings, shared.embeddings, pixels, observer))
        halves = await stack.enter_async_context(engines(bundle, settings, shared))
        target = orchestrator(
            bundle,
            settings,
            halves=halves,
            memory=memory,
            gate=queue,
            observer=observer,
            pixels=pixels,
            openings=openings,
            records=records,
        )
        stack.push_async_callback(target.encode_on_open.close)
        service = SegmentationService(target, served, memory.uploads, pixels, observer, records=records)
        server = Server(service, settings.listen, server_tls(settings.tls), observer)
        await stack.enter_async_context(background(sweep(memory.sessions, memory.uploads)))
        state = sources(
            bundle, settings, halves=halves, memory=memory, shared=shared, queue=queue, expectations=expectations
        )
        registry.register(StateCollector(state))
        board = StatusBoard(registry, time.monotonic)
        await stack.enter_async_context(metrics(registry, settings.metrics_listen, board))
        await stack.enter_async_context(server.running(settings.drain_seconds))
        await stack.enter_async_context(background(report_half(server, LANGUAGE, halves.remotes.language)))
        await stack.enter_async_context(background(report_half(server, VISION, halves.remotes.vision)))
        if await unless_stopped(stop, get_ready(replace(target, observer=expectations), *halves.remotes.there())):
            await server.ready()
            name = f"{bundle.manifest.name} {bundle.manifest.version} ({bundle.digest[:12]})"
            LOG.info("serving %s on %s", name, server.address)
            await stop.wait()
        LOG.info("draining for at most %g s", settings.drain_seconds)
    return 0


def main() -> int:
    cannot_serve = (BundleError, ProviderError, ServingError, InvalidArgument, OSError, RuntimeError, ValueError)
    return run("python -m serving", Settings, serve, cannot_serve)


if __name__ == "__main__":
    sys.exit(main())
