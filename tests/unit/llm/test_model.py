"""What the model makes of pictures, on a tower made up; and its normalisation, which is ONNX Runtime's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: make env-vllm")

from serving.domain import TowerImage
from serving.llm.plugin.model import AT_ONCE, MediRoundForSegmentation
from tests.unit.serving.manifests import manifest

TOKENS = 5
"""Of a picture, its class token among them."""


class Tower:
    """Token t of a picture of values v is v + t."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(pictures))
        return pictures.view(-1, 1, 1) + torch.arange(TOKENS).view(1, -1, 1)


@pytest.mark.parametrize("count", [1, AT_ONCE, 2 * AT_ONCE + 1])
@pytest.mark.parametrize(("modality", "wanted"), [("crop", [0]), ("image", [1, 2, 3, 4])])
def test_pictures_go_through_clip_in_batches_that_do_not_grow(
    modality: str, wanted: list[int], count: int
) -> None:
    model = SimpleNamespace(
        vision_tower=Tower(),
        mm_projector=lambda tokens: tokens * 10,
        bbox_encoder=torch.nn.Linear(4, 1),
        normalised=lambda pixels: pixels,
    )
    pictures = torch.arange(count, dtype=torch.float32)
    embedded = MediRoundForSegmentation._embedded(model, modality, pictures)  # type: ignore[arg-type]  # what it uses
    assert torch.equal(embedded, (pictures.view(-1, 1, 1) + torch.tensor(wanted).view(1, -1, 1)) * 10)
    assert sum(model.vision_tower.sizes) == count
    assert max(model.vision_tower.sizes) <= AT_ONCE


def test_pixels_are_normalised_as_everywhere() -> None:
    tower = manifest().tower
    pixels = np.random.default_rng(1).integers(0, 256, (2, tower.side, tower.side, 3), np.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tower.mean, tower.std))
    model = SimpleNamespace(image_mean=mean, image_std=std)
    normalised = MediRoundForSegmentation.normalised(model, torch.from_numpy(pixels))  # type: ignore[arg-type]  # as above
    expected = np.stack([TowerImage("", each).normalised(tower) for each in pixels])
    assert np.array_equal(normalised.numpy(), expected)
