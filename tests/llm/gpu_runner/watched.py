"""A worker of vLLM's that says which model runner it has; imported within its process."""

from __future__ import annotations

from vllm.v1.worker.gpu.model_runner import GPUModelRunner

from serving.llm.plugin.rows import ChosenRowsTap


class WatchedWorker(ChosenRowsTap):
    def has_the_runner_of_a_gpu(self) -> bool:
        """On a CPU, with a warm-up of its own."""
        return isinstance(self.model_runner, GPUModelRunner)
