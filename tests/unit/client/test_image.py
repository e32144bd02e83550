"""Images as they are sent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediround._connection import SentImages
from mediround.errors import InvalidArgument
from mediround.image import CHUNK_BYTES, upload


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "slice.png"
    path.write_bytes(b"whatever lies there")
    for image in (path, str(path), b"whatever lies there", bytearray(b"whatever lies there")):
        sent = upload(image)
        assert sent.payload == b"whatever lies there"
        assert sent.header.WhichOneof("encoding") == "encoded"
        assert sent.header.content_sha256 == hashlib.sha256(b"whatever lies there").digest()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3)])
def test_an_array_is_sent_raw_row_by_row(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    for form in (pixels, np.asfortranarray(pixels), pixels[::-1][::-1]):
        sent = upload(form)
        assert sent.payload == pixels.tobytes()
        raw = sent.header.raw
        assert (raw.height, raw.width, raw.channels) == (2, 3, 1 if len(shape) == 2 else 3)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_pil_image_is_the_array_it_shows(mode: str) -> None:
    shape = (4, 5) if mode == "L" else (4, 5, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert upload(Image.fromarray(pixels)) == upload(pixels)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((2, 2), np.uint16), "VOI LUT"),
        (np.zeros((2, 2), np.float32), "VOI LUT"),
        (np.zeros((2, 2), np.bool_), "VOI LUT"),
        (np.zeros((2, 2, 4), np.uint8), "shape"),
        (np.zeros((3, 2, 2), np.uint8), "shape"),
        (np.zeros((2,), np.uint8), "shape"),
        (np.zeros((0, 2), np.uint8), "shape"),
        (Image.new("I;16", (2, 2)), "VOI LUT"),
        (Image.new("F", (2, 2)), "VOI LUT"),
        (Image.new("P", (2, 2)), "convert"),
        (Image.new("RGBA", (2, 2)), "convert"),
        (Image.new("CMYK", (2, 2)), "convert"),
        (None, "NoneType"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_what_is_no_image(image: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        upload(image)
    assert caught.value.violations[0].field == "image"


def test_a_path_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        upload(tmp_path / "absent.png")


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_the_chunks_make_the_payload(size: int) -> None:
    sent = upload(bytes(size))
    header, *chunks = sent.messages()
    assert header.header == sent.header
    assert b"".join(message.chunk for message in chunks) == bytes(size)
    assert all(0 < len(message.chunk) <= CHUNK_BYTES for message in chunks)
    assert [message.header for message in sent.inquiry()] == [sent.header]


def test_images_are_remembered_by_content_and_shape() -> None:
    sent = SentImages()
    pixels = np.zeros((4, 2), np.uint8)
    sent.add(upload(pixels))
    assert upload(pixels.copy()) in sent
    assert upload(pixels.reshape(2, 4)) not in sent
    assert upload(pixels.tobytes()) not in sent
    sent.discard(upload(pixels))
    assert upload(pixels) not in sent


def test_what_is_remembered_is_bounded() -> None:
    sent = SentImages()
    images = [upload(np.full((1, 2), [number // 256, number % 256], np.uint8)) for number in range(4097)]
    for image in images:
        sent.add(image)
    assert images[0] not in sent
    assert images[1] in sent
    assert images[-1] in sent
