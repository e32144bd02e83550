"""``python -m serving``: the only place that builds things.

Reads the settings once, builds engines, stores, orchestrator and service, asks one round to warm up, says
SERVING, and drains on SIGTERM or SIGINT. A start that fails ends with status 2 and one line that names the fix.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

import numpy as np
from pydantic import ValidationError

from serving.bundle import IMAGE_ENCODER, TOKENIZER, Bundle, BundleError, load_bundle
from serving.description import ServerDescription
from serving.dialogue import PromptForm
from serving.domain import AnswerMode, Correction, CorrectionPolicy, Question
from serving.geometry import Geometry
from serving.graph import ProviderError
from serving.limits import Limits
from serving.llm.onnx import OnnxLanguage
from serving.orchestrator import Orchestrator
from serving.server import Server, ServerTls
from serving.service import SegmentationService
from serving.settings import Settings, TlsSettings
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.sessions import MemorySessions
from serving.tokenizer import Tokenizer
from serving.uploads import Uploads
from serving.vision.onnx import OnnxVision

LOG = logging.getLogger("serving")
START_FAILED = 2


@asynccontextmanager
async def engines(bundle: Bundle, settings: Settings) -> AsyncIterator[tuple[OnnxLanguage, OnnxVision]]:
    """Both halves, closed at the end."""
    threads = settings.engines.threads
    language = OnnxLanguage(bundle, threads, settings.engines.prefix_cache_bytes)
    vision = OnnxVision(bundle, threads)
    try:
        yield language, vision
    finally:
        await language.close()
        await vision.close()


def orchestrator(
    bundle: Bundle, settings: Settings, language: OnnxLanguage, vision: OnnxVision, executor: Executor
) -> Orchestrator:
    """The orchestrator with stores of its own."""
    manifest, limits = bundle.manifest, settings.limits
    image = manifest.image
    return Orchestrator(
        language=language,
        vision=vision,
        embeddings=MemoryEmbeddings(settings.engines.embedding_bytes, image.embedding, image.embedding_dtype),
        sessions=MemorySessions(
            limits.max_sessions, limits.max_session_bytes, limits.session_idle_timeout, time.monotonic
        ),
        form=PromptForm(manifest, Tokenizer(bundle.path(TOKENIZER), manifest.tokens)),
        geometry=Geometry(image, manifest.tower, manifest.files[IMAGE_ENCODER]),
        pixel_executor=executor,
        max_rounds=limits.max_rounds,
    )


def description(bundle: Bundle, settings: Settings, language: str, vision: str) -> ServerDescription:
    """What ``DescribeServer`` tells."""
    own = {"max_session_bytes", "max_upload_bytes_held"}
    return ServerDescription(
        manifest=bundle.manifest,
        model_digest=bundle.digest,
        server_version=version("mediround-serving"),
        limits=Limits(**settings.limits.model_dump(exclude=own)),
        language_engine=language,
        vision_engine=vision,
    )


async def warm_up(target: Orchestrator) -> None:
    """One whole round, with a second that refers to it, on a made-up image."""
    side = target.form.manifest.image.side
    pixels = np.random.default_rng(0).integers(1, 256, (side, side, 3), np.uint8)
    session = await target.open("warm-up", pixels)
    questions = [
        Question("Segment this.", None, AnswerMode.FORCED),
        Question("Segment this.", 0, AnswerMode.FORCED),
    ]
    correction = Correction(CorrectionPolicy.ALWAYS, target.form.manifest.judge.threshold)
    async for _ in target.segment(session.session_id, "warm-up", questions, correction):
        pass
    await target.close(session.session_id, "warm-up")


def server_tls(settings: TlsSettings) -> ServerTls | None:
    """The files' contents; None without TLS. Raises OSError when one cannot be read."""
    if settings.certificate is None or settings.private_key is None:
        return None
    authority = settings.client_ca.read_bytes() if settings.client_ca else None
    return ServerTls(settings.certificate.read_bytes(), settings.private_key.read_bytes(), authority)


async def serve(settings: Settings) -> None:
    """Serve until told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bundle = load_bundle(settings.bundle)
    with ThreadPoolExecutor(2, thread_name_prefix="pixels") as executor:
        async with engines(bundle, settings) as (language, vision):
            target = orchestrator(bundle, settings, language, vision, executor)
            about = description(bundle, settings, language.description, vision.description)
            uploads = Uploads(settings.limits.max_upload_bytes_held)
            service = SegmentationService(target, about, uploads, executor)
            server = Server(service, settings.listen, server_tls(settings.tls))
            await server.start()
            await warm_up(target)
            await server.ready()
            manifest = bundle.manifest
            LOG.info(
                "serving %s %s (%s) on %s", manifest.name, manifest.version, bundle.digest[:12], server.address
            )
            await stop.wait()
            LOG.info("draining for at most %g s", settings.drain_seconds)
            await server.drain(settings.drain_seconds)


def main() -> int:
    try:
        settings = Settings(_cli_parse_args=True)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        print("python -m serving: " + "; ".join(problems), file=sys.stderr)
        return START_FAILED
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    try:
        asyncio.run(serve(settings))
    except (BundleError, ProviderError, OSError, RuntimeError) as error:
        LOG.error("cannot serve: %s", error)
        return START_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
