"""COCO's run lengths, against COCO's own tools."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from mediround import rle

sides = st.integers(1, 70)
masks = arrays.arrays(np.bool_, st.tuples(sides, sides))


def theirs(mask: np.ndarray) -> bytes:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@given(masks)
def test_encodes_as_the_original_does(mask: np.ndarray) -> None:
    assert rle.encode(mask) == theirs(mask)


@given(masks)
def test_decodes_what_was_encoded(mask: np.ndarray) -> None:
    decoded = rle.decode(rle.encode(mask), *mask.shape)
    assert decoded.dtype == np.bool_
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, mask)


@pytest.mark.parametrize("height", [1, 40, 3000])
@pytest.mark.parametrize("width", [1, 40, 3000])
def test_long_runs_and_long_differences(height: int, width: int) -> None:
    """Numbers of one to five groups, of both signs."""
    mask = np.zeros((height, width), np.bool_)
    for corner in (mask, ~mask, _blob(height, width), ~_blob(height, width)):
        assert rle.encode(corner) == theirs(corner)
        np.testing.assert_array_equal(rle.decode(rle.encode(corner), height, width), corner)


def _blob(height: int, width: int) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (min(height, width) / 4) ** 2


@pytest.mark.parametrize(
    "counts",
    [
        b"",
        b"\x00",
        b"\xff" * 20,
        b"/",  # below the alphabet
        b"p",  # above it
        b"\xc3\xa4",
        b"P",  # a number that does not end
        b"4P",
        b"3",  # too few pixels
        b"5",  # too many
        b"3O2",  # a negative run that makes the sum right
        b"T" * 8 + b"0",  # eight groups
        b"o" * 6 + b"?",
        b"04004",  # five runs where four pixels allow it, then too many
        b"0" * 100_000,
    ],
)
def test_what_is_no_mask(counts: bytes) -> None:
    with pytest.raises(rle.MalformedRle):
        rle.decode(counts, 2, 2)


@given(st.binary(max_size=60), sides, sides)
def test_arbitrary_bytes_are_a_mask_or_an_error(counts: bytes, height: int, width: int) -> None:
    try:
        decoded = rle.decode(counts, height, width)
    except rle.MalformedRle:
        return
    assert decoded.shape == (height, width)


@given(masks, st.data())
def test_a_damaged_mask_is_a_mask_or_an_error(mask: np.ndarray, data: st.DataObject) -> None:
    counts = bytearray(rle.encode(mask))
    counts[data.draw(st.integers(0, len(counts) - 1))] = data.draw(st.integers(48, 111))
    try:
        decoded = rle.decode(bytes(counts), *mask.shape)
    except rle.MalformedRle:
        return
    assert decoded.shape == mask.shape


def test_a_few_bytes_do_not_claim_much_memory() -> None:
    huge = rle.encode(np.zeros((1, 1), np.bool_)).replace(b"1", b"PPPPPP1")  # one run of 2 ** 30
    tracemalloc.start()
    try:
        with pytest.raises(rle.MalformedRle):
            rle.decode(huge, 512, 512)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_python_runs_no_line_for_each_pixel_or_run() -> None:
    mask = _blob(512, 512)
    counts = rle.encode(mask)
    assert executed(lambda: rle.encode(mask)) < 60
    assert executed(lambda: rle.decode(counts, 512, 512)) < 50


def executed(work: Callable[[], object]) -> int:
    """Lines of ``mediround.rle`` that ran meanwhile."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., object] | None:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename == rle.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
