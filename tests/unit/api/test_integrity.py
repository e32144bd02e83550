"""Files of which a part is missing or damaged are refused; bytes that no pixel depends on do not matter."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from serving.api.images import rgb_of_file
from serving.errors import InvalidInput
from tests.unit.api.files import RGB, encoded
from tests.unit.api.limits import limits

LIMITS = limits()
LOSSY = [("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"restart_marker_rows": 1})]
TIFFS = [(None, {}), ("tiff_lzw", {}), ("tiff_adobe_deflate", {278: 4}), ("packbits", {}), ("jpeg", {278: 8})]
DETAILED = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it half understands
@pytest.mark.parametrize(
    "whole",
    [
        encoded(DETAILED),
        encoded(DETAILED.quantize(16)),
        *(encoded(DETAILED, form, **how) for form, how in LOSSY),
        *(encoded(DETAILED, "TIFF", compression=kind, tiffinfo=tags) for kind, tags in TIFFS),
    ],
)
def test_a_file_that_was_cut_is_refused_wherever_it_was_cut(whole: bytes) -> None:
    rgb_of_file(whole, LIMITS)
    cuts = {*np.linspace(1, len(whole) - 1, 60, dtype=int), *range(len(whole) - 20, len(whole))}
    for cut in cuts:
        with pytest.raises(InvalidInput):
            rgb_of_file(whole[:cut], LIMITS)


@pytest.mark.parametrize(("form", "how"), LOSSY)
@pytest.mark.parametrize("image", [DETAILED, DETAILED.convert("L")])
def test_a_jpeg_that_was_cut_and_closed_again_is_refused(
    image: Image.Image, form: str, how: dict[str, object]
) -> None:
    whole = encoded(image, form, **how)
    scans = [found.start() for found in re.finditer(rb"\xff\xda", whole)]
    for cut in [*np.linspace(scans[0] + 12, len(whole) - 9, 40, dtype=int), *scans[1:]]:
        with pytest.raises(InvalidInput, match=r"truncated or damaged JPEG|scans are missing|malformed"):
            rgb_of_file(whole[:cut] + b"\xff\xd9", LIMITS)


def test_rot_that_a_checksum_tells_of_is_refused() -> None:
    stored = encoded(RGB, compress_level=0)  # any change of a stored byte makes another valid stream
    for data in (stored, encoded(RGB, "TIFF", compression="tiff_adobe_deflate")):
        rotten = bytearray(data)
        rotten[len(data) // 2] ^= 1
        with pytest.raises(InvalidInput, match=r"damaged|malformed"):
            rgb_of_file(bytes(rotten), LIMITS)


def test_what_is_in_a_segment_or_behind_the_end_is_no_scan() -> None:
    thumbnail = Image.Exif()
    thumbnail[0x9286] = b"\xff\xda" * 500  # in the comment of the user
    data = encoded(RGB, "JPEG", comment=b"\xff\xda" * 101, exif=thumbnail)
    plain = rgb_of_file(encoded(RGB, "JPEG"), LIMITS)
    film = b"\xff\xda" * 500 + bytes(1000)
    np.testing.assert_array_equal(rgb_of_file(data + film, LIMITS), plain)
