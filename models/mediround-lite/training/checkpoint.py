"""The trained parts as a checkpoint directory in the published layout.

Knows tensor names and the two configuration directories beside them. Does not know how a bundle is made
of it (``exporters``). Every tensor is rounded to a float16 value, so that a bundle's fp16 storage loses
nothing of what was evaluated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from exporters.checkpoint.base_model import read_base
from exporters.checkpoint.clip import read_clip
from exporters.checkpoint.model import Model, build_model
from exporters.checkpoint.published import CORRECTOR, JUDGE, PEFT_PREFIX, PROJECTOR, SAM, TOWER, read_checkpoint
from exporters.modules.heads import Corrector, Judge
from exporters.modules.tiny_vit import TinyViT
from training import language
from training.features import CLIP_MEAN, CLIP_STD
from training.language import LanguageHalf
from training.vision import VisionHalf
from training.vocabulary import MAX_TOKENS

CHECKPOINT = "pytorch_model.bin"
_PARTS = {"vision_model.": TOWER + "vision_model.", "mm_projector.": PROJECTOR}


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a checkpoint is made of."""

    encoder: TinyViT
    vision: VisionHalf
    language: LanguageHalf
    judge: Judge
    corrector: Corrector


def write(directory: Path, parts: Parts) -> None:
    """Write ``pytorch_model.bin``, ``base/config.json`` and ``clip/``; the tokenizer lies in ``base/`` already."""
    state: dict[str, Tensor] = {}
    half = parts.language
    parts.encoder.neck.load_state_dict(parts.vision.neck.state_dict())

    def add(prefix: str, part: nn.Module) -> None:
        state.update({prefix + name: _stored(value) for name, value in part.state_dict().items()})

    add(SAM + "image_encoder.", parts.encoder)
    add(SAM, parts.vision.decoder)
    add("", half.model)
    for name, value in half.tower.state_dict().items():
        own = next(prefix for prefix in _PARTS if name.startswith(prefix))
        state[_PARTS[own] + name.removeprefix(own)] = _stored(value)
    add(JUDGE, parts.judge)
    add(CORRECTOR, parts.corrector)
    directory.mkdir(parents=True, exist_ok=True)
    torch.save({PEFT_PREFIX + name: value for name, value in state.items()}, directory / CHECKPOINT)
    _write_configs(directory, half.model.sizes.vocabulary)


def read(directory: Path) -> Model:
    """The whole model as the exporters build it from the directory."""
    base = read_base(directory / "base")
    clip = read_clip(directory / "clip", base.select_layer)
    return build_model(read_checkpoint(directory), base, clip, half=True)


def _write_configs(directory: Path, vocabulary: int) -> None:
    _write_json(directory / "base/config.json", _base_config(vocabulary - 3))
    _write_json(directory / "clip/config.json", _clip_config())
    _write_json(directory / "clip/preprocessor_config.json", _clip_preprocessing())


def _stored(value: Tensor) -> Tensor:
    """Contiguous, and rounded to a float16 value where it is a float."""
    value = value.detach().clone(memory_format=torch.contiguous_format)
    return value.half().float() if value.is_floating_point() else value


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _base_config(pieces: int) -> dict[str, object]:
    return {
        "architectures": ["LlavaMistralForCausalLM"],
        "model_type": "llava_mistral",
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": language.HIDDEN,
        "head_dim": language.HEAD_DIM,
        "intermediate_size": language.INTERMEDIATE,
        "max_position_embeddings": MAX_TOKENS,
        "mm_hidden_size": language.TOWER.width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": language.TOWER.select_layer,
        "num_attention_heads": language.HEADS,
        "num_hidden_layers": language.LAYERS,
        "num_key_value_heads": language.KV_HEADS,
        "rms_norm_eps": language.EPSILON,
        "rope_theta": language.ROPE_THETA,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": pieces,
    }


def _clip_config() -> dict[str, object]:
    tower = language.TOWER
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_act": tower.activation,
        "hidden_size": tower.width,
        "image_size": tower.side,
        "intermediate_size": tower.hidden,
        "layer_norm_eps": tower.epsilon,
        "num_attention_heads": tower.heads,
        "num_channels": 3,
        "num_hidden_layers": tower.layers,
        "patch_size": tower.patch,
    }


def _clip_preprocessing() -> dict[str, object]:
    side = language.TOWER.side
    return {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": side, "width": side},
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
