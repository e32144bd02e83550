"""What a dialogue found on a frame of a stack: the values.

Knows what is told of each frame. Does not know who asked it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mediround._records import PixelRecord
from mediround.dicom.series.stack import StackFrame
from mediround.errors import MediRoundError
from mediround.window import AppliedWindow

Mark: TypeAlias = Literal["", "low", "fell", "lost"]
Restart: TypeAlias = Literal["", "gap", "failed", "no mask", "mark"]
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class FrameAnswer:
    """One question of the template, on one frame.

    Attributes:
        name: the question's.
        label: the question's.
        status: ``mask``; ``given``: it was not asked, its mask is the caller's; ``no_mask``: the model says that
            there is none; ``not_asked``: the question is about one that got no mask.
        words: the model's answer.
        mask: bool (Rows, Columns) on the frame's own pixels; None without one.
        score: the judge's estimate of its IoU, 0 to 1, before correction; None without a mask or a judge.
        corrected: whether the corrector replaced the feature that the mask was drawn from.
        mark: ``low``: the score is at most the least that is wanted; ``fell``: it is lower by 0.2 or more than on
            the frame before; ``lost``: there is no mask where the frame before had one. The mask is as the model
            drew it all the same. Empty: none of these.
        model_digest: SHA-256 of the bundle's manifest, hex; empty where it was not asked.
        engine_digest: of the record of what computed it; empty where it is not known.
    """

    name: str
    label: str
    status: Literal["mask", "given", "no_mask", "not_asked"]
    words: str = ""
    mask: Bits | None = field(default=None, repr=False)
    score: float | None = None
    corrected: bool = False
    mark: Mark = ""
    model_digest: str = ""
    engine_digest: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class FrameResult:
    """What the dialogue found on one frame.

    Attributes:
        index: zero-based index of the frame in its stack.
        frame: which one it is, and where it lies.
        answers: one for each question, in the template's order; none where the frame failed.
        window: what made 8 bits of its stored values; None for colour, or where the frame failed.
        pixels: that and the libraries that decoded it; None where the frame failed.
        follows: index of the frame whose masks the dialogue began with; None: it began with none.
        restarted: why it began with none although it was to follow a frame: ``gap``, ``failed``, ``no mask`` or
            ``mark``; else empty.
        error: why it failed, a ``DicomError`` among them; None: it did not.
    """

    index: int
    frame: StackFrame
    answers: tuple[FrameAnswer, ...] = ()
    window: AppliedWindow | None = None
    pixels: PixelRecord | None = None
    follows: int | None = None
    restarted: Restart = ""
    error: MediRoundError | OSError | None = None
