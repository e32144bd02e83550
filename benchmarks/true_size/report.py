"""What a run found, as tables that people read.

Knows words and units. Does not know how anything was measured.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.true_size.dialogue import Served, cache_bytes
from benchmarks.true_size.processes import Stage
from benchmarks.true_size.verdict import Finding
from serving.bundle import Bundle, Manifest

GB, KIB = 1e9, 1 << 10


def markdown(  # noqa: PLR0917  # a report has these parts
    size: str,
    bundle: Bundle,
    stages: Sequence[Stage],
    served: Served,
    findings: Sequence[Finding],
    refused: Sequence[str],
) -> str:
    """Tables: stages, memory, rounds, findings; then refusals, and what a GPU would hold."""
    parts = [
        f"# {size}: {_machine()}\n",
        *_stages(stages, bundle),
        *_memory(served),
        *_rounds(served),
        *_findings(findings),
        "",
        *(f"- {line}" for line in refused),
        *_gpu(bundle.manifest, _weights(bundle)),
        "",
        "All agree." if all(each.agrees for each in findings) else "NOT ALL AGREE.",
    ]
    return "\n".join(parts) + "\n"


def _stages(stages: Sequence[Stage], bundle: Bundle) -> Iterator[str]:
    yield f"Bundle: {sum(bundle.path(name).stat().st_size for name in bundle.manifest.files) / GB:.2f} GB.\n"
    yield "| stage | seconds | peak memory |\n|---|---|---|"
    for each in stages:
        peak = f"{each.peak_bytes / GB:.2f} GB" if each.peak_bytes else "below"
        yield f"| {each.name} | {each.seconds:.0f} | {peak} |"


def _memory(served: Served) -> Iterator[str]:
    yield "\n| process that serves | peak, mapped files included | of no file, after the dialogue |\n|---|---|---|"
    for each in served.memory:
        yield f"| {each.name} | {each.peak_bytes / GB:.2f} GB | {each.anonymous_bytes / GB:.2f} GB |"


def _rounds(served: Served) -> Iterator[str]:
    yield f"\nBoth servers served after {served.start_seconds:.0f} s.\n"
    yield "| round | refers to | seconds | language, s | encode, s | prompt tokens | from prefix cache | score |"
    yield "|---|---|---|---|---|---|---|---|"
    for index, (each, seconds) in enumerate(zip(served.rounds, served.round_seconds, strict=True)):
        refers = "none" if each.reference is None else each.reference.index
        score = "none" if each.score is None else f"{each.score:.4f}"
        timings, cache = each.timings, each.cache
        yield (
            f"| {index} | {refers} | {seconds:.1f} | {timings.language:.1f} | {timings.encode:.1f} | "
            f"{cache.prompt_tokens} | {cache.cached_tokens} | {score} |"
        )


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    yield "\n| compared | away from the plain loop | at most | agrees | |\n|---|---|---|---|---|"
    for each in findings:
        agrees = "yes" if each.agrees else "NO"
        yield f"| {each.what} | {each.value:.3g} | {each.limit:.3g} | {agrees} | {each.note} |"


def _gpu(manifest: Manifest, weights: int) -> Iterator[str]:
    """What follows for a GPU's memory from the bundle's own sizes."""
    token = cache_bytes(manifest, 1)
    channels, rows, columns = manifest.image.embedding
    embedding = channels * rows * columns * 4
    longest = manifest.language.max_tokens
    yield (
        f"\nOn a GPU: weights {weights / GB:.2f} GB in bfloat16; keys and values {token / KIB:.0f} KiB a token, "
        f"{token * longest / GB:.2f} GB for a prompt of {longest}; an image's embedding "
        f"{embedding / (1 << 20):.0f} MiB in float32, {GB / embedding:.0f} to the GB."
    )


def _weights(bundle: Bundle) -> int:
    return sum(bundle.path(name).stat().st_size for name in bundle.manifest.files if name.endswith(".safetensors"))


def _machine() -> str:
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    total = int(memory[1]) * 1024 / GB if memory else 0
    return f"{os.cpu_count()} CPU cores, {total:.0f} GB of memory, {platform.machine()}"
