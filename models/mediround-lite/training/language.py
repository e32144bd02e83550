"""The language half in training: vision tower, language model, and three heads that training alone has.

Knows how rows of token ids, images and references become hidden states. Does not know how rows are drawn
(``rows``) nor what is learnt from them (``stage_b``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from exporters.modules.clip import TowerSizes, VisionTower
from exporters.modules.language import LanguageModel, LanguageSizes
from serving.bundle import TokenSpec
from serving.domain import F32, TowerImage
from training.features import GEOMETRY
from training.targets import NAMES

TOWER = TowerSizes(
    side=112, patch=14, width=128, layers=4, heads=4, hidden=256, activation="quick_gelu", epsilon=1e-5
)
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE = 128, 3, 4, 2, 32, 256
ROPE_THETA, EPSILON = 10000.0, 1e-5
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Shown:
    """A reference as the language half receives it."""

    crop: TowerImage
    box: F32  # (4,)


@dataclass(frozen=True, slots=True)
class Row:
    """One dialogue as tokens; the image's placeholder stands once."""

    image: TowerImage
    token_ids: tuple[int, ...]
    references: tuple[Shown, ...]
    """In the order of their placeholders."""


class LanguageHalf(nn.Module):
    """Rows in, hidden states out. ``tower`` and ``model`` are shipped, the other three are not."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        sizes = LanguageSizes(
            HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, vocabulary, ROPE_THETA, EPSILON
        )
        self.tower = VisionTower(TOWER, HIDDEN)
        self.model = LanguageModel(sizes)
        self.names = nn.Linear(HIDDEN, len(NAMES))
        """Names the referred structure at [BBOXINPUT]: makes crop and box worth reading."""
        self.answers = nn.Linear(HIDDEN, len(NAMES) + 1)
        """Names the wanted structure, or that there is none, where a question ends: next-word loss alone hardly
        weighs a side."""
        self.gist = nn.Linear(HIDDEN, 2 * len(NAMES))
        """Sizes of all structures and how good their masks will be, from the image's mean token."""
        for parameter in self.model.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.05)

    def forward(
        self,
        rows: list[Row],
        tokens: TokenSpec,
        *,
        seen: tuple[Tensor, Tensor] | None = None,
        zeroed: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Rows → hidden states [B, T, H] and their token ids [B, T] with the image expanded, padded right.

        ``seen`` is what ``see`` returned for rows with these images and references. ``zeroed`` sets crop and
        box embeddings to 0: the test whether references are used.
        """
        token_ids = expanded(rows, tokens)
        patches, crops = self.see(rows) if seen is None else seen
        embedded = self.model.embed(token_ids.clamp(min=0))
        embedded = embedded.masked_scatter((token_ids == tokens.image)[..., None], patches.flatten(0, 1))
        shown = [reference for row in rows for reference in row.references]
        if shown:
            boxes = self.model.encode_box(torch.from_numpy(np.stack([one.box for one in shown])))
            keep = 0.0 if zeroed else 1.0
            embedded = embedded.masked_scatter((token_ids == tokens.crop)[..., None], crops * keep)
            embedded = embedded.masked_scatter((token_ids == tokens.bbox)[..., None], boxes * keep)
        return self.model(embedded)[0], token_ids

    def see(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Patch tokens of the rows' images [B, 64, H], crop tokens of their references [X, H]."""
        images = [row.image for row in rows]
        crops = [reference.crop for row in rows for reference in row.references]
        pixels = np.stack([image.normalised(GEOMETRY.tower) for image in (*images, *crops)])
        patches, crop = self.tower(torch.from_numpy(pixels))
        return patches[: len(images)], crop[len(images) :]


def expanded(rows: list[Row], tokens: TokenSpec) -> Tensor:
    """Token ids [B, T]: the image's placeholder repeated for each of its tokens, ``IGNORED`` as padding."""
    lines = []
    for row in rows:
        at = row.token_ids.index(tokens.image)
        image = [tokens.image] * TOWER.tokens
        lines.append(torch.tensor([*row.token_ids[:at], *image, *row.token_ids[at + 1 :]]))
    return nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=IGNORED)
