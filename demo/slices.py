"""The committed test slices: pictures, the atlas' structures on them, and dialogues to ask.

Knows their files (models/mediround-lite/slices/README.md). Does not know the service.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Bits = npt.NDArray[np.bool_]
U8 = npt.NDArray[np.uint8]
LABELS = "labels.json"
"""What a directory of slices must hold: the structure of each label plane."""


@dataclass(frozen=True, slots=True)
class SliceQuestion:
    question: str
    refer_to: int | None
    target: str
    """Name of the structure that answers it."""
    truth: Bits
    """(H, W): that structure in the atlas."""


@dataclass(frozen=True, slots=True)
class SliceDialogue:
    path: Path
    image: U8
    """(H, W, 3)."""
    rounds: tuple[SliceQuestion, ...]


def dialogues(directory: Path) -> Iterator[SliceDialogue]:
    """Every dialogue of the directory, in order."""
    planes = {name: int(plane) for plane, name in json.loads((directory / LABELS).read_text()).items()}
    for item in json.loads((directory / "dialogues.json").read_text()):
        path = directory / item["image"]
        labels = np.asarray(Image.open(path.with_name(f"{path.stem}_labels.png")))
        rounds = tuple(
            SliceQuestion(
                asked["question"], asked["refer_to"], asked["target"], plane(labels, planes[asked["target"]])
            )
            for asked in item["rounds"]
        )
        yield SliceDialogue(path, np.asarray(Image.open(path).convert("RGB")), rounds)


def plane(labels: U8, structure: int) -> Bits:
    """One structure of label planes (H, W, 4): bit k % 8 of channel k // 8."""
    return ((labels[..., structure // 8] >> (structure % 8)) & 1).astype(np.bool_)


def dice(mask: Bits | None, truth: Bits) -> float:
    """2 |a ∩ b| / (|a| + |b|); 0 where the model drew no mask."""
    if mask is None:
        return 0.0
    common, both = int((mask & truth).sum()), int(mask.sum()) + int(truth.sum())
    return 2 * common / max(1, both)
