"""Reading a checkpoint in the published layout (docs/reference.md, "Checkpoint form").

Knows the files, the key spellings of peft 0.4 and ≥ 0.7, the LoRA merge and which prefix belongs to which
part. Does not know the networks (``exporters.checkpoint.model``), the base model or CLIP
(``exporters.checkpoint.base_model``, ``exporters.checkpoint.clip``). Nothing in a checkpoint is ever executed:
tensors only.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from exporters.errors import IncompleteCheckpointError, NotACheckpointError, UnsafeCheckpointError
from serving.bundle import file_digest

State = dict[str, Tensor]

PEFT_PREFIX = "base_model.model."
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"
DEFAULT_ALPHA = 16.0
"""The published training's lora_alpha, which no checkpoint file records."""

GAUSSIAN = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
TOWER = "model.vision_tower.vision_tower."
PROJECTOR = "model.mm_projector."
SAM = "model.visual_model."
JUDGE = "model.mask_quality_MLP."
CORRECTOR = "model.refine_MLP."
LANGUAGE = (
    "model.embed_tokens.",
    "model.layers.",
    "model.norm.",
    "model.bbox_encoder.",
    "model.text_hidden_fcs.",
    "lm_head.",
)
DERIVED = (".rotary_emb.inv_freq", ".embeddings.position_ids")
"""Buffers that old versions saved and that follow from the configuration."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint split by part, LoRA merged; tensors keep the type they were stored in."""

    language: State
    """Names as in ``LanguageModel``."""
    tower: State | None
    """``vision_model.*``; None where the frozen tower was not saved."""
    projector: State
    """``mm_projector.*``."""
    image_encoder: State
    mask_decoder: State
    """``prompt_encoder.*`` and ``mask_decoder.*``."""
    judge: State | None
    corrector: State | None
    """None for a stage 1 checkpoint."""
    unknown: tuple[str, ...]
    """Keys that belong to no part: left out, and to be reported."""
    digest: str
    """SHA-256 over the names and digests of the files read."""


def read_checkpoint(directory: Path, alpha: float = DEFAULT_ALPHA) -> Checkpoint:
    """Read every ``pytorch_model*.bin`` of a directory.

    Args:
        directory: a stage 1 or stage 2 checkpoint, as DeepSpeed's ``zero_to_fp32.py`` writes it.
        alpha: the LoRA scale's numerator; the rank is read from the tensors.

    Raises:
        NotACheckpointError, UnsafeCheckpointError, IncompleteCheckpointError: what is wrong, and the remedy.
    """
    shards = sorted(directory.glob("pytorch_model*.bin"))
    if not shards:
        raise NotACheckpointError(_no_shards(directory))
    state: State = {}
    for shard in shards:
        state.update(read_tensors(shard))
    merged = merge_lora(plain_names(state), alpha)
    return _split(merged, files_digest(shards))


def _no_shards(directory: Path) -> str:
    traces = ("latest", "zero_to_fp32.py", "mp_rank_*", "zero_pp_rank_*", "*/mp_rank_*", "*/zero_pp_rank_*")
    if any(next(directory.glob(trace), None) for trace in traces):
        return (
            f"{directory} is a DeepSpeed training state. Run `python zero_to_fp32.py . pytorch_model.bin` in it "
            "(the script lies beside the state) and give the directory of the pytorch_model*.bin it writes."
        )
    return f"{directory} holds no pytorch_model*.bin. Give the directory of a stage 1 or stage 2 checkpoint."


def read_tensors(path: Path) -> State:
    """The tensors of one ``torch.save`` file, memory-mapped; code in it is refused, never run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(
            f"{path} holds more than tensors, which could run code when loaded: refused. Only load files you "
            f"trust into torch, and save their state dict alone. ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise NotACheckpointError(
            f"{path} is not a whole file of torch.save in its zip form ({_first_line(error)}). Copy it again, or "
            "save the state dict with torch >= 1.6."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise NotACheckpointError(f"{path} is not a state dict (names to tensors). Save model.state_dict().")
    return state


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def plain_names(state: Mapping[str, Tensor]) -> State:
    """Names without peft's prefix and its ``base_layer``."""
    return {name.removeprefix(PEFT_PREFIX).replace(".base_layer.", "."): value for name, value in state.items()}


def merge_lora(state: State, alpha: float) -> State:
    """W + alpha / r · B A in float32 for every pair of LoRA matrices, which are then gone."""
    merged = dict(state)
    for name in [name for name in state if name.endswith(LORA_A)]:
        owner = name.removesuffix(LORA_A)
        try:
            a, b, weight = merged.pop(name), merged.pop(owner + LORA_B), merged[owner + ".weight"]
        except KeyError as error:
            raise IncompleteCheckpointError(f"{owner} has a LoRA matrix but no {error}.") from error
        merged[owner + ".weight"] = weight.float() + (alpha / a.shape[0]) * (b.float() @ a.float())
    return merged


def _split(state: State, digest: str) -> Checkpoint:
    rest = {name: value for name, value in state.items() if not name.endswith(DERIVED)}

    def take(prefixes: tuple[str, ...], strip: str = "") -> State:
        names = [name for name in rest if name.startswith(prefixes)]
        return {name.removeprefix(strip): rest.pop(name) for name in names}

    checkpoint = Checkpoint(
        language=take(LANGUAGE),
        tower={_tower_name(name): value for name, value in take((TOWER,), TOWER).items()} or None,
        projector=take((PROJECTOR,), "model."),
        image_encoder=take((SAM + "image_encoder.",), SAM + "image_encoder."),
        mask_decoder=take((SAM + "prompt_encoder.", SAM + "mask_decoder."), SAM),
        judge=take((JUDGE,), JUDGE) or None,
        corrector=take((CORRECTOR,), CORRECTOR) or None,
        unknown=tuple(sorted(rest)),
        digest=digest,
    )
    _check(checkpoint)
    return checkpoint


def _check(checkpoint: Checkpoint) -> None:
    if GAUSSIAN not in checkpoint.mask_decoder:
        raise IncompleteCheckpointError(
            f"{SAM}{GAUSSIAN} is missing. It is random and every mask hangs on it, so it cannot be made anew: "
            "save the checkpoint with its buffers (model.state_dict(), not only the parameters)."
        )
    if (checkpoint.judge is None) != (checkpoint.corrector is None):
        raise IncompleteCheckpointError(
            f"Only one of {JUDGE}* and {CORRECTOR}* is there. A stage 2 checkpoint holds both, stage 1 neither."
        )


def _tower_name(name: str) -> str:
    """Some checkpoints hold the tower without its inner ``vision_model.``."""
    return name if name.startswith("vision_model.") else "vision_model." + name


def files_digest(paths: Iterable[Path]) -> str:
    """One SHA-256 over the names and SHA-256s of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
    return digest.hexdigest()
