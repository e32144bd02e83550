"""How far an image half in another precision is from the float32 one, on what it is really asked.

Knows the figures and the limits that pass. Graphs in half precision run emulated (``exporters.onnx.emulation``);
other runtimes are compared as they are. Does not know how the graphs were made nor where they go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from exporters.compare.recorded_inputs import DecodeInputs
from exporters.onnx.emulation import Array, Emulated
from exporters.onnx.first_difference import DriftedLayer, first_drifted
from serving.bundle import IMAGE_ENCODER, MASK_DECODER

Outputs = Mapping[str, Array]
Run = Callable[[Mapping[str, Array]], Outputs]
"""One graph: its inputs by name to its outputs by name."""


@dataclass(frozen=True, slots=True)
class Half:
    """Graphs that can be run, each opened when it is needed: at 1024 an encoder takes gigabytes."""

    encoder: Callable[[], Run]
    decoder: Callable[[], Run]


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """Largest differences from float32 that pass."""

    cosine: float = 0.999
    """Least cosine of an embedding and its float32 form."""
    flipped: float = 0.005
    """Share of all mask logits whose sign differs."""
    iou: float = 0.99
    """Least mean IoU of masks and their float32 forms."""
    predicted_iou: float = 0.05
    score: float = 1e-4
    """The judge is computed in float32 either way."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How to compare: what is asked, what passes, and with how many threads."""

    asked: Sequence[DecodeInputs]
    limits: DriftLimits = DriftLimits()
    threads: int = 2


@dataclass(frozen=True, slots=True)
class DriftFigures:
    """What was measured; the worst over images and masks unless a name says otherwise."""

    images: int
    masks: int
    embedding_cosine: float
    embedding_difference: float
    flipped_share: float
    mask_iou_mean: float
    mask_iou_least: float
    predicted_iou_difference: float
    score_difference: float
    corrected_differ: int
    """Masks whose ``corrected`` flag differs."""
    not_finite: int
    """Embeddings and masks with a value that is not finite."""

    def problems(self, limits: DriftLimits) -> tuple[str, ...]:
        """What fails, in words; nothing when all passes."""
        checks = (
            (self.not_finite == 0, f"{self.not_finite} results are not finite: a value beyond the type's range"),
            (
                self.embedding_cosine >= limits.cosine,
                f"embedding cosine {self.embedding_cosine:.6f} < {limits.cosine}",
            ),
            (
                self.flipped_share <= limits.flipped,
                f"{self.flipped_share:.4%} of signs flipped > {limits.flipped:.4%}",
            ),
            (self.mask_iou_mean >= limits.iou, f"mean mask IoU {self.mask_iou_mean:.4f} < {limits.iou}"),
            (
                self.predicted_iou_difference <= limits.predicted_iou,
                f"predicted IoU moved by {self.predicted_iou_difference:.4f} > {limits.predicted_iou}",
            ),
            (
                self.score_difference <= limits.score,
                f"score moved by {self.score_difference:.1e} > {limits.score}",
            ),
            (self.corrected_differ == 0, f"{self.corrected_differ} corrected flags differ"),
        )
        return tuple(words for passed, words in checks if not passed)


@dataclass(frozen=True, slots=True)
class DriftVerdict:
    figures: DriftFigures
    problems: tuple[str, ...]
    first_drifted: DriftedLayer | None
    """Looked for when there are problems, on the first image. None: no layer drifts by itself."""

    def json(self) -> dict[str, object]:
        return asdict(self)


def judge(full: Path, variant: Path, comparison: Comparison) -> DriftVerdict:
    """Compare the encoders and decoders in two directories, by the bundle's names.

    Each decodes its own embeddings, as it will when it serves.

    Raises:
        ValueError: no mask was asked for.
    """
    threads = comparison.threads
    figures = measure(comparison.asked, emulated(full, threads), emulated(variant, threads))
    problems = figures.problems(comparison.limits)
    first = next(each for each in comparison.asked if each.batches)
    return DriftVerdict(figures, problems, _layer(full, variant, first, threads) if problems else None)


def measure(asked: Sequence[DecodeInputs], full: Half, variant: Half) -> DriftFigures:
    """Ask both halves the same; each decodes its own embeddings.

    Raises:
        ValueError: no mask was asked for.
    """
    decoded = [each for each in asked if each.batches]
    if not decoded:
        raise ValueError("no mask was asked for: nothing to compare")
    tally = _Tally()
    embeddings = [list(_encoded(half.encoder(), decoded)) for half in (full, variant)]  # one encoder at a time
    decoders = full.decoder(), variant.decoder()
    for each, *pair in zip(decoded, *embeddings, strict=True):
        tally.embedding(*pair)
        for batch in each.batches:
            tally.masks(*(decode(_prompts(e, batch)) for decode, e in zip(decoders, pair, strict=True)))
    return tally.figures(len(decoded))


def emulated(directory: Path, threads: int) -> Half:
    """The graphs of a directory, by the bundle's names, in whatever precision."""
    return Half(
        encoder=lambda: Emulated(directory / IMAGE_ENCODER, threads),
        decoder=lambda: Emulated(directory / MASK_DECODER, threads),
    )


def _encoded(encoder: Run, asked: Sequence[DecodeInputs]) -> Iterator[Array]:
    for each in asked:
        yield encoder(pixels(each))["image_embeddings"]


def _layer(full: Path, variant: Path, asked: DecodeInputs, threads: int) -> DriftedLayer | None:
    """In the encoder, else in the decoder when both are shown the float32 embedding."""
    feeds = pixels(asked)
    if layer := first_drifted(full / IMAGE_ENCODER, variant / IMAGE_ENCODER, feeds, threads):
        return layer
    embedding = Emulated(full / IMAGE_ENCODER, threads)(feeds)["image_embeddings"]
    prompts = _prompts(embedding, asked.batches[0])
    return first_drifted(full / MASK_DECODER, variant / MASK_DECODER, prompts, threads)


def pixels(asked: DecodeInputs) -> dict[str, Array]:
    """What the image encoder is given of it."""
    return {
        "image_u8": asked.image.pixels[np.newaxis],  # (1, S, S, 3)
        "valid_hw": np.array([asked.image.valid_hw], np.int32),  # (1, 2)
    }


def _prompts(embedding: Array, batch: tuple[Array, Array]) -> dict[str, Array]:
    features, thresholds = batch
    return {
        "image_embeddings": embedding,  # (1, 256, 64, 64)
        "seg_features": features[np.newaxis],  # (1, K, 256)
        "threshold": thresholds[np.newaxis],  # (1, K)
    }


@dataclass(slots=True)
class _Tally:
    """Pairs of results, float32 first, as they come."""

    cosines: list[float] = field(default_factory=list)
    embeddings: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    flipped: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    corrected: int = 0
    not_finite: int = 0

    def embedding(self, full: Array, variant: Array) -> None:
        a, b = full.astype(np.float64).ravel(), variant.astype(np.float64).ravel()
        self.not_finite += not np.isfinite(b).all()
        with np.errstate(invalid="ignore", over="ignore"):
            self.cosines.append(float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
            self.embeddings.append(float(np.abs(a - b).max()))

    def masks(self, full: Outputs, variant: Outputs) -> None:
        """Both (1, K, …)."""
        logits = variant["low_res_masks"][0]
        self.not_finite += int((~np.isfinite(logits).all(axis=(1, 2))).sum())
        for expected, actual in zip(full["low_res_masks"][0] > 0, logits > 0, strict=True):
            union = np.count_nonzero(expected | actual)
            self.ious.append(np.count_nonzero(expected & actual) / union if union else 1.0)
            self.flipped.append(float(np.mean(expected != actual)))
        self.predicted.append(float(np.abs(full["iou"] - variant["iou"]).max()))
        judged = np.isfinite(full["score"])  # a model without a judge has no scores
        self.scores.append(float(np.abs(full["score"] - variant["score"])[judged].max(initial=0.0)))
        self.corrected += int(np.count_nonzero(full["corrected"] != variant["corrected"]))

    def figures(self, images: int) -> DriftFigures:
        return DriftFigures(
            images=images,
            masks=len(self.ious),
            embedding_cosine=float(np.min(self.cosines)),  # NaN stays NaN, and NaN fails
            embedding_difference=float(np.max(self.embeddings)),
            flipped_share=float(np.mean(self.flipped)),
            mask_iou_mean=float(np.mean(self.ious)),
            mask_iou_least=float(np.min(self.ious)),
            predicted_iou_difference=float(np.max(self.predicted)),
            score_difference=float(np.max(self.scores)),
            corrected_differ=self.corrected,
            not_finite=self.not_finite,
        )
