"""Masks in each encoding."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from mediround import masks
from mediround.v1 import segmentation_pb2 as pb

sides = st.integers(1, 40)
bits = arrays.arrays(np.bool_, st.tuples(sides, sides))


@given(bits)
def test_packed_bits_are_rows_from_the_top(mask: np.ndarray) -> None:
    data = masks.encode(mask, pb.MASK_ENCODING_PACKED_BITS)
    assert data == np.packbits(mask.reshape(-1)).tobytes()
    np.testing.assert_array_equal(masks.decode(data, pb.MASK_ENCODING_PACKED_BITS, *mask.shape), mask)


@given(bits)
def test_a_png_is_read_by_an_image_library(mask: np.ndarray) -> None:
    with Image.open(io.BytesIO(masks.encode(mask, pb.MASK_ENCODING_PNG))) as image:
        assert image.format == "PNG"
        assert image.mode == "1"
        np.testing.assert_array_equal(np.asarray(image), mask)


@given(bits)
def test_run_lengths_unless_told_otherwise(mask: np.ndarray) -> None:
    assert masks.encode(mask, pb.MASK_ENCODING_UNSPECIFIED) == masks.encode(mask, pb.MASK_ENCODING_COCO_RLE)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_packed_bits_of_another_size(size: int) -> None:
    with pytest.raises(ValueError, match="3x4"):
        masks.decode(bytes(size), pb.MASK_ENCODING_PACKED_BITS, 3, 4)


def test_encodings_that_are_not_known() -> None:
    with pytest.raises(ValueError, match="99"):
        masks.encode(np.ones((2, 2), np.bool_), 99)
    for encoding in (99, pb.MASK_ENCODING_PNG, pb.MASK_ENCODING_UNSPECIFIED):
        with pytest.raises(ValueError, match=str(encoding)):
            masks.decode(b"", encoding, 2, 2)
