"""``python -m serving.llm``: the composition root of the language half as a process of its own.

Reads the settings once, builds the engine, reads one prompt to warm up, says SERVING, and drains on SIGTERM or
SIGINT. When the engine dies the process ends with status 1, for its supervisor to start another. A start that
fails ends with status 2 and one line that names the fix.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version

from prometheus_client import REGISTRY, CollectorRegistry

from mediround import InvalidArgument
from serving.bundle import Bundle, BundleError, load_bundle
from serving.errors import ServingError
from serving.llm.server import LanguageServer
from serving.llm.service import LanguageService
from serving.llm.settings import LanguageServerSettings, OnnxSettings
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU, VllmOptions
from serving.llm.warmup import first_prompt
from serving.ports import LanguageEngine
from serving.process import metrics, run, server_tls, stop_signal, unless_stopped
from serving.telemetry import collector
from serving.telemetry import metrics as telemetry

LOG = logging.getLogger("serving.llm")
ENGINE_DIED = 1


@dataclass(frozen=True, slots=True)
class ServedEngine:
    language: LanguageEngine
    died: Callable[[], Awaitable[None]]
    """Returns once it will never answer again."""
    caches: Mapping[str, collector.CacheState] = field(default_factory=dict)
    """Those that it counts for us."""
    measured: tuple[str, ...] = ()
    """Prefixes of what its own library measures, in the process's registry."""


Build = Callable[[Bundle, LanguageServerSettings], Awaitable[ServedEngine]]


async def build(bundle: Bundle, settings: LanguageServerSettings) -> ServedEngine:
    """The engine that the settings name."""
    if settings.engine == "onnx":
        return _onnx(bundle, settings.onnx)
    defaults = ON_CPU if settings.engine == "vllm-cpu" else VllmOptions()
    given = settings.vllm.model_dump(exclude_unset=True)
    options = replace(defaults, **given, max_references=settings.limits.max_references)
    vllm = await VllmLanguage.start(bundle, options)
    return ServedEngine(vllm, died=vllm.died, measured=("vllm:",))


def _onnx(bundle: Bundle, settings: OnnxSettings) -> ServedEngine:
    try:
        from serving.llm.onnx import OnnxLanguage  # noqa: PLC0415  # beside vLLM, ONNX Runtime need not be installed
    except ModuleNotFoundError as missing:
        what = f"{missing.name} is not installed: in the repository, pip install ./clients '.[cpu]'"
        raise RuntimeError(f"{what}, or choose another --engine") from missing
    onnx = OnnxLanguage(bundle, settings.threads, settings.prefix_cache_bytes)
    prefixes = collector.CacheState(lambda: onnx.cache_stats, settings.prefix_cache_bytes)
    return ServedEngine(onnx, died=forever, caches={"prefix": prefixes})


async def forever() -> None:
    """An engine in this process dies with it."""
    await asyncio.Event().wait()


def measured(
    bundle: Bundle, settings: LanguageServerSettings, engine: ServedEngine, service: LanguageService
) -> CollectorRegistry:
    """Current state, and what the engine's library measures of itself."""
    manifest = bundle.manifest
    pictures = collector.CacheState(lambda: service.picture_stats, settings.limits.picture_bytes)
    sources = collector.StateSources(
        version=version("mediround-serving"),
        model={"name": manifest.name, "version": manifest.version, "digest": bundle.digest[:12]},
        engines={"language": collector.EngineState(lambda: engine.language.description, up=lambda: service.alive)},
        caches={"pictures": pictures, **engine.caches},
        plain=[(telemetry.PROMPTS, lambda: service.in_flight)],
    )
    registry = CollectorRegistry()
    registry.register(collector.StateCollector(sources))
    registry.register(collector.LibraryMetrics(engine.measured, REGISTRY))
    return registry


async def serve(settings: LanguageServerSettings, build_engine: Build) -> int:
    """Serve until a signal stops it, or the engine dies."""
    stop = stop_signal(with_stdin=settings.stop_with_stdin)
    bundle = load_bundle(settings.bundle)
    engine = await build_engine(bundle, settings)
    try:
        limits = settings.limits
        service = LanguageService(
            engine.language, bundle, limits.max_calls, limits.max_references, limits.picture_bytes
        )
        server = LanguageServer(service, settings.listen, server_tls(settings.tls))
        registry = measured(bundle, settings, engine, service)
        async with metrics(registry, settings.metrics_listen), server.running(settings.drain_seconds):
            await engine.language.complete(first_prompt(bundle.manifest))
            await server.ready()
            name = f"{bundle.manifest.name} {bundle.manifest.version} ({bundle.digest[:12]})"
            LOG.info("serving the language half of %s on %s", name, server.address)
            died = await unless_stopped(stop, server.outlive(engine.died()))
            if died:
                LOG.error("the engine has died")
            LOG.info("draining for at most %g s", settings.drain_seconds)
    finally:
        await engine.language.close()
    return ENGINE_DIED if died else 0


def main(build_engine: Build = build) -> int:
    starting = partial(serve, build_engine=build_engine)
    cannot_serve = (BundleError, ServingError, InvalidArgument, OSError, RuntimeError, ValueError)
    return run("python -m serving.llm", LanguageServerSettings, starting, cannot_serve)


if __name__ == "__main__":
    sys.exit(main())
