"""A data set's pictures: hostile paths and files are refused by name, before their pixels are decoded."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediround.evaluate.data import Item, PictureError, PictureLimits, load
from mediround.medseg import parse
from tests.scripted.medseg import dialogue, rectangle, write

LIMITS = PictureLimits(max_image_bytes=1 << 20, max_image_pixels=1 << 20)


def loaded(root: Path, image: str = "image.png", target: str = "mask.png", limits: PictureLimits = LIMITS) -> Item:
    item = dialogue([None, 0], image, target)
    return load(item, parse(item), root.resolve(), limits)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    write(root, [])
    Image.fromarray(rectangle()).save(tmp_path / "outside.png")
    return root


def test_an_item_is_read(root: Path) -> None:
    item = loaded(root)
    assert item.image == (root / "image.png").read_bytes()
    assert len(item.targets) == 2
    np.testing.assert_array_equal(item.targets[0], rectangle())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_mask_may_be_of_these_modes(root: Path, mode: str) -> None:
    Image.fromarray(rectangle()).convert(mode).save(root / "mask.png")
    np.testing.assert_array_equal(loaded(root).targets[0], rectangle())


def test_the_key_is_of_the_content(root: Path) -> None:
    first = loaded(root).key
    assert loaded(root).key == first
    Image.fromarray(rectangle(side=17)).save(root / "mask.png")
    assert loaded(root).key != first


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../outside.png", "must lie below --root"),
        ("/etc/passwd", "must lie below --root"),
        ("link.png", "must lie below --root"),
        ("circle.png", "cannot be read|is missing"),
        ("none.png", "is missing; is --root right"),
        ("", "must be a file"),
        ("pipe.png", "must be a file"),
        ("a\0b.png", "cannot be read"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_a_path_that_is_no_file_below_the_root(root: Path, name: str, words: str) -> None:
    (root / "link.png").symlink_to(root.parent / "outside.png")
    (root / "circle.png").symlink_to(root / "circle.png")
    os.mkfifo(root / "pipe.png")
    for image, target in ((name, "mask.png"), ("image.png", name)):
        with pytest.raises(PictureError, match=words) as caught:
            loaded(root, image, target)
        assert caught.value.file == name


def bomb(height: int, width: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Image.fromarray(rectangle(48, 63)), "is 48x63; it must be as large as its image, 48x64"),
        (Image.fromarray(rectangle().astype(np.uint8)), "must hold the values 0 and 255 alone"),
        (Image.new("RGBA", (64, 48)), "is of mode RGBA"),
        (Image.new("I;16", (64, 48)), "is of mode I;16"),
        (b"", "is no PNG file"),
        (bomb(48, 64), "is no PNG file"),
        (bomb(30_000, 30_000), "claims more pixels"),
        (bomb(10_000, 10_000), "claims more pixels|is 10000x10000"),
    ],
)
def test_a_mask_that_is_none(root: Path, mask: Image.Image | bytes, words: str) -> None:
    if isinstance(mask, bytes):
        (root / "mask.png").write_bytes(mask)
    else:
        mask.save(root / "mask.png")
    with pytest.raises(PictureError, match=words) as caught:
        loaded(root)
    assert caught.value.file == "mask.png"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (PictureLimits(100, 1 << 20), "the limit is 100"),
        (PictureLimits(1 << 20, 48 * 64 - 1), "the server takes at most 3071 pixels"),
    ],
)
def test_an_image_beyond_the_servers_limits(root: Path, limits: PictureLimits, words: str) -> None:
    with pytest.raises(PictureError, match=words) as caught:
        loaded(root, limits=limits)
    assert caught.value.file == "image.png"
