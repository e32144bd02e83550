"""The command ``parity``: recorded dialogues, replayed on the engines that the arguments name.

A part of the exporters' composition root: it builds engines, as ``serving.engines`` does, and prints. Does not
know what is compared.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import ValidationError

from exporters.compare.golden import read_golden
from exporters.compare.json_report import as_json
from exporters.compare.parity import ParityReport, Tolerance, replay
from exporters.errors import SourceError
from exporters.stdout import logs_on_stderr
from serving.bundle import Bundle, load_bundle
from serving.engines import SharedMemory, local_vision, providers, remote_vision, shared_memory
from serving.llm.onnx import OnnxLanguage
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU, VllmOptions
from serving.ports import LanguageEngine
from serving.runtime.cpus import usable_cpus
from serving.runtime.graph import ProviderError
from serving.settings import EngineSettings, Settings
from serving.stores.embeddings import MemoryEmbeddings
from serving.vision.triton.engine import TritonVision

TRITON_SECONDS = 60.0
"""Until Triton must serve the bundle."""
_CACHE_BYTES = 1 << 28


def parity_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--golden", type=Path, required=True, help="a directory in the golden form")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument(
        "--language", choices=("onnx", "vllm", "vllm-cpu"), default="onnx", help="vllm: on a GPU; float32 on both"
    )
    parser.add_argument(
        "--vision",
        default="onnx",
        metavar="onnx|triton://HOST:PORT",
        help="as of `python -m serving`, with its environment variables MEDIROUND_TRITON__… (%(default)s)",
    )
    parser.add_argument(
        "--provider", choices=("cpu", "cuda"), default="cpu", help="of ONNX Runtime, for both halves (%(default)s)"
    )
    for name, value in (("feature", 1e-4), ("score", 1e-4), ("logit", 1e-4)):
        parser.add_argument(f"--{name}-tolerance", type=float, default=value)
    parser.set_defaults(run=_parity)


def _parity(given: argparse.Namespace) -> int:
    bundle, settings = load_bundle(given.bundle), _settings(given)
    try:
        with logs_on_stderr():
            report = asyncio.run(_replay(bundle, settings, given))
    except (ProviderError, OSError) as error:  # of engines, certificates, shared memory
        raise SourceError(str(error)) from error
    print(as_json(report.json()))  # the report is what this command is for
    return 0 if report.passed else 1


def _settings(given: argparse.Namespace) -> Settings:
    """The server's own, so that ``--vision`` means what it means there. Raises SourceError."""
    engines = EngineSettings(threads=given.threads, provider=given.provider)
    try:
        return Settings(bundle=given.bundle, vision=given.vision, engines=engines)
    except ValidationError as error:
        raise SourceError("; ".join(str(each["msg"]) for each in error.errors())) from error


async def _replay(bundle: Bundle, settings: Settings, given: argparse.Namespace) -> ParityReport:
    tolerance = Tolerance(given.feature_tolerance, given.score_tolerance, given.logit_tolerance)
    async with AsyncExitStack() as stack:
        shared = stack.enter_context(shared_memory(bundle, settings))
        language = await _language(bundle, settings, given.language)
        stack.push_async_callback(language.close)
        vision = remote_vision(bundle, settings, shared) or local_vision(bundle, settings)
        stack.push_async_callback(vision.close)
        if isinstance(vision, TritonVision):
            await _reached(vision)
        return await replay(
            bundle, language, vision, read_golden(given.golden), tolerance, _embeddings(bundle, shared)
        )


async def _language(bundle: Bundle, settings: Settings, name: str) -> LanguageEngine:
    if name == "onnx":
        return OnnxLanguage(bundle, settings.engines.threads, _CACHE_BYTES, providers(settings))
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
