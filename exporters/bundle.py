"""Writes a bundle: the graphs, the directory for vLLM, the tokenizer, and the manifest that describes them.

Knows the order of work, what is in memory meanwhile, and what the manifest says of a model. Does not know how
graphs are exported (``exporters.onnx.export``), how vLLM's weights are written (``exporters.vllm_model``), nor the
command line.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exporters.byte_progress import counted, gigabytes
from exporters.checkpoint.base_model import Base, read_base
from exporters.checkpoint.clip import Clip, read_clip
from exporters.checkpoint.model import build_image_networks, build_language_networks
from exporters.checkpoint.published import DEFAULT_ALPHA, Checkpoint, files_digest, read_checkpoint
from exporters.checkpoint.shards import PlannedTensor
from exporters.consumption import Consumption
from exporters.disk import check_room, on_one_disk
from exporters.errors import UnsupportedSourceError
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
from exporters.staging import staged
from exporters.vllm_model import VllmDtype, plan_vllm_model, write_vllm_model
from serving.bundle import (
    EXTERNAL,
    IMAGE_ENCODER,
    LANGUAGE_MODEL,
    MANIFEST,
    MASK_DECODER,
    TOKENIZER,
    VISION_TOWER,
    VLLM,
    AnswerSpec,
    Bundle,
    ImageSpec,
    JudgeSpec,
    LanguageSpec,
    Manifest,
    file_digest,
)

LanguageForms = Literal["onnx", "vllm", "both"]
LARGEST_GRAPHS = 2 << 30
"""Bytes of the language half's graphs that are made unasked: in memory they take five times as much."""
_VLLM_DTYPES: Mapping[Storage, VllmDtype] = {"fp32": "float32", "fp16": "float16"}
_CONSUME_ADVICE = ", or --consume the checkpoint, whose files are then deleted one by one as they are written"

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
    language: LanguageForms | None = None
    """None: both where the graphs take at most ``LARGEST_GRAPHS`` bytes, else vLLM's alone."""
    vllm_dtype: VllmDtype | None = None
    """None: ``storage`` where there are graphs as well, so that both engines hold the same values; else source."""
    consume: bool = False
    """Delete each file of the checkpoint once all of it is written: what is cut short then begins with another."""


DEFAULTS = Choices(name="mediround", version="0", storage="fp32", default_mode="forced")


def write_bundle(sources: Sources, choices: Choices, out: Path, progress: Progress) -> Bundle:
    """Make a bundle. It appears with all of its files, or not at all.

    Args:
        out: made if need be; other files in it stay. Files of another place that are linked to those in it
            (``exporters.hardlink``) stay as they are.
        progress: told of each step, for people.

    Raises:
        SourceError: a source cannot become a bundle, or there is too little room for it.
    """
    progress(f"reading {sources.checkpoint}")
    base = read_base(sources.base)
    clip = read_clip(sources.clip, base.select_layer)
    checkpoint = read_checkpoint(sources.checkpoint, choices.alpha)
    for name in checkpoint.unknown:
        progress(f"left out, of no known part: {name}")
    writing = _Writing(base, clip, checkpoint, choices, progress)
    writing.check_room(out)
    source = writing.source_digests()
    with staged(out, progress) as made:
        image, files = writing.image_half(made)
        if writing.forms != "vllm":
            files |= writing.language_graphs(made)
        if writing.forms != "onnx":
            files |= writing.vllm_model(made)
        shutil.copyfile(base.tokenizer, made / TOKENIZER)
        files[TOKENIZER] = file_digest(made / TOKENIZER)
        manifest = writing.manifest(image, source, files).model_dump_json(indent=2) + "\n"
        (made / MANIFEST).write_text(manifest, encoding="utf-8")
    return Bundle(out, Manifest.model_validate_json(manifest), hashlib.sha256(manifest.encode()).hexdigest())


class _Writing:
    """One bundle on its way. Each step holds no more than it needs: the image half, the graphs, or one tensor."""

    def __init__(
        self, base: Base, clip: Clip, checkpoint: Checkpoint, choices: Choices, progress: Progress
    ) -> None:
        self._base, self._clip, self._checkpoint = base, clip, checkpoint
        self._choices, self._progress = choices, progress
        graphs = plan_vllm_model(checkpoint, base, clip, _VLLM_DTYPES[choices.storage])
        self.forms = choices.language or self._unasked(graphs.nbytes)
        dtype = choices.vllm_dtype or ("source" if self.forms == "vllm" else _VLLM_DTYPES[choices.storage])
        if self.forms == "onnx" and (choices.vllm_dtype or choices.consume):
            raise UnsupportedSourceError("--vllm-dtype and --consume must be left out with --language onnx.")
        self._plan = plan_vllm_model(checkpoint, base, clip, dtype)
        self._consumption = Consumption(checkpoint.files, self._plan)
        self._graph_bytes = graphs.nbytes
        self._sizes = base.sizes(checkpoint.language)  # now: later the checkpoint may be consumed

    def _unasked(self, graph_bytes: int) -> LanguageForms:
        if graph_bytes <= LARGEST_GRAPHS:
            return "both"
        self._progress(
            f"the language half is made for vLLM alone: its graphs would be {gigabytes(graph_bytes)} more, and "
            "take five times that in memory (--language both makes them)"
        )
        return "vllm"

    def check_room(self, out: Path) -> None:
        """Raises DiskFullError."""
        checkpoint, choices = self._checkpoint, self._choices
        parts = checkpoint.image_encoder, checkpoint.mask_decoder, checkpoint.judge, checkpoint.corrector
        image = sum(each.form.elements for part in parts if part for each in part.weights.values())
        needed = image * (2 if choices.storage == "fp16" else 4)
        needed += self._graph_bytes if self.forms != "vllm" else 0
        if self.forms != "onnx":
            freed = choices.consume and on_one_disk(out, checkpoint.files[0].path)
            needed += self._consumption.most_bytes() if freed else self._plan.nbytes
        check_room(out, needed, "" if choices.consume else _CONSUME_ADVICE, self._progress)

    def source_digests(self) -> dict[str, str]:
        """Of what the bundle is made from, by role."""
        paths = [file.path for file in self._checkpoint.files]
        total = sum(path.stat().st_size for path in paths)
        with counted(self._progress, "taking the checkpoint's digest", total) as advance:
            checkpoint = files_digest(paths, advance)
        return {"checkpoint": checkpoint, "base": self._base.digest, "clip": self._clip.digest}

    def image_half(self, out: Path) -> tuple[ImageSpec, dict[str, str]]:
        """Its two graphs; what the manifest says of the encoder, and the files' digests by name."""
        networks = build_image_networks(self._checkpoint, half=self._choices.storage == "fp16")
        encoder, decoder = networks.image_encoder, MaskDecoderGraph(networks.heads, networks.mask_decoder)
        graphs = {
            IMAGE_ENCODER: export.image_encoder(ImageEncoderGraph(encoder)),
            MASK_DECODER: export.mask_decoder(decoder, encoder.grid),
        }
        spec = ImageSpec(
            side=encoder.side,
            preprocessing=preprocessing_of(encoder),
            embedding=(256, encoder.grid, encoder.grid),
            logits_side=4 * encoder.grid,
        )
        return spec, self._graphs(graphs, out)

    def language_graphs(self, out: Path) -> dict[str, str]:
        """Two graphs; their digests by name."""
        half = self._choices.storage == "fp16"
        networks = build_language_networks(self._checkpoint, self._base, self._clip, half=half)
        tokens = self._base.tokens(networks.language.sizes)
        graphs = {
            VISION_TOWER: export.vision_tower(VisionTowerGraph(networks.tower)),
            LANGUAGE_MODEL: export.language_model(LanguageGraph(networks.language, tokens)),
        }
        return self._graphs(graphs, out)

    def _graphs(self, graphs: dict[str, export.Export], out: Path) -> dict[str, str]:
        for name, graph in graphs.items():
            self._progress(f"exporting {name}")
            export.export(graph, out / name, self._choices.storage)
        written = [made for name in graphs for made in (name, name + EXTERNAL) if (out / made).exists()]
        return {name: file_digest(out / name) for name in written}

    def vllm_model(self, out: Path) -> dict[str, str]:
        """The directory for vLLM; its files' digests by name."""
        with counted(self._progress, f"writing {VLLM}/", self._plan.nbytes) as advance:

            def written(tensor: PlannedTensor) -> None:
                advance(tensor.form.nbytes)
                if self._choices.consume:
                    self._consumption.written(tensor)

            digests = write_vllm_model(self._plan, out / VLLM, written)
        if self._choices.consume:
            self._consumption.rest()
        return {f"{VLLM}/{name}": digest for name, digest in digests.items()}

    def manifest(self, image: ImageSpec, source: dict[str, str], files: dict[str, str]) -> Manifest:
        """All that serving may know of the model."""
        base, choices, sizes = self._base, self._choices, self._sizes
        return Manifest(
            name=choices.name,
            version=choices.version,
            intended_use=choices.intended_use,
            image=image,
            tower=self._clip.spec,
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
            judge=JudgeSpec(present=self._checkpoint.judge is not None, threshold=choices.threshold),
            answers=AnswerSpec(
                default_mode=choices.default_mode,
                template=choices.template,
                template_trained=choices.template_trained,
                tail=choices.tail,
                max_new_tokens=choices.max_new_tokens,
            ),
            storage=choices.storage,
            source=source,
            files=dict(sorted(files.items())),
        )
