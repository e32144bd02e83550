"""A random checkpoint in the published layout, with the directories that a bundle needs beside it.

Knows sizes and the published key names. Its masks mean nothing: it serves tests and benchmarks, which then
need nothing from outside. Every weight of a small one is a float16 value, so that both storages hold the same
model; the larger are bfloat16, written file by file (``exporters.checkpoint.random_shards``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from exporters.byte_progress import counted
from exporters.checkpoint import random_shards
from exporters.checkpoint.base_model import ADDED_TOKENS
from exporters.checkpoint.clip import clip_config
from exporters.checkpoint.published import CORRECTOR, JUDGE, LORA_A, LORA_B, PEFT_PREFIX, PROJECTOR, SAM, TOWER
from exporters.checkpoint.shards import PlannedTensor
from exporters.checkpoint.tokenizer import published_tokenizer, train_tokenizer
from exporters.disk import check_room
from exporters.modules.clip import TowerSizes, VisionTower
from exporters.modules.heads import Corrector, Judge
from exporters.modules.language import LanguageModel, LanguageSizes
from exporters.modules.sam_decoder import MaskDecoder
from exporters.modules.sam_vit import Block, SamViT, VitSizes
from exporters.progress import Progress

Size = Literal["tiny", "vit_b", "mediround-0.4b", "mediround-0.7b", "mediround-7b"]

LORA_RANK = 8
GAIN = 1.5
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Sizes:
    image: VitSizes
    tower: TowerSizes
    language: LanguageSizes
    """But for the vocabulary, which is the tokenizer's."""
    shard_bytes: int | None = None
    """Of tensors in one file, in bfloat16, beside the published model's tokenizer; None: one file, in float16,
    beside a small tokenizer."""


def _tower(side: int) -> TowerSizes:
    return TowerSizes(side, 14, width=64, layers=3, heads=2, hidden=128, activation="quick_gelu", epsilon=1e-5)


_TINY_LANGUAGE = LanguageSizes(
    hidden=128,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=32,
    intermediate=256,
    vocabulary=0,
    rope_theta=1e6,
    epsilon=1e-6,
)
_PUBLISHED_LANGUAGE = LanguageSizes(
    hidden=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=14336,
    vocabulary=0,
    rope_theta=1e6,
    epsilon=1e-5,
)
_PUBLISHED_TOWER = TowerSizes(
    336, 14, width=1024, layers=24, heads=16, hidden=4096, activation="quick_gelu", epsilon=1e-5
)
_TINY_IMAGE = VitSizes(16, 64, (Block(64, 32, 256, 14), Block(64, 32, 256, 64)))
_VIT_B = VitSizes(16, 64, tuple(Block(768, 64, 3072, 64 if i % 3 == 2 else 14) for i in range(12)))
_BETWEEN = Sizes(
    _TINY_IMAGE,
    replace(_PUBLISHED_TOWER, layers=8),
    replace(_PUBLISHED_LANGUAGE, hidden=1024, layers=16, heads=16, kv_heads=4, head_dim=64, intermediate=3584),
    shard_bytes=256 << 20,
)
SIZES: dict[Size, Sizes] = {
    "tiny": Sizes(_TINY_IMAGE, _tower(112), _TINY_LANGUAGE),
    "vit_b": Sizes(_VIT_B, _tower(336), _TINY_LANGUAGE),
    "mediround-0.4b": _BETWEEN,
    # Its language graph, in float32, is over 2 GiB.
    "mediround-0.7b": replace(_BETWEEN, language=replace(_BETWEEN.language, layers=40)),
    "mediround-7b": Sizes(_VIT_B, _PUBLISHED_TOWER, _PUBLISHED_LANGUAGE, shard_bytes=2 << 30),
}


def write_random(size: Size, seed: int, out: Path, progress: Progress = lambda _: None) -> None:
    """Write ``pytorch_model*.bin``, ``llava_med/`` (the base) and ``clip/`` below ``out``.

    Raises:
        MissingPackageError: the tokenizer of a larger size is not installed.
        DiskFullError: too little room.
    """
    sizes, base, clip = SIZES[size], out / "llava_med", out / "clip"
    tokenizer = train_tokenizer() if sizes.shard_bytes is None else published_tokenizer()
    pieces = int(sentencepiece.SentencePieceProcessor(model_proto=tokenizer).vocab_size())
    language = replace(sizes.language, vocabulary=pieces + len(ADDED_TOKENS))
    for directory in (base, clip):
        directory.mkdir(parents=True, exist_ok=True)
    (base / "tokenizer.model").write_bytes(tokenizer)
    _write_json(base / "config.json", _base_config(language, pieces))
    _write_json(clip / "config.json", clip_config(sizes.tower))
    _write_json(clip / "preprocessor_config.json", _preprocessor_config(sizes.tower.side))
    if sizes.shard_bytes is None:
        _write_small(sizes, language, seed, out)
    else:
        _write_large(planned(sizes, language, seed), sizes.shard_bytes, out, progress)


def planned(sizes: Sizes, language: LanguageSizes, seed: int) -> list[PlannedTensor]:
    """Every tensor of a large checkpoint, under its published name; no value is drawn before it is read."""
    with torch.device("meta"):
        tower = VisionTower(sizes.tower, language.hidden)
        networks = {
            "": LanguageModel(language),
            TOWER + "vision_model.": tower.vision_model,
            PROJECTOR: tower.mm_projector,
            SAM + "image_encoder.": SamViT(sizes.image),
            SAM: MaskDecoder(),
            JUDGE: Judge(),
            CORRECTOR: Corrector(),
        }
    return list(random_shards.planned(networks, seed))


def _write_large(tensors: list[PlannedTensor], shard_bytes: int, out: Path, progress: Progress) -> None:
    """Without CLIP's own weights: the checkpoint holds them."""
    total = sum(each.form.nbytes for each in tensors)
    check_room(out, total, "", progress)
    with counted(progress, f"writing {out}", total) as advance:
        random_shards.write(tensors, out, shard_bytes, advance)


def _write_small(sizes: Sizes, language: LanguageSizes, seed: int, out: Path) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        state = {name: value.half() for name, value in _published(sizes, language)}
    torch.save(state, out / "pytorch_model.bin")
    prefix = PEFT_PREFIX + TOWER
    tower = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    save_file(tower, out / "clip" / "model.safetensors")


def _published(sizes: Sizes, language: LanguageSizes) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a stage 2 checkpoint, LoRA unmerged, under its published name."""
    for name, value in _with_lora(_lively(LanguageModel(language)).state_dict()):
        yield PEFT_PREFIX + name, value
    for name, value in _lively(VisionTower(sizes.tower, language.hidden)).state_dict().items():
        yield PEFT_PREFIX + (TOWER if name.startswith("vision_model.") else "model.") + name, value
    image = SamViT(sizes.image)
    for name, parameter in image.named_parameters():
        if "pos" in name:  # zero as initialised, which would hide a mistake in them
            nn.init.normal_(parameter, std=0.02)
    for prefix, network in (
        (SAM + "image_encoder.", image),
        (SAM, MaskDecoder()),
        (JUDGE, Judge()),
        (CORRECTOR, Corrector()),
    ):
        for name, value in _lively(network).state_dict().items():
            yield PEFT_PREFIX + prefix + name, value


def _lively(network: nn.Module) -> nn.Module:
    """Weights that keep a signal's size from layer to layer: torch's own make all rounds look alike."""
    for name, parameter in network.named_parameters():
        if name.endswith(("proj.weight", ".0.weight", ".2.weight", "fc1.weight", "fc2.weight", "fc3.weight")):
            nn.init.normal_(parameter, std=GAIN * parameter[0].numel() ** -0.5)
    return network


def _with_lora(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        owner = name.removesuffix(".weight")
        if not owner.endswith(("q_proj", "v_proj")):
            yield name, value
            continue
        outputs, inputs = value.shape
        yield owner + ".base_layer.weight", value
        yield owner + LORA_A, torch.randn(LORA_RANK, inputs) * inputs**-0.5
        yield owner + LORA_B, torch.randn(outputs, LORA_RANK) * 0.02


def _base_config(sizes: LanguageSizes, pieces: int) -> dict[str, Any]:
    return {
        "model_type": "llava_mistral",
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "max_position_embeddings": 4096,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": sizes.epsilon,
        "rope_theta": sizes.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": pieces,
    }


def _preprocessor_config(side: int) -> dict[str, Any]:
    return {
        "crop_size": {"height": side, "width": side},
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "resample": 3,
        "size": {"shortest_edge": side},
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
