"""The language half as the directory that vLLM loads: ``config.json`` and safetensors.

Knows tensor names and settings as ``serving.llm.plugin`` and vLLM want them, and in what type each weight is
stored. There is no tokenizer and no processor in it: prompts are ids, pixels are tensors. Weights go from the
checkpoint to their file one by one, LoRA merged on the way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from exporters.checkpoint.base_model import Base
from exporters.checkpoint.clip import Clip, clip_config
from exporters.checkpoint.model import language_forms, rounded, tower_tensors
from exporters.checkpoint.published import Checkpoint
from exporters.checkpoint.shards import PlannedTensor, write_shards
from exporters.checkpoint.tensor_files import TensorFile, TensorForm
from exporters.checkpoint.weights import Weight
from exporters.modules.heads import FEATURE
from exporters.modules.language import LanguageSizes

BESIDE_THE_DECODER = ("bbox_encoder.", "text_hidden_fcs.")
"""Published under ``model.``, but no part of Mistral."""
CONFIG = "config.json"

VllmDtype = Literal["source", "float32", "float16", "bfloat16"]
"""What weights are stored in; source: as the checkpoint has each, and LoRA is rounded to its weight's type."""
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class VllmPlan:
    """All that will be written, before any of it is."""

    config: dict[str, Any]
    tensors: tuple[PlannedTensor, ...]
    sources: Mapping[str, frozenset[TensorFile]]
    """By tensor, the files that it is read from."""

    @property
    def nbytes(self) -> int:
        return sum(each.form.nbytes for each in self.tensors)

    @property
    def elements(self) -> int:
        return sum(each.form.elements for each in self.tensors)


def plan_vllm_model(checkpoint: Checkpoint, base: Base, clip: Clip, dtype: VllmDtype) -> VllmPlan:
    """What the directory will hold. Nothing is read but names and shapes.

    Raises:
        IncompleteCheckpointError: tensors are missing, or their shapes contradict the configuration.
    """
    weights = dict(_named(checkpoint, base, clip))
    tensors = tuple(_planned(name, weight, dtype) for name, weight in weights.items())
    stored = next(each.form.dtype for each in tensors if each.name.endswith("lm_head.weight"))
    sources = {name: weight.files for name, weight in weights.items()}
    return VllmPlan(_config(checkpoint, base, clip, stored), tensors, sources)


def write_vllm_model(plan: VllmPlan, out: Path, written: Callable[[PlannedTensor], None]) -> dict[str, str]:
    """Write the directory. Returns the SHA-256 of each of its files, by name.

    Args:
        written: told of each tensor once its bytes are in their file.

    Raises:
        UnsupportedSourceError: a value or a type that the files cannot hold.
    """
    out.mkdir(exist_ok=True)
    digests = write_shards(plan.tensors, out, written)
    config = json.dumps(plan.config, indent=2) + "\n"
    (out / CONFIG).write_text(config, encoding="utf-8")
    return {CONFIG: hashlib.sha256(config.encode()).hexdigest(), **digests}


def _named(checkpoint: Checkpoint, base: Base, clip: Clip) -> Iterator[tuple[str, Weight]]:
    """In an order that does not hang on the checkpoint's files, and is about theirs."""
    language, tower = language_forms(checkpoint, base, clip)
    for name in language:
        inner = name.removeprefix("model.")
        plain = inner if inner.startswith(BESIDE_THE_DECODER) else f"language_model.{name}"
        yield plain, checkpoint.language.weights[name]
    weights = tower_tensors(checkpoint, clip).weights
    for name in tower:
        yield f"vision_tower.{name}" if name.startswith("vision_model.") else name, weights[name]


def _planned(name: str, weight: Weight, dtype: VllmDtype) -> PlannedTensor:
    wanted = weight.form.dtype if dtype == "source" else _DTYPES[dtype]

    def read() -> Tensor:
        value = weight.read()
        return rounded(value).half() if wanted == torch.float16 else value.to(wanted)

    return PlannedTensor(name, TensorForm(weight.form.shape, wanted), read)


def _config(checkpoint: Checkpoint, base: Base, clip: Clip, dtype: torch.dtype) -> dict[str, Any]:
    sizes = base.sizes(checkpoint.language)
    tokens = base.tokens(sizes)
    return {
        "architectures": ["MediRoundForSegmentation"],
        "model_type": "mediround",
        "dtype": str(dtype).removeprefix("torch."),
        "text_config": _text_config(sizes, base.max_tokens),
        "vision_config": clip_config(clip.sizes),
        "select_layer": clip.sizes.select_layer,
        "image_tokens": clip.sizes.tokens,
        "feature": FEATURE,
        "seg_token_id": tokens.seg,
        "bbox_token_id": tokens.bbox,
        "crop_token_id": tokens.crop,
        "image_token_id": tokens.image,
    }


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
