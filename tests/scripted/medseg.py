"""A data set in the MR-MedSeg form, written below a root."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Item = dict[str, Any]


def rectangle(height: int = 48, width: int = 64, side: int = 16) -> np.ndarray:
    """bool (H, W), set at the top left."""
    mask = np.zeros((height, width), np.bool_)
    mask[:side, :side] = True
    return mask


def dialogue(references: Sequence[int | None], image: str = "image.png", target: str = "mask.png") -> Item:
    """An item of as many rounds as there are references; every target is the same mask."""
    turns: list[Item] = []
    for number, refer_to in enumerate(references):
        tokens = f"[IMAGE256:{image}]" if number == 0 else ""
        human: Item = {"from": "human", "value": ""}
        if refer_to is not None:
            tokens += f"[MASK-ENCODE:{target}][BOX-ENCODE:{target}]"
            human["ind"] = refer_to
        human["value"] = f"{tokens} Segment part {number}."
        turns += [human, {"from": "gpt", "value": f"It is [MASK-DECODE:{target}]."}]
    return {"task": "segmentation", "conversations": turns}


def write(root: Path, items: object, seed: int = 0) -> Path:
    """Write ``dialogues.json``, ``image.png`` and ``mask.png``; the path of the first."""
    pixels = np.random.default_rng(seed).integers(1, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(root / "image.png")
    Image.fromarray(rectangle()).save(root / "mask.png")
    (root / "dialogues.json").write_text(json.dumps(items))
    return root / "dialogues.json"
