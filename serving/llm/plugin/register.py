"""The entry point that vLLM calls in every process of an engine.

Knows the names under which vLLM finds config and model. Does nothing else: it also runs in a process that only
looks the model up, and may run twice.
"""

from __future__ import annotations

import logging

from transformers import AutoConfig
from vllm import ModelRegistry

from serving.llm.plugin import causes, waiting
from serving.llm.plugin.config import ARCHITECTURE, MediRoundConfig

MODEL = "serving.llm.plugin.model:MediRoundForSegmentation"
"""By name, so that torch modules are imported only where the model runs."""


def register() -> None:
    """Make MediRound known to vLLM; idempotent."""
    # When a worker fails, this logger prints the requests it held: pixels, boxes, token ids.
    logging.getLogger("vllm.logging_utils.dump_input").disabled = True
    causes.watch()
    waiting.obey()
    AutoConfig.register(MediRoundConfig.model_type, MediRoundConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, MODEL)
