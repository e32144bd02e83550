"""Reads a directory in the golden form: a data set in the MR-MedSeg form beside recorded results.

Knows the names of recorded arrays. Does not know the form's tokens (``mediround.medseg``), nor how anything is
computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from exporters.errors import UnsupportedSourceError
from mediround.medseg import parse, read_items
from serving.domain import AnswerMode, Question

IMAGE_PLACEHOLDER = -200
"""Stands for the image in recorded token ids."""


@dataclass(frozen=True, slots=True)
class RecordedRound:
    """What the published code computed in one round; None where it recorded nothing."""

    feature: npt.NDArray[np.float32]
    """(256,), as decoded."""
    raw_feature: npt.NDArray[np.float32] | None
    score: float | None
    mask: npt.NDArray[np.bool_]
    """(H, W)."""
    box: npt.NDArray[np.float64] | None
    """(4,), normalised, of this round's mask."""
    crop: tuple[int, int, int, int] | None
    """row0, column0, row1, column1 of the crop of this round's mask; upper bounds exclusive."""


@dataclass(frozen=True, slots=True)
class RecordedDialogue:
    index: int
    rgb: npt.NDArray[np.uint8]
    """(H, W, 3)."""
    questions: tuple[Question, ...]
    token_ids: tuple[int, ...]
    rounds: tuple[RecordedRound, ...]


def read_golden(directory: Path) -> Iterator[RecordedDialogue]:
    """Every dialogue of the directory, in order.

    Raises:
        UnsupportedSourceError: the directory is not in the golden form.
        DataError: its data set is not in the MR-MedSeg form.
    """
    dataset = directory / "dataset"
    for needed in (directory / "expected.npz", dataset / "dialogues.json"):
        if not needed.is_file():
            raise UnsupportedSourceError(f"{needed} is missing: --golden names a directory in the golden form.")
    with np.load(directory / "expected.npz") as recorded:
        for index, item in enumerate(read_items(dataset / "dialogues.json")):
            dialogue = parse(item)
            yield RecordedDialogue(
                index=index,
                rgb=np.asarray(Image.open(dataset / dialogue.image).convert("RGB")),
                questions=tuple(
                    Question(asked.question, asked.refer_to, AnswerMode.FORCED, asked.answer)
                    for asked in dialogue.rounds
                ),
                token_ids=tuple(recorded[f"d{index}_input_ids"].ravel().tolist()),
                rounds=tuple(_round(recorded, f"d{index}_r{k}_") for k in range(len(dialogue.rounds))),
            )


def _round(recorded: Mapping[str, npt.NDArray[Any]], prefix: str) -> RecordedRound:
    def optional(name: str) -> npt.NDArray[Any] | None:
        return recorded.get(prefix + name)

    height, width = recorded[f"{prefix}shape"].tolist()
    packed, score, crop = recorded[f"{prefix}mask_packed"], optional("score"), optional("crop_box_rc")
    return RecordedRound(
        feature=recorded[f"{prefix}feature"].ravel(),
        raw_feature=None if (raw := optional("raw_feature")) is None else raw.ravel(),
        score=None if score is None else float(score.item()),
        mask=np.unpackbits(packed.ravel(), count=height * width).reshape(height, width).astype(np.bool_),
        box=None if (box := optional("bbox")) is None else box.ravel(),
        crop=None if crop is None else tuple(crop.ravel().tolist()),
    )
