"""Crops, boxes and masks at awkward sizes, against plain restatements of the definition."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from serving.domain import ContentAddress, Rectangle, SourceImage
from serving.geometry import Geometry, bilinear, squared
from serving.pixels.masks import pack_mask
from tests.unit.serving.manifests import manifest

SIZES = [(64, 64), (217, 181), (181, 217), (33, 500), (1, 7), (7, 1)]


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    spec = manifest()
    return Geometry(spec.image, spec.tower, "digest")


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(1, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_sizes(geometry: Geometry, size: tuple[int, int]) -> None:
    image = geometry.source_image(noise(*size))
    assert image.size == size
    encoder = geometry.encoder_image(image)
    assert encoder.key == image.embedding_key
    assert encoder.pixels.shape == (64, 64, 3)
    assert max(encoder.valid_hw) == 64
    assert not encoder.pixels[encoder.valid_hw[0] :].any()
    assert not encoder.pixels[:, encoder.valid_hw[1] :].any()
    assert image.tower.pixels.shape == (28, 28, 3)
    mask = geometry.mask(np.ones((256, 256), np.float32), image)
    assert mask.area == size[0] * size[1]
    assert mask.bits().all()


def test_a_square_image_of_the_models_side_is_not_resampled(geometry: Geometry) -> None:
    rgb = noise(64, 64)
    assert np.array_equal(geometry.encoder_image(geometry.source_image(rgb)).pixels, rgb)


def test_an_embeddings_key_depends_on_bytes_form_encoder_and_preprocessing(geometry: Geometry) -> None:
    rgb = noise(40, 64)
    key = geometry.source_image(rgb).embedding_key
    assert geometry.source_image(rgb.copy()).embedding_key == key
    address = ContentAddress("uint8 40x64x3", hashlib.sha256(rgb.tobytes()).digest())
    assert geometry.source_image(rgb, address).embedding_key == key, "sent as bare pixels, it is the same image"
    model = manifest()
    other_image = model.image.model_copy(update={"preprocessing": "minmax_valid"})
    others = [
        geometry.source_image(np.ascontiguousarray(rgb.reshape(64, 40, 3))),
        geometry.source_image(rgb, replace(address, form="file")),
        geometry.source_image(rgb, replace(address, digest=bytes(32))),
        Geometry(model.image, model.tower, "another").source_image(rgb),
        Geometry(other_image, model.tower, "digest").source_image(rgb),
        # One's end is not another's beginning.
        geometry.source_image(rgb, ContentAddress("uint8 40x64x3a", address.digest)),
        Geometry(model.image, model.tower, "digestd").source_image(rgb),
    ]
    assert len({key, *(other.embedding_key for other in others)}) == 1 + len(others)


def test_normalisation(geometry: Geometry) -> None:
    image = geometry.tower_image(np.full((28, 28, 3), 255, np.uint8))
    normal = image.normalised(geometry.tower)
    assert normal.shape == (3, 28, 28)
    assert normal[:, 0, 0] == pytest.approx([1.0, 2.0, 4.0])


@settings(max_examples=60, deadline=None)
@given(st.booleans(), st.sampled_from([64, 512, 1000, 1024]), st.data())
def test_bilinear_is_pillows_to_the_bit(grey: bool, side: int, data: st.DataObject) -> None:
    """Whether OpenCV may do it, or Pillow must: of a long image, one axis may be the one and one the other."""
    sizes = st.sampled_from([1, 3, 32, 100, 250, 256, 333, 512, 640, 768, 1023]) | st.integers(1, 1100)
    height, width = data.draw(sizes), data.draw(sizes)
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    pixels = np.ascontiguousarray(pixels[..., 0]) if grey else pixels
    longest = max(height, width)
    new = [max(1, int(length * side / longest + 0.5)) for length in (height, width)]
    expected = Image.fromarray(pixels).resize((new[1], new[0]), Image.Resampling.BILINEAR)
    assert np.array_equal(bilinear(pixels, *new), np.asarray(expected))


@pytest.mark.parametrize("size", SIZES)
def test_a_grey_image_is_worked_on_as_one_channel(geometry: Geometry, size: tuple[int, int]) -> None:
    """And nothing else is: to the bit, all is what three equal channels make."""
    grey = noise(*size)[..., 0]
    rgb = np.repeat(grey[..., None], 3, axis=2)
    image = geometry.source_image(rgb)
    assert image.pixels.shape == size
    whole = SourceImage(rgb, image.embedding_key, geometry.tower_image(rgb))
    assert image.tower.digest == whole.tower.digest
    assert np.array_equal(geometry.encoder_image(image).pixels, geometry.encoder_image(whole).pixels)
    mask = pack_mask(noise(*size)[..., 1] > 100)
    found, expected = (geometry.reference(shown, mask, 0) for shown in (image, whole))
    assert (found.crop.digest, found.crop_rectangle) == (expected.crop.digest, expected.crop_rectangle)
    rgb[-1, -1, 2] ^= 1
    assert geometry.source_image(rgb).pixels is rgb


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.uint8, (12, 17, 3), elements=st.sampled_from([0, 0, 1, 255])),
    arrays.arrays(np.bool_, (12, 17)),
)
def test_reference_follows_the_definition(rgb: np.ndarray, bits: np.ndarray) -> None:
    spec = manifest()
    geometry = Geometry(spec.image, spec.tower, "digest")
    reference = geometry.reference(geometry.source_image(rgb), pack_mask(bits), 3)

    masked = np.where(bits[..., None], rgb, 0)
    whole = (masked[..., 0] > 0).sum() <= 9
    if whole:
        bits, masked = np.ones_like(bits), rgb
    ys, xs = np.nonzero(bits)
    assert reference.whole_image == whole
    assert reference.box_rectangle == Rectangle(xs.min(), ys.min(), xs.max(), ys.max())
    assert reference.box.tolist() == pytest.approx([xs.min() / 17, ys.min() / 12, xs.max() / 17, ys.max() / 12])
    ys, xs = np.nonzero((masked > 0).any(axis=2))
    if ys.size:
        assert reference.crop_rectangle == Rectangle(xs.min(), ys.min(), xs.max(), ys.max())
        side = max(np.ptp(ys), np.ptp(xs)) + 1
        square = np.zeros((side, side, 3), np.uint8)
        cut = masked[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        square[: cut.shape[0], : cut.shape[1]] = cut
        assert reference.crop.digest == geometry.tower_image(square).digest
    else:
        assert reference.crop_rectangle == Rectangle(0, 0, 16, 11), "a black image: all of it"


EXTREMES = [
    (1, 1),
    (1, 900),
    (900, 1),
    (5, 90),
    (90, 5),
    (30, 400),
    (2000, 100),
    (57, 33),
    (113, 7),
    (28, 28),
    (28, 3),
    (31, 28),
    (1100, 1000),
]


@pytest.mark.parametrize("side", [28, 37, 112, 336])
@pytest.mark.parametrize("size", EXTREMES)
def test_a_square_that_is_not_made_is_resized_as_if_it_were(size: tuple[int, int], side: int) -> None:
    rgb = np.random.default_rng(side).integers(0, 256, (*size, 3), np.uint8)
    square = np.zeros((max(size), max(size), 3), np.uint8)
    square[: size[0], : size[1]] = rgb
    expected = Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC)
    assert np.array_equal(squared(rgb, side), np.asarray(expected))


@pytest.mark.parametrize("size", [(20, 8000), (8000, 20)])
def test_a_reference_to_a_long_picture_takes_memory_as_the_picture_does(
    geometry: Geometry, size: tuple[int, int]
) -> None:
    image = geometry.source_image(noise(*size))
    mask = pack_mask(np.ones(size, np.bool_))
    tracemalloc.start()
    geometry.reference(image, mask, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * image.pixels.nbytes, "a square of the longer side has 400 times its pixels"


def test_black_pixels_count_for_the_box_but_not_for_the_crop(geometry: Geometry) -> None:
    rgb = np.zeros((50, 50, 3), np.uint8)
    rgb[20:30, 20:30] = 200
    bits = np.zeros((50, 50), np.bool_)
    bits[10:40, 15:45] = True
    reference = geometry.reference(geometry.source_image(rgb), pack_mask(bits), 0)
    assert reference.box_rectangle == Rectangle(15, 10, 44, 39)
    assert reference.crop_rectangle == Rectangle(20, 20, 29, 29)


def test_only_the_first_channel_decides_the_fallback(geometry: Geometry) -> None:
    rgb = np.zeros((50, 50, 3), np.uint8)
    rgb[20:30, 20:30, 1] = 200
    bits = np.zeros((50, 50), np.bool_)
    bits[20:30, 20:30] = True
    reference = geometry.reference(geometry.source_image(rgb), pack_mask(bits), 0)
    assert reference.whole_image
    assert reference.box_rectangle == Rectangle(0, 0, 49, 49)
    assert reference.crop_rectangle == Rectangle(20, 20, 29, 29)
