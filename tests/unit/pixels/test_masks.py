"""Masks that are drawn and packed part by part, against the plain way: all of it at once."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mediround import masks, rle
from serving.domain import Rectangle
from serving.pixels.masks import drawn, near_zero, pack_mask, pixels_drawn

SIDES = st.sampled_from([1, 2, 32, 64, 250, 256, 512, 768, 1024]) | st.integers(1, 600)


@given(arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_packing_keeps_every_pixel(bits: np.ndarray) -> None:
    mask = pack_mask(bits)
    rows, columns = np.nonzero(bits)
    box = Rectangle(columns.min(), rows.min(), columns.max(), rows.max()) if rows.size else None
    assert (mask.size, mask.area, mask.box, mask.digest) == (bits.shape, bits.sum(), box, masks.digest(bits))
    assert np.array_equal(mask.packed, np.packbits(bits))
    assert np.array_equal(mask.bits(), bits)
    part = mask.part()
    assert part.sum() == bits.sum()
    top, left = (box.y_min, box.x_min) if box else (0, 0)
    assert np.array_equal(part, bits[top : top + part.shape[0], left : left + part.shape[1]])
    assert rle.encode_part(part, top, left, *bits.shape) == rle.encode(bits)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, st.sampled_from([64, 256, 1024]), st.sampled_from([16, 64]), st.integers(0, 2**32 - 1))
def test_a_mask_is_drawn_to_the_bit(height: int, width: int, square: int, side: int, seed: int) -> None:
    logits = _logits(side, np.random.default_rng(seed))
    longest = max(height, width)
    valid = max(1, int(height * square / longest + 0.5)), max(1, int(width * square / longest + 0.5))
    mask = drawn(logits, square, valid, (height, width))
    assert mask.digest == masks.digest(np.greater(_plainly(logits, square, valid, (height, width)), 0))
    again = pack_mask(mask.bits())
    assert (mask.digest, mask.area, mask.box) == (again.digest, again.area, again.box)


@settings(max_examples=100, deadline=None)
@given(
    SIDES,
    SIDES,
    st.sampled_from([64, 256, 1024]),
    st.sampled_from([1e-4, 0.01, 1 / 3, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_the_pixels_next_to_zero_are_those_of_the_plain_way(
    height: int, width: int, square: int, margin: float, seed: int
) -> None:
    """Also where none is above 0. In a part of a resize to a side of one or two pixels the last bit may be another
    than in the whole: there a logit that is the margin itself may be within it or not.
    """
    margin, random = float(np.float32(margin)), np.random.default_rng(seed)
    logits = _logits(32, random)
    edge = np.where(random.random((32, 32)) < 0.5, np.float32(margin), np.float32(-margin))
    logits = np.where(random.random((32, 32)) < 0.2, edge, logits)
    logits = -np.abs(logits) if seed % 3 == 0 else logits
    longest = max(height, width)
    valid = max(1, int(height * square / longest + 0.5)), max(1, int(width * square / longest + 0.5))
    near = near_zero(logits, square, valid, (height, width), margin)
    plain = np.abs(_plainly(logits, square, valid, (height, width)))
    clear = np.abs(plain - margin) > 1e-6
    np.testing.assert_array_equal(near.bits()[clear], (plain <= margin)[clear])
    again = pack_mask(near.bits())
    assert (near.digest, near.area, near.box) == (again.digest, again.area, again.box)


def test_a_small_structure_in_a_large_image_takes_little_memory() -> None:
    rows, columns = np.ogrid[:256, :256]
    logits = np.float32(400) - ((rows - 90) ** 2 + (columns - 140) ** 2).astype(np.float32)
    tracemalloc.start()
    mask = drawn(logits, 1024, (1024, 1024), (2048, 2048))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mask.area
    assert peak < 2048 * 2048, "the logits alone would be four bytes a pixel"


def _logits(side: int, random: np.random.Generator) -> np.ndarray:
    """Noise; or what is above zero lies in a few rectangles, and some of all is zero."""
    noise = random.standard_normal((side, side)).astype(np.float32)
    if random.random() < 0.25:
        return noise
    inside = np.zeros((side, side), np.bool_)
    for _ in range(random.integers(0, 4)):
        (top, left), (down, across) = random.integers(0, side, 2), random.integers(1, side // 3, 2)
        inside[top : top + down, left : left + across] = True
    drawn_inside = np.where(inside, np.abs(noise), -np.abs(noise))
    return np.where(random.random((side, side)) < 0.1, np.float32(0), drawn_inside)


def _plainly(logits: np.ndarray, square: int, valid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    whole = cv2.resize(logits, (square, square), interpolation=cv2.INTER_LINEAR)
    cut = np.ascontiguousarray(whole[: valid[0], : valid[1]])
    return np.asarray(cv2.resize(cut, size[::-1], interpolation=cv2.INTER_LINEAR))


def test_what_is_drawn_is_counted_without_drawing_it() -> None:
    logits, size = np.full((256, 256), -1, np.float32), (2048, 2048)
    assert pixels_drawn(logits, 1024, (1024, 1024), size) == 0
    logits[100:110, 50:70] = 1
    few = pixels_drawn(logits, 1024, (1024, 1024), size)
    area = drawn(logits, 1024, (1024, 1024), size).area
    assert area < few < 4 * area
    assert pixels_drawn(-logits, 1024, (1024, 1024), size) == 1024 * 1024 + 2048 * 2048
    line = np.full((256, 256), -1, np.float32)
    line[100] = 1  # where the ratio is an odd one all rows are sampled
    assert pixels_drawn(line, 1024, (1024, 1024), (2047, 2047)) > 1 << 20
