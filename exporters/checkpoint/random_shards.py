"""A random checkpoint larger than memory: bfloat16 in numbered files, made and written one file at a time.

Knows which values keep a signal's size through all layers, so that bfloat16 can be compared with float32. Does not
know sizes (``exporters.checkpoint.random``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from exporters.checkpoint.published import GAUSSIAN, LORA_A, LORA_B, PEFT_PREFIX
from exporters.checkpoint.shards import PlannedTensor, divided
from exporters.checkpoint.tensor_files import INDEX, TensorForm
from exporters.modules.norm import RMSNorm

DTYPE = torch.bfloat16
STD = 0.02
"""Of embeddings, positions, biases and the transformers' weights, as they are initialised before a training."""
GAIN = 1.5
"""Of the layers that no norm follows: their weights are drawn by the number of their inputs."""
LORA_RANK = 8
_HEADS = (
    "mm_projector.",
    "text_hidden_fcs.",
    "bbox_encoder.",
    "mask_decoder.",
    "mask_quality_MLP.",
    "refine_MLP.",
)


def planned(networks: Mapping[str, nn.Module], seed: int) -> Iterator[PlannedTensor]:
    """Every tensor of a checkpoint, LoRA unmerged, under its published name.

    Args:
        networks: by the prefix of their names; on torch's ``meta`` device, so that they take no memory.
        seed: of all values; a tensor's own are drawn by its name as well, and so in any order.
    """
    for prefix, network in networks.items():
        norms = {name for name, module in network.named_modules() if isinstance(module, nn.LayerNorm | RMSNorm)}
        for name, value in network.state_dict().items():
            full, shape = prefix + name, tuple(value.shape)
            owner, _, last = name.rpartition(".")
            if owner in norms:
                yield _planned(PEFT_PREFIX + full, shape, seed, 0.0, shift=float(last == "weight"))
            elif full.startswith("model.layers.") and full.endswith(("q_proj.weight", "v_proj.weight")):
                yield from _with_lora(PEFT_PREFIX + full.removesuffix(".weight"), shape, seed)
            else:
                yield _planned(PEFT_PREFIX + full, shape, seed, _std(full, shape))


def write(tensors: list[PlannedTensor], out: Path, most: int, advance: Callable[[int], None]) -> None:
    """Write ``pytorch_model-…bin`` files of at most ``most`` bytes of tensors, and their index last."""
    parts = list(divided(tensors, most))
    owners: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"pytorch_model-{number:05}-of-{len(parts):05}.bin"
        state = {}
        for each in part:
            state[each.name] = each.read()
            advance(each.form.nbytes)
        torch.save(state, out / name)
        owners |= dict.fromkeys(state, name)
    index = {"metadata": {"total_size": sum(each.form.nbytes for each in tensors)}, "weight_map": owners}
    (out / f"pytorch_model.bin{INDEX}").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _with_lora(owner: str, shape: tuple[int, ...], seed: int) -> Iterator[PlannedTensor]:
    outputs, inputs = shape
    yield _planned(f"{owner}.base_layer.weight", shape, seed, STD)
    yield _planned(owner + LORA_A, (LORA_RANK, inputs), seed, inputs**-0.5)
    yield _planned(owner + LORA_B, (outputs, LORA_RANK), seed, STD)


def _std(name: str, shape: tuple[int, ...]) -> float:
    if name.endswith(GAUSSIAN):
        return 1.0
    fan_in = torch.Size(shape[1:]).numel()
    return GAIN * fan_in**-0.5 if len(shape) > 1 and any(head in name for head in _HEADS) else STD


def _planned(name: str, shape: tuple[int, ...], seed: int, std: float, shift: float = 0.0) -> PlannedTensor:
    def read() -> Tensor:
        generator = torch.Generator()
        generator.manual_seed(
            int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1
        )
        return torch.randn(shape, generator=generator).mul_(std).add_(shift).to(DTYPE)

    return PlannedTensor(name, TensorForm(shape, DTYPE), read)
