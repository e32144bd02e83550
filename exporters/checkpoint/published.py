"""Reading a checkpoint in the published layout (docs/reference.md, "Checkpoint form").

Knows the key spellings of peft 0.4 and ≥ 0.7, which LoRA matrices belong to which weight, and which prefix to
which part. Does not know files' forms (``exporters.checkpoint.tensor_files``), the networks
(``exporters.checkpoint.model``), the base model or CLIP (``exporters.checkpoint.base_model``,
``exporters.checkpoint.clip``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from exporters.checkpoint.tensor_files import TensorFile, checkpoint_files
from exporters.checkpoint.weights import Tensors, Weight
from exporters.errors import IncompleteCheckpointError, NotACheckpointError
from serving.bundle import file_digest

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
    """A checkpoint split by part. Nothing is read but forms; a tensor keeps its type, and with LoRA is float32."""

    language: Tensors
    """Names as in ``LanguageModel``."""
    tower: Tensors | None
    """``vision_model.*``; None where the frozen tower was not saved."""
    projector: Tensors
    """``mm_projector.*``."""
    image_encoder: Tensors
    mask_decoder: Tensors
    """``prompt_encoder.*`` and ``mask_decoder.*``."""
    judge: Tensors | None
    corrector: Tensors | None
    """None for a stage 1 checkpoint."""
    unknown: tuple[str, ...]
    """Keys that belong to no part: left out, and to be reported."""
    files: tuple[TensorFile, ...]


def read_checkpoint(directory: Path, alpha: float = DEFAULT_ALPHA) -> Checkpoint:
    """Find a checkpoint's tensors: ``pytorch_model*.bin`` or ``model*.safetensors``, with or without an index.

    Args:
        directory: a stage 1 or stage 2 checkpoint, as DeepSpeed's ``zero_to_fp32.py`` writes it.
        alpha: the LoRA scale's numerator; the rank is read from the tensors.

    Raises:
        NotACheckpointError, UnsafeCheckpointError, IncompleteCheckpointError: what is wrong, and the remedy.
    """
    paths = checkpoint_files(directory)
    if not paths:
        raise NotACheckpointError(_no_files(directory))
    stored: dict[str, Weight] = {}
    files = tuple(map(TensorFile, paths))
    for file in files:
        for name in file.forms:
            plain = plain_name(name)
            if plain in stored:
                raise NotACheckpointError(
                    f"{plain} is in {stored[plain].file.path.name} and in {file.path.name}: must be in one file. "
                    f"Leave in {directory} the files of one checkpoint alone."
                )
            stored[plain] = Weight(file, name)
    return _split(with_lora(stored, alpha), files)


def _no_files(directory: Path) -> str:
    traces = ("latest", "zero_to_fp32.py", "mp_rank_*", "zero_pp_rank_*", "*/mp_rank_*", "*/zero_pp_rank_*")
    if any(next(directory.glob(trace), None) for trace in traces):
        return (
            f"{directory} is a DeepSpeed training state. Run `python zero_to_fp32.py . pytorch_model.bin` in it "
            "(the script lies beside the state) and give the directory of the pytorch_model*.bin it writes."
        )
    return (
        f"{directory} holds no pytorch_model*.bin and no model*.safetensors. Give the directory of a stage 1 or "
        "stage 2 checkpoint."
    )


def plain_name(name: str) -> str:
    """Without peft's prefix and its ``base_layer``."""
    return name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")


def with_lora(stored: Mapping[str, Weight], alpha: float) -> dict[str, Weight]:
    """Every pair of LoRA matrices joined to the weight that it changes, and no longer a weight of its own."""
    joined = dict(stored)
    for name in [name for name in stored if name.endswith(LORA_A)]:
        owner = name.removesuffix(LORA_A)
        try:
            a, b, weight = joined.pop(name), joined.pop(owner + LORA_B), joined[owner + ".weight"]
        except KeyError as error:
            raise IncompleteCheckpointError(f"{owner} has a LoRA matrix but no {error}.") from error
        joined[owner + ".weight"] = replace(weight, lora=(a, b), scale=alpha / a.form.shape[0])
    return joined


def _split(stored: Mapping[str, Weight], files: tuple[TensorFile, ...]) -> Checkpoint:
    rest = {name: weight for name, weight in stored.items() if not name.endswith(DERIVED)}

    def take(prefixes: tuple[str, ...], strip: str = "") -> Tensors:
        names = [name for name in rest if name.startswith(prefixes)]
        return Tensors({name.removeprefix(strip): rest.pop(name) for name in names})

    checkpoint = Checkpoint(
        language=take(LANGUAGE),
        tower=take((TOWER,), TOWER).renamed(_tower_name) or None,
        projector=take((PROJECTOR,), "model."),
        image_encoder=take((SAM + "image_encoder.",), SAM + "image_encoder."),
        mask_decoder=take((SAM + "prompt_encoder.", SAM + "mask_decoder."), SAM),
        judge=take((JUDGE,), JUDGE) or None,
        corrector=take((CORRECTOR,), CORRECTOR) or None,
        unknown=tuple(sorted(rest)),
        files=files,
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


def files_digest(paths: Iterable[Path], advance: Callable[[int], None] = lambda _: None) -> str:
    """One SHA-256 over the names and SHA-256s of files; ``advance`` is told of each file's bytes once read."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name} {file_digest(path)}\n".encode())
        advance(path.stat().st_size)
    return digest.hexdigest()
