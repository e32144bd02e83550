"""Masks as values, made of bits or drawn of logits; what it costs grows with what is set, not with the image.

Knows the two bilinear resizes between logits and an image, and where their results can be above a bound. Does not
know engines, references, or how the contract writes a mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mediround.masks import packed_digest
from serving.domain import F32, Bits, Mask, Rectangle

_EXACT = 256
"""Samples of a resized side lie at multiples of 1/(2q) of an old pixel, q being the ratio's denominator. Where q
divides this power of two, OpenCV's single precision holds them: a part of the side is sampled as in the whole.
"""
_TWO_PASSES = 2.0
"""How many times what is wanted one resize must make before two, of rows and of columns, cost less."""
_BYTE = 8
_NOWHERE = np.zeros((0, 0), np.float32)


def pack_mask(bits: Bits) -> Mask:
    """Pack a mask, bool (H, W), with its area, box and digest."""
    return _packed(bits, 0, 0, bits.shape)


def drawn(logits: F32, square: int, valid: tuple[int, int], size: tuple[int, int]) -> Mask:
    """Logits (L, L) over a padded square of side ``square``, whose part ``valid`` is the image → mask of ``size``.

    Set where the logit is > 0 after two bilinear resizes, to the square, and of its valid part to the image: one
    alone moves edges. Between finite logits of which none is above zero no result is: only where one is gets
    resized, to the bits of a resize of the whole.
    """
    values, top, left = _drawn(logits, 0.0, square, valid, size)
    return _packed(np.greater(values, 0), top, left, size)


def pixels_drawn(logits: F32, square: int, valid: tuple[int, int], size: tuple[int, int]) -> int:
    """About how many pixels ``drawn`` makes on its way: of the square, and of the image."""
    reach = _reach(logits, 0.0, square, valid, size)
    if reach is None:
        return 0
    rows, columns = reach
    return sum(down.passed(across) for down, across in zip(rows, columns, strict=True))


def near_zero(logits: F32, square: int, valid: tuple[int, int], size: tuple[int, int], margin: float) -> Mask:
    """The pixels whose logits, after the resizes of ``drawn``, lie at most ``margin`` from 0, which is above 0.

    Weights of a resize make 1 but for their rounding: between logits that are all at most -2 margin, no result is
    as near to 0 as the margin.
    """
    values, top, left = _drawn(logits, -2.0 * margin, square, valid, size)
    return _packed(np.less_equal(np.abs(values), np.float32(margin)), top, left, size)


def bounding_rectangle(bits: Bits) -> Rectangle | None:
    """The smallest rectangle round all set pixels of a bool (H, W); None when none is set."""
    x, y, width, height = cv2.boundingRect(bits.view(np.uint8))
    return Rectangle(x, y, x + width - 1, y + height - 1) if width else None


def _drawn(
    logits: F32, above: float, square: int, valid: tuple[int, int], size: tuple[int, int]
) -> tuple[F32, int, int]:
    """Logits at the image's size where those that are greater than ``above`` reach, and the place of that part's
    first row and column; (0, 0) of it where they reach nothing.
    """
    reach = _reach(logits, above, square, valid, size)
    if reach is None:
        return _NOWHERE, 0, 0
    rows, columns = reach
    values = logits[_slice(rows[0].held), _slice(columns[0].held)]
    for down, across in zip(rows, columns, strict=True):
        values = _resized(values, down, across)
    return values, rows[1].made.start, columns[1].made.start


def _reach(
    logits: F32, above: float, square: int, valid: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[_Stretch, _Stretch], tuple[_Stretch, _Stretch]] | None:
    """Of rows and of columns both resizes of that part; None: it is nothing, or all beside the image."""
    found = bounding_rectangle(np.greater(logits, above))
    if found is None:
        return None
    rows = _axis(range(found.y_min, found.y_max + 1), logits.shape[0], square, valid[0], size[0])
    columns = _axis(range(found.x_min, found.x_max + 1), logits.shape[1], square, valid[1], size[1])
    return (rows, columns) if rows[1].made and columns[1].made else None


def _packed(part: Bits, top: int, left: int, size: tuple[int, int]) -> Mask:
    """A mask of ``size`` of which all that is set lies in ``part``, whose place is given."""
    height, width = size
    packed = np.zeros(math.ceil(height * width / _BYTE), np.uint8)
    if width % _BYTE:
        first = top // _BYTE * _BYTE  # of the rows that begin a byte, the last above the part
        bits = np.packbits(_behind(part, top - first, left, width))
        packed[first * width // _BYTE :][: bits.size] = bits
    else:  # each row begins a byte
        first, before = divmod(left, _BYTE)
        bits = np.packbits(_behind(part, 0, before, before + part.shape[1]), axis=1)
        packed.reshape(height, -1)[top : top + bits.shape[0], first : first + bits.shape[1]] = bits
    box = bounding_rectangle(part) if part.size else None
    if box is not None:
        box = Rectangle(box.x_min + left, box.y_min + top, box.x_max + left, box.y_max + top)
    return Mask(packed, size, int(np.count_nonzero(part)), box, packed_digest(packed, height, width))


def _behind(part: Bits, rows: int, columns: int, width: int) -> Bits:
    """``part`` below some empty rows, within rows of ``width``, behind some empty columns."""
    if not rows and width == part.shape[1]:
        return part
    out = np.zeros((rows + part.shape[0], width), np.bool_)
    out[rows:, columns : columns + part.shape[1]] = part
    return out


@dataclass(frozen=True, slots=True)
class _Stretch:
    """One axis of a resize, of which a part is made."""

    old: int
    """Pixels of the whole axis, before and after."""
    new: int
    made: range
    """Of the new pixels."""

    @property
    def held(self) -> range:
        """The old pixels that it is made of."""
        scale = self.old / self.new
        first = math.floor((self.made.start + 0.5) * scale - 0.5) - 1  # lest a position be rounded down to it
        last = math.floor((self.made.stop - 0.5) * scale - 0.5) + 1
        return range(max(0, first), min(self.old, last + 1))

    def sampled(self) -> tuple[range, range]:
        """The least stretch, in old and in new pixels, that is sampled by itself as it is within the whole."""
        held, common = self.held, math.gcd(self.old, self.new)
        before, after = self.old // common, self.new // common
        first, stop = (0, common) if _EXACT % after else (held.start // before, math.ceil(held.stop / before))
        return range(first * before, stop * before), range(first * after, stop * after)

    def passed(self, across: _Stretch) -> int:
        """About how many pixels a resize makes of rows, this axis, and columns."""
        tall, wide = len(self.sampled()[1]), len(across.sampled()[1])
        return min(tall * wide, len(self.held) * wide + tall * len(across.made))


def _resized(values: F32, rows: _Stretch, columns: _Stretch) -> F32:
    """What is held of both axes as what is made of them."""
    if rows.old == rows.new and columns.old == columns.new:
        return values[_within(rows.made, rows.held), _within(columns.made, columns.held)]
    (top, down), (left, across) = rows.sampled(), columns.sampled()
    if len(down) * len(across) < _TWO_PASSES * len(rows.made) * len(columns.made):
        whole = cv2.resize(_placed(values, rows.held, top, columns.held, left), (len(across), len(down)))
        return np.asarray(whole[_within(rows.made, down), _within(columns.made, across)], np.float32)
    # As OpenCV does it: rows, each by itself, then columns.
    held = rows.held
    wide = cv2.resize(_placed(values, held, held, columns.held, left), (len(across), len(held)))
    wanted = np.asarray(wide[:, _within(columns.made, across)], np.float32)
    placed = _placed(wanted, held, top, columns.made, columns.made)
    tall = cv2.resize(placed, (len(columns.made), len(down)))
    return np.asarray(tall[_within(rows.made, down)], np.float32)


def _placed(values: F32, rows: range, down: range, columns: range, across: range) -> F32:
    """Values of some rows and columns, among zeros for the others of ``down`` and ``across``."""
    margins = (
        rows.start - down.start,
        down.stop - rows.stop,
        columns.start - across.start,
        across.stop - columns.stop,
    )
    return np.asarray(cv2.copyMakeBorder(values, *margins, cv2.BORDER_CONSTANT, value=0), np.float32)


def _axis(found: range, logits: int, square: int, valid: int, size: int) -> tuple[_Stretch, _Stretch]:
    """Of an axis, both resizes: all that depends on logits in ``found``."""
    reached = _reached(found, logits, square)
    in_image = range(reached.start, min(reached.stop, valid))
    second = _Stretch(valid, size, _reached(in_image, valid, size) if in_image else in_image)
    return _Stretch(logits, square, second.held), second


def _reached(found: range, old: int, new: int) -> range:
    """The new pixels that depend on these old ones: those between two of which one is among them."""
    scale = new / old
    first = math.floor((found.start - 0.5) * scale - 0.5)
    stop = math.ceil((found.stop + 0.5) * scale - 0.5) + 1
    return range(max(0, first), min(new, stop))


def _within(part: range, whole: range) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _slice(of: range) -> slice:
    return slice(of.start, of.stop)
