"""The language half as the directory that vLLM loads: ``config.json`` and ``model.safetensors``.

Knows tensor names and settings as ``serving.llm.plugin`` and vLLM want them. The weights are those of the ONNX
graphs, LoRA merged. There is no tokenizer and no processor in it: prompts are ids, pixels are tensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from exporters import hardlink
from exporters.checkpoint.clip import clip_config
from exporters.checkpoint.model import Model
from exporters.modules.heads import FEATURE
from exporters.modules.language import LanguageSizes
from exporters.onnx.fp16_storage import Storage
from serving.bundle import TokenSpec

BESIDE_THE_DECODER = ("bbox_encoder.", "text_hidden_fcs.")
"""Published under ``model.``, but no part of Mistral."""


def write_vllm_model(model: Model, tokens: TokenSpec, max_tokens: int, storage: Storage, out: Path) -> None:
    """Write the directory; ``max_tokens``: the longest prompt and answer, image tokens counted."""
    out.mkdir(exist_ok=True)
    dtype = torch.float16 if storage == "fp16" else torch.float32
    state = {name: value.to(dtype).contiguous() for name, value in _named(model)}
    with hardlink.replacing(out / "model.safetensors") as made:
        save_file(state, made, metadata={"format": "pt"})
        made.chmod(0o644)  # as its neighbours: a server may run as somebody else
    config = {
        "architectures": ["MediRoundForSegmentation"],
        "model_type": "mediround",
        "dtype": str(dtype).removeprefix("torch."),
        "text_config": _text_config(model.language.sizes, max_tokens),
        "vision_config": clip_config(model.tower.sizes),
        "select_layer": model.tower.sizes.select_layer,
        "image_tokens": model.tower.sizes.tokens,
        "feature": FEATURE,
        "seg_token_id": tokens.seg,
        "bbox_token_id": tokens.bbox,
        "crop_token_id": tokens.crop,
        "image_token_id": tokens.image,
    }
    with hardlink.replacing(out / "config.json") as made:
        made.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _named(model: Model) -> Iterator[tuple[str, Tensor]]:
    for name, value in model.language.state_dict().items():
        inner = name.removeprefix("model.")
        yield inner if inner.startswith(BESIDE_THE_DECODER) else f"language_model.{name}", value
    for name, value in model.tower.state_dict().items():
        yield f"vision_tower.{name}" if name.startswith("vision_model.") else name, value


def _text_config(sizes: LanguageSizes, max_tokens: int) -> dict[str, Any]:
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "rms_norm_eps": sizes.epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": sizes.rope_theta},
        "max_position_embeddings": max_tokens + 1,  # vLLM samples a token after the longest prompt too
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": sizes.vocabulary,
    }
