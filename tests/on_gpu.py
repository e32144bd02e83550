"""A plug-in of pytest, ``-p tests.on_gpu``: tests that start vLLM with its options for a CPU start it on the GPU.

It is imported before any test is, and so before any of them has taken the options by their name.
"""

from __future__ import annotations

from serving.llm import vllm_options

vllm_options.ON_CPU = vllm_options.VllmOptions(dtype="float32")
