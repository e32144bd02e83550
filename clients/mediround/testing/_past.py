"""A scripted server's rounds: what is remembered of each, and how it is told.

Knows masks and messages. Does not know sessions, scripts or calls.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import numpy as np

from mediround import masks
from mediround.testing.script import Bits
from mediround.v1 import segmentation_pb2 as pb


def new_round_id() -> str:
    return secrets.token_urlsafe(12)


@dataclass(slots=True, eq=False)
class ScriptedRound:
    """One that was answered."""

    question: str
    answer: str
    original: Bits | None
    """The script's mask, or the seed's; None for a round without one."""
    used: Bits | None = None
    """The mask that it referred to."""
    seeded: bool = False
    round_id: str = ""
    amended: Bits | None = None
    seed_origin: str = ""
    origin: str = ""
    """Of ``amended``."""
    told: pb.RoundResult = field(default_factory=pb.RoundResult)
    """As it was answered."""

    @property
    def mask(self) -> Bits | None:
        """As it is now."""
        return self.original if self.amended is None else self.amended

    @property
    def masks(self) -> list[Bits]:
        """All that it holds."""
        return [each for each in (self.original, self.amended, self.used) if each is not None]

    @property
    def words(self) -> int:
        return len(f"{self.question} {self.answer}".split())

    def summary(self, index: int) -> pb.RoundSummary:
        told = self.told
        message = pb.RoundSummary(
            round=index,
            round_id=self.round_id,
            question=self.question,
            answer=self.answer,
            score=told.score if told.HasField("score") else None,
            seg_probability=told.seg_probability if told.HasField("seg_probability") else None,
            corrected=told.corrected,
            amended=self.amended is not None,
            seeded=self.seeded,
            reference=told.reference if told.HasField("reference") else None,
            engine_digest=told.engine_digest,
            origin=self.seed_origin if self.amended is None else self.origin,
        )
        if self.mask is not None:
            message.mask.CopyFrom(_mask_summary(self.mask))
        if self.amended is not None and self.original is not None:
            message.original.CopyFrom(_mask_summary(self.original))
        return message


def mask_message(mask: Bits, encoding: pb.MaskEncoding.ValueType) -> pb.Mask:
    encoding = encoding or pb.MASK_ENCODING_COCO_RLE
    data = masks.encode(mask, encoding)
    height, width = mask.shape
    area = int(np.count_nonzero(mask))
    return pb.Mask(height=height, width=width, encoding=encoding, data=data, area=area, box=box(mask))


def box(mask: Bits) -> pb.PixelBox | None:
    """Around the pixels set; None when none is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return pb.PixelBox(x_min=int(columns[0]), y_min=int(rows[0]), x_max=int(columns[-1]), y_max=int(rows[-1]))


def _mask_summary(mask: Bits) -> pb.MaskSummary:
    return pb.MaskSummary(mask_digest=masks.digest(mask), area=int(np.count_nonzero(mask)), box=box(mask))
