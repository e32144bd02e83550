"""What plans take of a GPU's memory, beside the language half where both run on one.

Knows how the parts add up: weights and activations as the sidecars say, vLLM's share, Triton itself. Does not know
TensorRT or vLLM. A sum that is too large would show as CUDA's "out of memory" in whichever half starts last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters.tensorrt.plans import PlanError, read

TRITON = 1 << 30
"""Bytes of Triton's own: CUDA's context, libraries, buffers. An estimate: no GPU has shown it yet."""
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class GpuMemory:
    total: int
    """Bytes."""
    language: float = 0.0
    """vLLM's share of it (``--vllm.gpu-memory-utilization``); 0 where it runs on another GPU."""


def require_room(plans: Sequence[Path], memory: GpuMemory) -> str:
    """Sum what will be taken, in words.

    Raises:
        PlanError: it is more than the GPU has, or a sidecar does not say what its plan takes.
    """
    sidecars = [read(plan) for plan in plans]
    activations = [sidecar.activation for sidecar in sidecars]
    if None in activations:
        raise PlanError(f"{plans[activations.index(None)].name} does not say what memory it takes: build it again")
    parts = {
        f"vLLM ({memory.language:.0%})": round(memory.language * memory.total),
        "weights": sum(plan.stat().st_size for plan in plans),
        "activations": sum(size or 0 for size in activations),
        "Triton itself, about": TRITON,
    }
    words = ", ".join(f"{name} {size / _GIB:.1f} GiB" for name, size in parts.items() if size)
    taken = sum(parts.values())
    if taken > memory.total:
        raise PlanError(
            f"the GPU has {memory.total / _GIB:.1f} GiB, and {taken / _GIB:.1f} GiB would be taken ({words}): "
            "lower vLLM's share (--vllm.gpu-memory-utilization), give each half a GPU, or build plans for smaller "
            "batches"
        )
    return f"{taken / _GIB:.1f} of the GPU's {memory.total / _GIB:.1f} GiB: {words}"
