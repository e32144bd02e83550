"""What a scripted reply says to a question: its mask, of the image's size, and its words.

Knows scripts. Does not know messages or sessions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mediround.errors import ServerFault
from mediround.testing._rules import SEG
from mediround.testing.script import Answer, AskedQuestion, Bits

_NOTHING_SEEN = "That structure is not visible in this image."


def mask_of(answer: Answer, question: AskedQuestion) -> Bits | None:
    """The mask, of the image's size. Raises ServerFault when the script's is not."""
    size = question.height, question.width
    if answer.mask is None:
        return None if question.mode == "free" else np.zeros(size, np.bool_)
    return _bits(answer.mask, size)


def near_zero_of(answer: Answer, size: tuple[int, int]) -> Bits:
    """The pixels that the script says are next to 0. Raises ServerFault, as ``mask_of`` does."""
    return np.zeros(size, np.bool_) if answer.near_zero is None else _bits(answer.near_zero, size)


def _bits(scripted: Bits | Callable[[int, int], Bits], size: tuple[int, int]) -> Bits:
    bits = scripted(*size) if callable(scripted) else scripted
    if bits.shape != size or bits.dtype != np.bool_:
        raise ServerFault(f"the script's mask is {bits.dtype} {bits.shape}; the image's size is {size}")
    return bits


def words_of(question: AskedQuestion, answer: Answer, template: str, *, segmented: bool) -> str:
    if question.mode == "forced":
        return question.answer or template
    if not segmented:
        return answer.words or _NOTHING_SEEN
    words = answer.words or template
    return words if SEG in words else f"{words} {SEG}"
