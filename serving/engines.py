"""Engines of both halves, the memory they share, and where sessions lie, built as the settings say: a part of the
composition root.

Knows which engine, or store of sessions, a setting names. Does not know the service.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mediround import Tls
from serving.bundle import IMAGE_ENCODER, Bundle
from serving.llm.onnx import OnnxLanguage
from serving.llm.remote import RemoteLanguage
from serving.observer import Observer
from serving.ports import LanguageEngine, VisionEngine
from serving.runtime.graph import CPU, CUDA
from serving.runtime.slab import Slab
from serving.runtime.slab import sweep as sweep_slabs
from serving.runtime.tasks import wait_until_done
from serving.settings import ONNX, Settings
from serving.stats import SlabStats
from serving.stores.kept.records import StoreLimits
from serving.stores.kept.seal import read_key, read_password
from serving.stores.kept.sessions import Derivation, Keeping, KeptSessions
from serving.stores.room import Budget
from serving.stores.sessions import MemorySessions
from serving.stores.sqlite.sessions import SessionFile, sqlite_sessions
from serving.telemetry.collector import CacheState, EngineState
from serving.vision.choice import choose
from serving.vision.interface import encoder_interface
from serving.vision.onnx import OnnxVision
from serving.vision.openvino import HostPrecision, OpenVinoEncoder
from serving.vision.triton.engine import TritonOptions, TritonVision, mask_slab

LOG = logging.getLogger("serving")


class RemoteHalf(Protocol):
    """A half that is a server of its own."""

    async def reached(self) -> None:
        """Return when it serves. Raises BundleError or OSError when it cannot without a change."""

    def availability(self) -> AsyncGenerator[bool]:
        """Whether it serves, now and each time that it has changed."""


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """Memory that Triton maps; None where tensors go by gRPC."""

    embeddings: Slab | None = None
    masks: Slab | None = None

    def stats(self) -> dict[str, SlabStats]:
        """Of those that there are, by what their slots are for."""
        both = {"embeddings": self.embeddings, "masks": self.masks}
        return {name: slab.stats for name, slab in both.items() if slab is not None}


@dataclass(frozen=True, slots=True)
class Remotes:
    """The halves that are servers of their own; None for one in this process."""

    language: RemoteLanguage | None
    vision: TritonVision | None

    def there(self) -> tuple[RemoteHalf, ...]:
        return tuple(half for half in (self.language, self.vision) if half is not None)


@dataclass(frozen=True, slots=True)
class Engines:
    """Both halves, and what metrics show of them."""

    language: LanguageEngine
    vision: VisionEngine
    remotes: Remotes
    health: Mapping[str, EngineState]
    caches: Mapping[str, CacheState]
    """Theirs, in this process."""


@asynccontextmanager
async def engines(bundle: Bundle, settings: Settings, shared: SharedMemory) -> AsyncIterator[Engines]:
    """Both halves, closed at the end.

    Raises:
        OSError: a certificate cannot be read.
        ProviderError: the execution provider that was asked for is not there.
    """
    threads, prefix_bytes = settings.engines.threads, settings.engines.prefix_cache_bytes
    remotes = Remotes(remote_language(bundle, settings), remote_vision(bundle, settings, shared))
    health: dict[str, EngineState] = {}
    caches: dict[str, CacheState] = {}
    language: LanguageEngine
    vision: VisionEngine
    if (servers := remotes.language) is not None:
        language = servers
        health["language"] = EngineState(lambda: servers.description, up=lambda: servers.available)
    else:
        language = onnx = OnnxLanguage(bundle, threads, prefix_bytes, providers(settings))
        health["language"] = EngineState(lambda: onnx.description, up=lambda: True)
        caches["prefix"] = CacheState(lambda: onnx.cache_stats, prefix_bytes)
    if (triton := remotes.vision) is not None:
        vision = triton
        health["vision"] = EngineState(lambda: triton.description, up=lambda: triton.available)
    else:
        vision = here = local_vision(bundle, settings)
        health["vision"] = EngineState(lambda: here.description, up=lambda: True)
    try:
        yield Engines(language, vision, remotes, health, caches)
    finally:
        await language.close()
        await vision.close()


@contextmanager
def shared_memory(bundle: Bundle, settings: Settings) -> Iterator[SharedMemory]:
    """The slabs that the settings ask for. Raises SlabError when this host has too little memory."""
    image = bundle.manifest.image
    size = int(np.prod(image.embedding)) * np.dtype(image.embedding_dtype).itemsize
    slots = settings.slab_bytes // size
    if slots == 0:
        yield SharedMemory()
        return
    sweep_slabs()
    embeddings = Slab(slots, image.embedding, image.embedding_dtype)
    try:
        masks = mask_slab(bundle, settings.triton.mask_slots)
        try:
            yield SharedMemory(embeddings, masks)
        finally:
            masks.close()
    finally:
        embeddings.close()


def remote_language(bundle: Bundle, settings: Settings) -> RemoteLanguage | None:
    """None: the language half is in this process. Raises InvalidArgument when a certificate cannot be used."""
    if not settings.language_servers:
        return None
    files = settings.language_tls
    tls = Tls(files.ca, files.certificate, files.private_key) if settings.language_secure else None
    credentials = tls.credentials() if tls else None
    return RemoteLanguage(settings.language_servers, bundle, settings.limits.max_rounds, credentials)


def providers(settings: Settings) -> tuple[str, ...]:
    """Execution providers of onnxruntime in this process."""
    return CUDA if settings.engines.provider == "cuda" else CPU


def local_vision(bundle: Bundle, settings: Settings) -> OnnxVision:
    """In this process. Raises ProviderError when a runtime that was asked for is not there."""
    return OnnxVision(bundle, settings.engines.threads, providers(settings), openvino_encoder(bundle, settings))


async def with_encoder(bundle: Bundle, settings: Settings) -> Settings:
    """``settings`` with the image encoder's runtime where they leave it open, which is told in the log.

    Cancelled, it leaves no trial behind.
    """
    options = settings.engines
    if options.encoder != "auto" or settings.vision != ONNX or options.provider != "cpu":
        return settings
    given_up = threading.Event()
    choosing = asyncio.create_task(asyncio.to_thread(choose, bundle, options.threads, options.cache, given_up))
    try:
        choice = await asyncio.shield(choosing)
    except asyncio.CancelledError:
        given_up.set()
        await wait_until_done(choosing)
        raise
    LOG.info("image encoder: %s (%s)", choice.encoder, choice.reason)
    return settings.model_copy(update={"engines": options.model_copy(update={"encoder": choice.encoder})})


def openvino_encoder(bundle: Bundle, settings: Settings) -> OpenVinoEncoder | None:
    """None: onnxruntime runs it. Raises ProviderError when OpenVINO, or the precision, is not there."""
    precisions: Mapping[str, HostPrecision] = {"openvino-f32": "f32", "openvino-bf16": "bf16"}
    precision = precisions.get(settings.engines.encoder)
    if precision is None:
        return None
    path, interface = bundle.path(IMAGE_ENCODER), encoder_interface(bundle.manifest.image)
    return OpenVinoEncoder(path, interface, settings.engines.threads, precision)


def remote_vision(bundle: Bundle, settings: Settings, shared: SharedMemory) -> TritonVision | None:
    """None: the vision half is in this process. Raises InvalidArgument when a certificate cannot be used."""
    if settings.triton_server is None:
        return None
    files, triton = settings.vision_tls, settings.triton
    tls = Tls(files.ca, files.certificate, files.private_key) if settings.vision_secure else None
    return TritonVision(
        bundle,
        settings.triton_server,
        TritonOptions(
            triton.version, triton.admin_key.get_secret_value() if triton.admin_key else None, triton.patience
        ),
        embeddings=shared.embeddings,
        masks=shared.masks,
        credentials=tls.credentials() if tls else None,
    )


@asynccontextmanager
async def session_store(
    settings: Settings, derivation: Derivation, executor: Executor, observer: Observer
) -> AsyncIterator[MemorySessions | KeptSessions]:
    """Where sessions lie while the block runs. ``executor`` derives pixels of those that are taken up again.

    Raises:
        ValueError, OSError: where they are to be kept cannot be used.
    """
    limits, kept = settings.limits, settings.sessions
    live = MemorySessions(
        limits.max_sessions,
        limits.max_session_bytes,
        limits.session_idle_timeout,
        time.monotonic,
        give_way_after_s=limits.session_gives_way_after,
        lifetime_s=limits.session_lifetime,
        parks=kept.store != "memory",
        each=Budget(limits.max_sessions_per_caller, limits.max_session_bytes_per_caller),
    )
    if kept.store == "memory":
        yield live
        return
    keeping = Keeping(limits.session_lifetime, kept.images == "encrypted", time.time, observer)
    async with _kept_sessions(settings, live, keeping, derivation, executor) as store:
        yield store


def _kept_sessions(
    settings: Settings, live: MemorySessions, keeping: Keeping, derivation: Derivation, executor: Executor
) -> AbstractAsyncContextManager[KeptSessions]:
    """Raises ValueError or OSError."""
    kept, here = settings.sessions, settings.vision == ONNX and settings.engines.provider == "cpu"
    key = None if kept.key_file is None else read_key(kept.key_file)
    most = StoreLimits(kept.max_bytes, kept.max_sessions, kept.max_bytes_per_caller, kept.max_per_caller)
    if kept.path is not None:
        file = SessionFile(kept.path, kept.durability, most, key)
        return sqlite_sessions(live, file, keeping, derivation, executor)
    try:
        from serving.stores.redis.connection import RedisAddress  # noqa: PLC0415  # the extra `redis`
        from serving.stores.redis.sessions import SessionRedis, redis_sessions  # noqa: PLC0415  # as above
    except ImportError:
        raise ValueError("redis is not installed: --sessions.store redis needs '.[redis]'") from None
    address = RedisAddress(
        url=kept.redis or "",
        user=kept.redis_user,
        password=None if kept.redis_password_file is None else read_password(kept.redis_password_file),
        ca=kept.tls.ca,
        certificate=kept.tls.certificate,
        private_key=kept.tls.private_key,
        patience_s=kept.redis_patience,
    )
    place = SessionRedis(address, kept.durability, most, key, settings.engines.encoder if here else None)
    return redis_sessions(live, place, keeping, derivation, executor)
