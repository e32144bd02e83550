"""What the model makes of pictures, on a tower made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: make env-vllm")

from serving.llm.plugin.model import AT_ONCE, MediRoundForSegmentation

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
    model = SimpleNamespace(vision_tower=Tower(), mm_projector=lambda tokens: tokens * 10)
    pictures = torch.arange(count, dtype=torch.float32)
    embedded = MediRoundForSegmentation._embedded(model, modality, pictures)  # type: ignore[arg-type]  # what it uses
    assert torch.equal(embedded, (pictures.view(-1, 1, 1) + torch.tensor(wanted).view(1, -1, 1)) * 10)
    assert sum(model.vision_tower.sizes) == count
    assert max(model.vision_tower.sizes) <= AT_ONCE
