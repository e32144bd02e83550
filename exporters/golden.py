"""Reads a directory in the golden form: a data set in the MR-MedSeg form beside recorded results.

Knows the data set's bracket tokens and the names of recorded arrays. Does not know how anything is computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.domain import AnswerMode, Question

IMAGE_PLACEHOLDER = -200
"""Stands for the image in recorded token ids."""
_IMAGE = re.compile(r"\[IMAGE256:([^\]]*)\]")
_SHOWN = re.compile(r"\[(?:IMAGE256|MASK-ENCODE|BOX-ENCODE|REF-DECODE):[^\]]*\]")
_TARGET = re.compile(r"\[MASK-DECODE:[^\]]*\]")


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
    """Every dialogue of the directory, in order."""
    dataset = directory / "dataset"
    items = json.loads((dataset / "dialogues.json").read_text())
    with np.load(directory / "expected.npz") as recorded:
        for index, item in enumerate(items):
            turns = item["conversations"]
            found = _IMAGE.search(turns[0]["value"])
            if found is None:
                raise ValueError(f"{directory}: dialogue {index} does not begin with an image")
            questions = tuple(_questions(turns))
            yield RecordedDialogue(
                index=index,
                rgb=np.asarray(Image.open(dataset / found[1]).convert("RGB")),
                questions=questions,
                token_ids=tuple(recorded[f"d{index}_input_ids"].ravel().tolist()),
                rounds=tuple(_round(recorded, f"d{index}_r{k}_") for k in range(len(questions))),
            )


def _questions(turns: Sequence[Mapping[str, Any]]) -> Iterator[Question]:
    for human, model in zip(turns[::2], turns[1::2], strict=True):
        answer = _SHOWN.sub("", _TARGET.sub("[SEG]", model["value"]))
        yield Question(_SHOWN.sub("", human["value"]).strip(), human.get("ind"), AnswerMode.FORCED, answer)


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
