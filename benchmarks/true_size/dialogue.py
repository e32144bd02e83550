"""One dialogue of three rounds, asked of the whole service: vLLM's CPU build in bfloat16, the encoder on OpenVINO.

Knows which processes serve, their settings, and what is asked. Does not know what the answers are compared with.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.true_size.processes import MemoryUse, tree
from benchmarks.true_size.recording import Recording, recorded
from benchmarks.true_size.relay import relayed
from exporters.compare.recorded_inputs import made_up
from loadtest.server_process import Launched, launched
from mediround import Client, RoundResult
from serving.bundle import Bundle, Manifest

MAX_ROUNDS = 8
SEQUENCES, STEP_TOKENS = 4, 1024
"""Little of each, for memory's sake: one dialogue is asked."""
_CACHED_BYTES = 2
"""Of a key's or value's element, in bfloat16."""
SPARE_TOKENS = 512
"""Cached beyond one prompt of the greatest length, the least that vLLM starts with."""
QUESTIONS: tuple[tuple[str, int | None, Literal["forced", "grammar"]], ...] = (
    ("Segment the liver in the medical image.", None, "forced"),
    ("Segment the vessel to the left of it.", 0, "forced"),
    ("Which structure encloses the previous output?", 1, "grammar"),
)
"""Words, the round referred to, and who gives the answer's words."""
START_SECONDS, ROUND_SECONDS = 3600.0, 900.0


@dataclass(frozen=True, slots=True)
class Served:
    """What came back, and what it took."""

    recording: Recording
    rounds: tuple[RoundResult, ...]
    memory: tuple[MemoryUse, ...]
    start_seconds: float
    """Until both servers served."""
    round_seconds: tuple[float, ...]
    """As the client saw them."""


def cache_bytes(manifest: Manifest, tokens: int) -> int:
    """Of keys and values."""
    language = manifest.language
    return 2 * language.layers * language.kv_heads * language.head_dim * _CACHED_BYTES * tokens


def serve(bundle: Bundle, out: Path) -> Served:
    """Serve and ask; logs go into ``out``. Raises LaunchError when a server does not start."""
    return asyncio.run(_serve(bundle, out))


async def _serve(bundle: Bundle, out: Path) -> Served:
    began = time.monotonic()
    options = ["--engine", "vllm-cpu", "--vllm.dtype", "bfloat16", "--limits.max-references", str(MAX_ROUNDS)]
    cached = cache_bytes(bundle.manifest, bundle.manifest.language.max_tokens + SPARE_TOKENS)
    options += ["--vllm.kv-cache-bytes", str(cached), "--vllm.max-num-seqs", str(SEQUENCES)]
    options += ["--vllm.max-num-batched-tokens", str(STEP_TOKENS)]
    vllm = launched(bundle.directory, out / "language.log", options, START_SECONDS, module="serving.llm")
    language = await asyncio.to_thread(vllm.__enter__)
    try:
        async with relayed(bundle, language.address, MAX_ROUNDS) as relay:
            rounds, seconds, memory, started = await asyncio.to_thread(_ask, bundle, relay.address, language, out)
            scores = [float("nan") if each.score is None else each.score for each in rounds]
            passes = relay.passes[-len(rounds) :]  # one a round; before them, what the server warmed up with
            recording = recorded(passes, scores, bundle.manifest)
    finally:
        await asyncio.to_thread(vllm.__exit__, None, None, None)
    return Served(recording, rounds, memory, started - began, seconds)


def _ask(
    bundle: Bundle, language_address: str, language: Launched, out: Path
) -> tuple[tuple[RoundResult, ...], tuple[float, ...], tuple[MemoryUse, ...], float]:
    """The rounds, the seconds of each, the processes' memory, and when all served."""
    flags = ["--language", f"grpc://{language_address}", "--limits.max-rounds", str(MAX_ROUNDS)]
    flags += ["--engines.encoder", "openvino-f32", "--engines.embedding-bytes", str(1 << 26)]
    flags += ["--admission.encode-on-open", "never"]  # rounds tell of their own encode, and passes are counted
    rounds: list[RoundResult] = []
    seconds: list[float] = []
    with launched(bundle.directory, out / "server.log", flags, START_SECONDS) as server:
        started = time.monotonic()
        with (
            Client(server.address, timeout=ROUND_SECONDS) as client,
            client.open(next(iter(made_up())).rgb) as session,
        ):
            for question, refer_to, mode in QUESTIONS:
                began = time.monotonic()
                earlier = None if refer_to is None else rounds[refer_to]
                rounds.append(session.ask(question, refer_to=earlier, mode=mode))
                seconds.append(time.monotonic() - began)
        memory = *tree("language server", language.pid), *tree("server", server.pid)
    return tuple(rounds), tuple(seconds), memory, started
