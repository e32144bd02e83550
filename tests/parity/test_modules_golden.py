"""The networks in torch against the published code's recorded numbers, before any export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.checkpoint.base_model import Base, read_base
from exporters.checkpoint.clip import Clip, read_clip
from exporters.checkpoint.model import Model, build_model
from exporters.checkpoint.published import read_checkpoint
from exporters.compare.golden import IMAGE_PLACEHOLDER, RecordedDialogue, read_golden
from exporters.onnx.graphs import ImageEncoderGraph, LanguageGraph, preprocessing_of
from serving.bundle import ImageSpec
from serving.domain import TowerImage
from serving.geometry import Geometry
from serving.pixels.masks import pack_mask

THRESHOLD = 0.6


@dataclass(frozen=True, repr=False)
class Golden:
    directory: Path
    base: Base
    clip: Clip
    model: Model
    geometry: Geometry


@dataclass(frozen=True, repr=False)
class Decoded:
    """One dialogue: features and logits of all rounds, references taken from the recorded masks."""

    dialogue: RecordedDialogue
    embedding: np.ndarray
    features: np.ndarray
    scores: np.ndarray
    low_res: np.ndarray
    full: list[np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def golden(golden_directory: Path) -> Golden:
    base = read_base(golden_directory / "llava_med")
    clip = read_clip(golden_directory / "clip", base.select_layer)
    checkpoint = read_checkpoint(golden_directory)
    model = build_model(checkpoint, base, clip, half=False)
    encoder = model.image_encoder
    image = ImageSpec(
        side=encoder.side,
        preprocessing=preprocessing_of(encoder),
        embedding=(256, encoder.grid, encoder.grid),
        logits_side=4 * encoder.grid,
    )
    return Golden(golden_directory, base, clip, model, Geometry(image, clip.spec, "encoder"))


@pytest.fixture(scope="module")
def decoded(golden: Golden) -> list[Decoded]:
    with torch.inference_mode():
        return [_decode(golden, dialogue) for dialogue in read_golden(golden.directory)]


def _decode(golden: Golden, dialogue: RecordedDialogue) -> Decoded:
    model, geometry = golden.model, golden.geometry
    source = geometry.source_image(np.ascontiguousarray(dialogue.rgb))
    encoder = geometry.encoder_image(source)
    pixels, valid = torch.from_numpy(encoder.pixels), torch.tensor([encoder.valid_hw])
    embedding = ImageEncoderGraph(model.image_encoder)(pixels[None], valid.int())

    def tower(picture: TowerImage) -> tuple[torch.Tensor, torch.Tensor]:
        patches, crop = model.tower(torch.from_numpy(picture.normalised(golden.clip.spec))[None])
        return patches[0], crop

    tokens = golden.base.tokens(model.language.sizes)
    media, boxes = [tower(source.tower)[0]], []
    referred = {question.refer_to for question in dialogue.questions}
    for question in dialogue.questions:
        if question.refer_to is not None:
            mask = pack_mask(dialogue.rounds[question.refer_to].mask)
            reference = geometry.reference(source, mask, question.refer_to)
            media.append(tower(reference.crop)[1])
            boxes.append(torch.from_numpy(reference.box))
    ids = [
        token
        for recorded in dialogue.token_ids
        for token in ([tokens.image] * golden.clip.spec.tokens if recorded == IMAGE_PLACEHOLDER else [recorded])
    ]
    positions = [index - 1 for index, token in enumerate(ids) if token == tokens.seg]
    nothing = model.language.empty_cache()
    raw, *_ = LanguageGraph(model.language, tokens)(
        torch.tensor([ids]), torch.cat(media), torch.stack(boxes), nothing, nothing, torch.tensor(positions)
    )
    limits = [THRESHOLD if k in referred else -1.0 for k in range(len(dialogue.questions))]
    scores, _, features = model.heads(raw[None], torch.tensor([limits]))
    low_res, _ = model.mask_decoder(embedding, features)
    full = [geometry.full_logits(logits, source) for logits in low_res[0].numpy()]
    return Decoded(
        dialogue, embedding[0].numpy(), features[0].numpy(), scores[0].numpy(), low_res[0].numpy(), full
    )


def test_image_embeddings(golden: Golden, decoded: list[Decoded]) -> None:
    with np.load(golden.directory / "expected.npz") as recorded:
        for index, dialogue in enumerate(decoded):
            expected = recorded[f"d{index}_image_embedding_f16"]
            actual = dialogue.embedding[:, ::8, ::8]
            # Recorded as float16: equal but for values on the edge of a rounding.
            assert np.mean(actual.astype(np.float16) != expected) < 0.02
            np.testing.assert_allclose(actual, expected.astype(np.float32), rtol=2**-11, atol=2e-5)


def test_features_and_scores(decoded: list[Decoded]) -> None:
    for dialogue in decoded:
        for recorded, feature, score in zip(
            dialogue.dialogue.rounds, dialogue.features, dialogue.scores, strict=True
        ):
            np.testing.assert_allclose(feature, recorded.feature, rtol=0, atol=1e-4)
            if recorded.score is not None:
                assert abs(score - recorded.score) < 1e-5


def test_low_resolution_logits(golden: Golden, decoded: list[Decoded]) -> None:
    with np.load(golden.directory / "expected.npz") as recorded:
        for index, dialogue in enumerate(decoded):
            for k, logits in enumerate(dialogue.low_res):
                expected = recorded[f"d{index}_r{k}_low_res_f16"].astype(np.float32)
                np.testing.assert_allclose(logits, expected, rtol=2**-11, atol=5e-5)


def test_masks(decoded: list[Decoded]) -> None:
    for dialogue in decoded:
        for recorded, full in zip(dialogue.dialogue.rounds, dialogue.full, strict=True):
            flipped = np.abs(full[(full > 0) != recorded.mask])
            assert flipped.max(initial=0.0) < 2e-5
