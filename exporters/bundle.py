"""Writes a bundle: four graphs, the directory for vLLM, the tokenizer, and the manifest that describes them.

Knows the order of work and what the manifest says of a model. Does not know how graphs are exported
(``exporters.onnx.export``), nor the command line. The manifest is written last: a directory without one is
unfinished.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exporters import hardlink
from exporters.checkpoint.base_model import Base, read_base
from exporters.checkpoint.clip import Clip, read_clip
from exporters.checkpoint.model import Model, build_model
from exporters.checkpoint.published import DEFAULT_ALPHA, Checkpoint, read_checkpoint
from exporters.modules.heads import FEATURE
from exporters.onnx import export
from exporters.onnx.fp16_storage import Storage
from exporters.onnx.graphs import (
    ImageEncoderGraph,
    LanguageGraph,
    MaskDecoderGraph,
    VisionTowerGraph,
    preprocessing_of,
)
from exporters.progress import Progress
from exporters.vllm_model import write_vllm_model
from serving.bundle import (
    EXTERNAL,
    IMAGE_ENCODER,
    LANGUAGE_MODEL,
    MANIFEST,
    MASK_DECODER,
    REQUIRED_FILES,
    TOKENIZER,
    VISION_TOWER,
    VLLM,
    VLLM_FILES,
    AnswerSpec,
    Bundle,
    ImageSpec,
    JudgeSpec,
    LanguageSpec,
    Manifest,
    TokenSpec,
    file_digest,
    load_bundle,
)

INTENDED_USE = "Research and education. Not a medical device; not for diagnosis or treatment."


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a bundle is made from."""

    checkpoint: Path
    base: Path
    clip: Path


@dataclass(frozen=True, slots=True)
class Choices:
    """What no source says of a model."""

    name: str
    version: str
    storage: Storage
    default_mode: Literal["forced", "free"]
    template: str = "It is [SEG]."
    template_trained: bool = True
    tail: str = "."
    max_new_tokens: int = 32
    threshold: float = 0.6
    alpha: float = DEFAULT_ALPHA
    intended_use: str = INTENDED_USE


DEFAULTS = Choices(name="mediround", version="0", storage="fp32", default_mode="forced")


def write_bundle(sources: Sources, choices: Choices, out: Path, progress: Progress) -> Bundle:
    """Make a bundle and load it as serving would.

    Args:
        out: made if need be; other files in it stay. Files of another place that are linked to those in it
            (``exporters.hardlink``) stay as they are.
        progress: told of each step, for people.

    Raises:
        SourceError: a source cannot become a bundle.
    """
    progress(f"reading {sources.checkpoint}")
    base = read_base(sources.base)
    clip = read_clip(sources.clip, base.select_layer)
    checkpoint = read_checkpoint(sources.checkpoint, choices.alpha)
    for name in checkpoint.unknown:
        progress(f"left out, of no known part: {name}")
    model = build_model(checkpoint, base, clip, half=choices.storage == "fp16")
    tokens = base.tokens(model.language.sizes)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    with hardlink.replacing(out / TOKENIZER) as made:
        shutil.copyfile(base.tokenizer, made)
    for name, graph in _graphs(model, tokens).items():
        progress(f"exporting {name}")
        (out / (name + EXTERNAL)).unlink(missing_ok=True)  # of a larger graph that stood here
        with hardlink.replacing(out / name) as made:
            export.export(graph, made, choices.storage)
    progress(f"writing {VLLM}/")
    write_vllm_model(model, tokens, base.max_tokens, choices.storage, out / VLLM)
    manifest = _manifest(model, base, clip, checkpoint, choices, out)
    (out / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    progress(f"verifying {out}")
    return load_bundle(out)


def _graphs(model: Model, tokens: TokenSpec) -> dict[str, export.Export]:
    decoder = MaskDecoderGraph(model.heads, model.mask_decoder)
    return {
        IMAGE_ENCODER: export.image_encoder(ImageEncoderGraph(model.image_encoder)),
        MASK_DECODER: export.mask_decoder(decoder, model.image_encoder.grid),
        VISION_TOWER: export.vision_tower(VisionTowerGraph(model.tower)),
        LANGUAGE_MODEL: export.language_model(LanguageGraph(model.language, tokens)),
    }


def _files(out: Path) -> Iterator[str]:
    for name in (*REQUIRED_FILES, *VLLM_FILES):
        yield name
        if name.endswith(".onnx") and (out / (name + EXTERNAL)).exists():
            yield name + EXTERNAL


def _manifest(  # noqa: PLR0917  # each source says a part of it
    model: Model, base: Base, clip: Clip, checkpoint: Checkpoint, choices: Choices, out: Path
) -> Manifest:
    encoder, sizes = model.image_encoder, model.language.sizes
    return Manifest(
        name=choices.name,
        version=choices.version,
        intended_use=choices.intended_use,
        image=ImageSpec(
            side=encoder.side,
            preprocessing=preprocessing_of(encoder),
            embedding=(256, encoder.grid, encoder.grid),
            logits_side=4 * encoder.grid,
        ),
        tower=clip.spec,
        language=LanguageSpec(
            hidden=sizes.hidden,
            layers=sizes.layers,
            kv_heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            vocabulary=sizes.vocabulary,
            max_tokens=base.max_tokens,
            feature=FEATURE,
        ),
        tokens=base.tokens(sizes),
        judge=JudgeSpec(present=checkpoint.judge is not None, threshold=choices.threshold),
        answers=AnswerSpec(
            default_mode=choices.default_mode,
            template=choices.template,
            template_trained=choices.template_trained,
            tail=choices.tail,
            max_new_tokens=choices.max_new_tokens,
        ),
        storage=choices.storage,
        source={"checkpoint": checkpoint.digest, "base": base.digest, "clip": clip.digest},
        files={name: file_digest(out / name) for name in _files(out)},
    )
