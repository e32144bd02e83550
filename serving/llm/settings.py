"""Every setting of ``python -m serving.llm``, by flag or environment, read once.

A flag ``--limits.max-calls 16`` is ``MEDIROUND_LLM_LIMITS__MAX_CALLS=16`` in the environment; a flag wins.
Does not build anything.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from serving.rpc.settings import (
    MIB,
    Bytes,
    ListenAddress,
    Positive,
    ServerSettings,
    SettingsSection,
    SomeBytes,
    refuse_unused,
)
from serving.runtime.cpus import usable_cpus


class LimitSettings(SettingsSection):
    """What one prompt or this server may hold."""

    max_calls: Positive = 64
    """Prompts admitted at once, those waiting for the engine included; more are refused with a retry delay."""
    max_references: Positive = 64
    """References in one prompt: at least the rounds of a session (--limits.max-rounds of the orchestrator)."""
    picture_bytes: Bytes = 512 * MIB
    """Bytes of pixels held so that a dialogue's next rounds need not send them again."""


class OnnxSettings(SettingsSection):
    """The ONNX engine, for ``--engine onnx``."""

    threads: Positive = Field(default_factory=usable_cpus)
    """Threads within an operator (intra-op). By default the CPUs that this process may use: affinity and control
    group.
    """
    prefix_cache_bytes: SomeBytes = 512 * MIB
    """Bytes of attention keys and values kept for later rounds of a dialogue; 0: none."""


class VllmSettings(SettingsSection):
    """The vLLM engine, for ``--engine vllm`` and ``vllm-cpu``; the latter's dtype is float32 by default, its step
    2048 tokens, and its cache 256 MiB.
    """

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Element type that the model computes in."""
    max_num_seqs: Positive = 32
    """Most requests in one engine step. A prompt takes one for each mask of its wave."""
    max_num_batched_tokens: Positive = 8192
    """Most tokens in one engine step, at least --vllm.max-num-seqs; a longer prompt takes several. More fills a
    large GPU better, and takes more of its memory.
    """
    max_queued: Positive = 256
    """Requests admitted, running or waiting; more are refused with a retry delay."""
    kv_cache_bytes: Bytes | None = None
    """Bytes of the attention key and value cache; by default what is left of vLLM's share of the GPU's memory."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.92
    """vLLM's share of the GPU's whole memory, as a fraction; so much must be free when it starts. Less where the
    vision half is on the same GPU. GPUs only.
    """
    prefix_caching: bool = True
    """Reuse keys and values of prompts that begin alike: later rounds compute only what is new."""
    chosen_rows: bool = True
    """One request reads all features of a wave, where vLLM has a place for it; otherwise each is a request."""
    batch_invariant: bool = False
    """A request's results do not depend on what else is in its batch; slower, GPUs only."""


class LanguageServerSettings(ServerSettings):
    """Settings of ``python -m serving.llm``. Research and education software: not for clinical use."""

    model_config = SettingsConfigDict(env_prefix="MEDIROUND_LLM_", cli_prog_name="python -m serving.llm")

    listen: ListenAddress = "127.0.0.1:50061"
    """HOST:PORT. Beyond loopback this needs TLS or --allow-insecure-bind. Port 0 takes a free one. Any client that
    can connect speaks for every tenant: use --tls.client-ca to admit orchestrators alone.
    """
    engine: Literal["onnx", "vllm", "vllm-cpu"] = "onnx"
    """onnx: ONNX Runtime in this process. vllm: on a GPU. vllm-cpu: small models, float32, for tests and demos."""
    limits: LimitSettings = LimitSettings()
    onnx: OnnxSettings = Field(default_factory=OnnxSettings)
    vllm: VllmSettings = VllmSettings()

    @model_validator(mode="after")
    def _taken_by_the_engine(self) -> Self:
        if self.engine != "onnx":
            refuse_unused("onnx", self.onnx, "--engine is onnx")
        else:
            refuse_unused("vllm", self.vllm, "--engine is vllm or vllm-cpu")
        if self.engine == "vllm-cpu" and self.vllm.batch_invariant:
            raise ValueError("--vllm.batch-invariant must be left out unless --engine is vllm: it needs a GPU")
        if self.engine == "vllm-cpu" and "gpu_memory_utilization" in self.vllm.model_fields_set:
            raise ValueError(
                "--vllm.gpu-memory-utilization must be left out unless --engine is vllm: it needs a GPU"
            )
        return self
