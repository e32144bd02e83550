"""Options of vLLM, and the environment variables that follow from them.

Knows vLLM's environment variables. Imports nothing of it: some are read when vLLM is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Defaults are for one GPU."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_num_seqs: int = 32
    """Requests in one step. A prompt takes one for each feature, and one if it generates."""
    max_num_batched_tokens: int = 8192
    """Tokens in one step, an image's included: about a dozen first prompts. vLLM's own 2048 would be three."""
    block_size: int | None = None
    """Tokens of a prefix that are kept or dropped together; None: vLLM's (16 on a GPU, 128 on a CPU, where only
    multiples of 32 go)."""
    kv_cache_bytes: int | None = None
    """None: what is left of vLLM's share of the memory, which on a CPU fails where others use it."""
    gpu_memory_utilization: float = 0.92
    """vLLM's share of the GPU's whole memory, free at its start: for weights, cache and what a step needs."""
    prefix_caching: bool = True
    max_queued: int = 256
    """Requests admitted, running or waiting; more are refused with Exhausted."""
    max_references: int = 32
    """In one prompt: at least the rounds that a session may have."""
    eager: bool = False
    """No compilation and no CUDA graphs: a fast start, for CPUs and tests."""
    spin: bool = True
    """A worker polls for its next step for a second before it sleeps: quick, where it has a core to itself."""
    chosen_rows: bool = True
    """One request reads all features of a prompt, where this vLLM has a place for it; otherwise each is a request
    (docs/language.md)."""
    batch_invariant: bool = False
    """vLLM's own mode in which a request's result does not depend on what runs beside it; slower, GPUs only."""

    def __post_init__(self) -> None:
        """Raises ValueError: vLLM would not start."""
        if self.max_num_batched_tokens < self.max_num_seqs:
            words = f"({self.max_num_seqs}); it is {self.max_num_batched_tokens}"
            raise ValueError(f"--vllm.max-num-batched-tokens must be at least --vllm.max-num-seqs {words}")


ON_CPU = VllmOptions(
    dtype="float32", max_num_batched_tokens=2048, block_size=32, kv_cache_bytes=1 << 28, eager=True, spin=False
)
"""For tests and small models on a CPU: exact, and quick to start."""


def environment(options: VllmOptions) -> dict[str, str]:
    """Variables to set before vLLM is imported; its processes inherit them."""
    exact = options.dtype == "float32"
    return {
        "VLLM_PLUGINS": "mediround",  # no other plug-in that happens to be installed
        "VLLM_NO_USAGE_STATS": "1",  # nothing leaves the hospital's network
        "DO_NOT_TRACK": "1",  # what others heed, huggingface_hub among them
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads (gRPC, onnxruntime): no fork
        "MEDIROUND_VLLM_SPIN": str(int(options.spin)),  # for the plug-in
        "VLLM_BATCH_INVARIANT": str(int(options.batch_invariant)),
        # A GPU multiplies float32 as TF32 unless it is told not to: Triton's kernels, and NVIDIA's libraries.
        **({"TRITON_F32_DEFAULT": "ieee", "NVIDIA_TF32_OVERRIDE": "0"} if exact else {}),
    }
