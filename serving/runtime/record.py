"""The record of how one part of the model runs: engine, version, provider, precision, threads.

Knows what a record holds. Does not know which parts there are, nor how a record is sent or told from another.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RuntimeRecord:
    """How one part of the model runs. None for what the engine does not say: nothing here is guessed."""

    engine: str
    """``onnxruntime``, ``openvino``, ``triton``, ``vllm``; empty for a server that says nothing of it."""
    version: str | None = None
    provider: str | None = None
    """Execution provider, device or backend, in the engine's own words."""
    precision: str | None = None
    """What it computes in: numpy's name of a type, or ``tf32``."""
    threads: int | None = None
    """Within an operator."""
    runner: str | None = None
    """vLLM's model runner: ``v1`` or ``v2``."""
