"""Engines for commands that replay dialogues: their arguments, and how they are built.

A part of the exporters' composition root: it builds engines, as ``serving.engines`` does. Does not know what is
asked of them.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from exporters.cli.options import refuse_unused
from exporters.errors import SourceError
from serving.bundle import Bundle
from serving.engines import SharedMemory, local_vision, providers, remote_vision, shared_memory
from serving.llm.onnx import OnnxLanguage
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU, VllmOptions
from serving.ports import LanguageEngine, VisionEngine
from serving.runtime.cpus import usable_cpus
from serving.runtime.graph import ProviderError
from serving.settings import ONNX, EngineSettings, Settings
from serving.stores.embeddings import MemoryEmbeddings
from serving.vision.triton.engine import TritonVision

TRITON_SECONDS = 60.0
"""Until Triton must serve the bundle."""
_CACHE_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class ReplayEngines:
    language: LanguageEngine
    vision: VisionEngine
    embeddings: MemoryEmbeddings | None
    """One store for all dialogues where embeddings lie in shared memory; None: each may have its own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bundle, and what runs its halves."""
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--threads", type=int, help=f"of ONNX Runtime, within an operator ({usable_cpus()})")
    add_language_argument(parser)
    parser.add_argument(
        "--vision",
        default=ONNX,
        metavar="onnx|triton://HOST:PORT",
        help="as of `python -m serving`, with its environment variables MEDIROUND_TRITON__… (%(default)s)",
    )
    parser.add_argument(
        "--provider", choices=("cpu", "cuda"), help="of ONNX Runtime, for each half that it runs (cpu)"
    )


def add_language_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language", choices=(ONNX, "vllm", "vllm-cpu"), default=ONNX, help="vllm: on a GPU; float32 on both"
    )


@asynccontextmanager
async def engines(bundle: Bundle, given: argparse.Namespace) -> AsyncIterator[ReplayEngines]:
    """The engines that ``given`` names, closed at the end.

    Raises:
        SourceError: they cannot be had.
    """
    settings = _settings(given)
    async with AsyncExitStack() as stack:
        try:
            shared = stack.enter_context(shared_memory(bundle, settings))
            language = await _language(bundle, settings, given.language)
            stack.push_async_callback(language.close)
            vision = remote_vision(bundle, settings, shared) or local_vision(bundle, settings)
            stack.push_async_callback(vision.close)
        except (ProviderError, OSError) as error:  # of engines, certificates, shared memory
            raise SourceError(str(error)) from error
        if isinstance(vision, TritonVision):
            await _reached(vision)
        yield ReplayEngines(language, vision, _embeddings(bundle, shared))


def _settings(given: argparse.Namespace) -> Settings:
    """The server's own, so that ``--vision`` means what it means there. Raises SourceError."""
    if ONNX not in {given.language, given.vision}:
        refuse_unused(given, "threads", "provider", unless="--language or --vision is onnx")
    engines = EngineSettings(threads=given.threads or usable_cpus(), provider=given.provider or "cpu")
    try:
        return Settings(bundle=given.bundle, vision=given.vision, engines=engines)
    except ValidationError as error:
        words = (str(each["msg"]).removeprefix("Value error, ") for each in error.errors())
        raise SourceError("; ".join(words)) from error


async def _language(bundle: Bundle, settings: Settings, name: str) -> LanguageEngine:
    if name == ONNX:
        return OnnxLanguage(bundle, settings.engines.threads, _CACHE_BYTES, providers(settings))
    return await vllm_language(bundle, name)


async def vllm_language(bundle: Bundle, name: str) -> LanguageEngine:
    """``vllm`` or ``vllm-cpu``, started, in float32."""
    return await VllmLanguage.start(bundle, ON_CPU if name == "vllm-cpu" else VllmOptions(dtype="float32"))


async def _reached(triton: TritonVision) -> None:
    try:
        async with asyncio.timeout(TRITON_SECONDS):
            await triton.reached()
    except TimeoutError as error:
        raise SourceError(f"Triton does not serve the bundle after {TRITON_SECONDS:g} s") from error


def _embeddings(bundle: Bundle, shared: SharedMemory) -> MemoryEmbeddings | None:
    """One store for all dialogues where embeddings lie in shared memory."""
    if shared.embeddings is None:
        return None
    return MemoryEmbeddings.of(bundle.manifest.image, shared.embeddings.nbytes, shared.embeddings)
