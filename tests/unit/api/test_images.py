"""Files of unknown origin: what is read, what is refused and in which words, and that nothing else happens."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from mediround import InvalidArgument, StoredPixels, Window, dicom
from mediround.image import upload
from mediround.raw import deep_form
from serving.api.images import RawShape, check_raw, rgb_of_file, rgb_of_pixels
from serving.errors import InvalidInput
from tests.unit.api.files import GREY, RGB, encoded
from tests.unit.api.limits import limits

LIMITS = limits()


def png(width: int, height: int, depth: int, colour: int, rows: bytes = b"") -> bytes:
    """A PNG that claims what it is told."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def opaque_with(corner: int) -> Image.Image:
    alpha = np.full((12, 20), 255, np.uint8)
    alpha[0, 0] = corner
    return Image.fromarray(np.dstack([RGB, alpha]), "RGBA")


def oriented(form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(RGB, form, exif=exif)


def tiff_tags(**tags: object) -> TiffImagePlugin.ImageFileDirectory_v2:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[int(name[1:])] = value
    return directory


def bits_16_rgb() -> bytes:
    """Pillow neither writes 16-bit RGB nor refuses to read it."""
    return png(2, 2, 16, 2, (b"\0" + bytes(12)) * 2)


def tiff(width: int, height: int, entries: dict[int, tuple[int, int, int]], rest: bytes) -> bytes:
    """A little-endian TIFF; ``rest`` follows the directory, at byte 8 + 2 + 12 * directory entries + 4."""
    entries = {256: (4, 1, width), 257: (4, 1, height), 259: (3, 1, 1)} | entries
    directory = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + directory
    return head + struct.pack("<I", 0) + rest


def tiff_16_rgb() -> bytes:
    strip = {273: (4, 1, 128), 278: (3, 1, 2), 279: (4, 1, 24)}
    entries = {258: (3, 3, 122), 262: (3, 1, 2), 277: (3, 1, 3)} | strip
    return tiff(2, 2, entries, struct.pack("<HHH", 16, 16, 16) + bytes(24))


def tiff_large_tile() -> bytes:
    """16x16 pixels in one tile that claims 4 GiB."""
    tile = {322: (4, 1, 65_536), 323: (4, 1, 65_536), 324: (4, 1, 110), 325: (4, 1, 256)}
    return tiff(16, 16, {258: (3, 1, 8), 262: (3, 1, 1)} | tile, bytes(256))


def many_scans() -> bytes:
    """The last scan of a progressive JPEG, again and again."""
    data = encoded(RGB, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 101 + data[-2:]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_colours_are_what_was_saved(form: str) -> None:
    np.testing.assert_array_equal(rgb_of_file(encoded(RGB, form), LIMITS), RGB)


@pytest.mark.parametrize(
    "options", [{"compression": kind} for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "raw")]
)
def test_tiff_compressions(options: dict[str, str]) -> None:
    np.testing.assert_array_equal(rgb_of_file(encoded(RGB, "TIFF", **options), LIMITS), RGB)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}])
def test_jpeg_is_what_an_image_library_shows(options: dict[str, object]) -> None:
    data = encoded(RGB, "JPEG", **options)
    np.testing.assert_array_equal(rgb_of_file(data, LIMITS), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_grey_is_three_equal_channels(form: str) -> None:
    rgb = rgb_of_file(encoded(GREY, form), LIMITS)
    np.testing.assert_array_equal(rgb, np.dstack([GREY] * 3))
    assert rgb.dtype == np.uint8


def test_a_one_bit_image_is_black_and_white() -> None:
    mask = GREY > 127
    rgb = rgb_of_file(encoded(Image.fromarray(mask)), LIMITS)
    np.testing.assert_array_equal(rgb[..., 2], np.where(mask, 255, 0))


def test_a_palette_is_its_colours() -> None:
    paletted = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(rgb_of_file(encoded(paletted), LIMITS), np.asarray(paletted.convert("RGB")))


def test_opaque_alpha_is_dropped() -> None:
    np.testing.assert_array_equal(rgb_of_file(encoded(opaque_with(255)), LIMITS), RGB)
    np.testing.assert_array_equal(rgb_of_file(encoded(opaque_with(255), "TIFF"), LIMITS), RGB)


def test_a_transparent_colour_that_no_pixel_has() -> None:
    data = encoded(Image.fromarray(np.full((4, 4), 7, np.uint8)), transparency=9)
    assert (rgb_of_file(data, LIMITS) == 7).all()


@pytest.mark.parametrize("orientation", [0, 1, 9])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_an_upright_orientation(form: str, orientation: int) -> None:
    assert rgb_of_file(oriented(form, orientation), LIMITS).shape == (12, 20, 3)


def test_pixels_are_shared_read_only() -> None:
    for rgb in (
        rgb_of_file(encoded(RGB), LIMITS),
        rgb_of_pixels(RGB.tobytes(), RawShape(12, 20, 3)),
        rgb_of_pixels(GREY.tobytes(), RawShape(12, 20, 1)),
    ):
        assert not rgb.flags.writeable
        assert rgb.flags.c_contiguous


REFUSED = {
    "empty": (b"", "must be a PNG, JPEG or TIFF"),
    "text": (b"hello, this is no image", "must be a PNG, JPEG or TIFF"),
    "gif": (encoded(RGB, "GIF"), "must be a PNG, JPEG or TIFF"),
    "bmp": (encoded(RGB, "BMP"), "must be a PNG, JPEG or TIFF"),
    "webp": (encoded(RGB, "WEBP"), "must be a PNG, JPEG or TIFF"),
    "eps": (encoded(RGB, "EPS"), "must be a PNG, JPEG or TIFF"),
    "png signature alone": (encoded(RGB)[:8], "PNG"),
    "truncated png": (encoded(RGB)[:-100], "truncated or malformed"),
    "truncated jpeg": (encoded(RGB, "JPEG")[:-60], "truncated or malformed"),
    "truncated tiff": (encoded(RGB, "TIFF", compression="tiff_lzw")[:-30], "TIFF|truncated or malformed"),
    "too many pixels": (encoded(Image.new("L", (101, 100))), "at most 10000 pixels"),
    "bomb": (png(60_000, 60_000, 8, 0), "at most 10000 pixels"),
    "warned of as a bomb": (png(10_000, 10_000, 8, 0), "at most 10000 pixels"),
    "largest claim": (png(2**31 - 1, 2**31 - 1, 8, 0), "pixels"),
    "zero width": (png(0, 4, 8, 0), "must have pixels|PNG"),
    "zero height": (png(4, 0, 8, 0), "must have pixels|PNG"),
    "extreme aspect": (encoded(Image.new("L", (90, 10))), "longer side"),
    "16-bit grey png": (encoded(Image.fromarray(GREY.astype(np.uint16))), "VOI LUT"),
    "16-bit rgb png": (bits_16_rgb(), "VOI LUT"),
    "16-bit grey tiff": (encoded(Image.fromarray(GREY.astype(np.uint16)), "TIFF"), "VOI LUT"),
    "16-bit rgb tiff": (tiff_16_rgb(), "VOI LUT"),
    "32-bit tiff": (encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "VOI LUT"),
    "float tiff": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "VOI LUT"),
    "signed tiff": (encoded(GREY, "TIFF", tiffinfo=tiff_tags(_339=2)), "VOI LUT|malformed"),
    "cmyk jpeg": (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "CMYK"),
    "cmyk tiff": (encoded(Image.new("CMYK", (8, 8)), "TIFF"), "CMYK"),
    "lab tiff": (encoded(Image.new("LAB", (8, 8)), "TIFF"), "LAB"),
    "one transparent pixel": (encoded(opaque_with(254)), "transparent"),
    "transparent grey": (encoded(Image.new("LA", (8, 8), (5, 0))), "transparent"),
    "transparent colour": (encoded(Image.fromarray(GREY), transparency=int(GREY[0, 0])), "transparent"),
    "turned jpeg": (oriented("JPEG", 6), "orientation"),
    "turned png": (oriented("PNG", 3), "orientation"),
    "mirrored tiff": (encoded(RGB, "TIFF", tiffinfo=tiff_tags(_274=2)), "orientation"),
    "two tiff frames": (
        encoded(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
        "must hold one frame",
    ),
    "animated png": (
        encoded(RGB, "PNG", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
        "must hold one frame",
    ),
    "two jpeg frames": (
        encoded(RGB, "MPO", save_all=True, append_images=[Image.fromarray(RGB)]),
        "must hold one frame",
    ),
    "many scans": (many_scans(), "scans"),
    "fax": (encoded(Image.fromarray(GREY > 127), "TIFF", compression="group4"), "must be a TIFF compressed by"),
    "zstd in tiff": (encoded(RGB, "TIFF", compression="zstd"), "must be a TIFF compressed by"),
    "dicom": (bytes(128) + b"DICM" + bytes(200), "is a DICOM file; .* 16-bit pixels with a window"),
    "large tile": (tiff_large_tile(), "at most 10000 pixels"),
}


@pytest.mark.filterwarnings("ignore:.*Truncated File Read")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(InvalidInput, match=words) as caught:
        rgb_of_file(data, LIMITS)
    assert caught.value.field == "image"


AMBIGUOUS = [
    "16-bit grey png", "16-bit rgb png", "16-bit grey tiff", "16-bit rgb tiff", "32-bit tiff", "float tiff",
    "cmyk jpeg", "cmyk tiff", "lab tiff", "one transparent pixel", "transparent grey", "transparent colour",
    "turned jpeg", "turned png", "mirrored tiff", "two tiff frames", "animated png", "two jpeg frames",
    "truncated png", "truncated jpeg",
]  # fmt: skip
"""Of those above: what is refused since nobody knows which pixels are meant, however Pillow shows it."""


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_refused_as_a_file_is_refused_as_a_pil_image(name: str, tmp_path: Path) -> None:
    data, words = REFUSED[name]
    path = tmp_path / "picture"
    path.write_bytes(data)
    with Image.open(io.BytesIO(data)) as fresh, Image.open(path) as decoded:
        shown = [fresh]
        if name.startswith("truncated"):
            words = "truncated"
        else:
            decoded.load()
            shown += [] if name == "mirrored tiff" else [decoded]  # Pillow turns a TIFF that it decodes
        for image in shown:
            with pytest.raises(InvalidArgument, match=words):
                upload(image)
    with pytest.raises(InvalidInput, match=words):
        rgb_of_file(data, LIMITS)


@pytest.mark.parametrize("mode", ["frame", "closed", "empty"])
def test_pil_images_that_are_no_files(mode: str) -> None:
    data, _ = REFUSED["two tiff frames"]
    image = Image.open(io.BytesIO(data))
    if mode == "frame":
        image.seek(1)
        assert upload(image.copy()).payload == RGB.tobytes()
        image.close()
        return
    image.close()
    with pytest.raises(InvalidArgument, match=r"one frame|closed|pixels"):
        upload(image if mode == "closed" else Image.new("L", (0, 5)))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "GIF", "BMP", "WEBP", "PPM"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "indexed"])
def test_what_is_served_is_the_same_pixels_at_both_entrances(mode: str, form: str) -> None:
    image = Image.fromarray(RGB)
    shown = image.quantize(7) if mode == "indexed" else image.convert(mode)
    try:
        data = encoded(shown, form)
    except (OSError, ValueError):
        pytest.skip("no such file")
    with Image.open(io.BytesIO(data)) as opened:
        sent = upload(opened)
        raw = sent.header.raw
        pixels = rgb_of_pixels(sent.payload, RawShape(raw.height, raw.width, raw.channels))
        np.testing.assert_array_equal(pixels, np.asarray(opened.convert("RGB")))
        if opened.format in {"PNG", "TIFF", "JPEG"}:
            np.testing.assert_array_equal(pixels, rgb_of_file(data, LIMITS))


def test_more_bits_than_pillow_shows() -> None:
    deep = b"P6 2 2 65535\n" + bytes(range(24))
    with Image.open(io.BytesIO(deep)) as image, pytest.raises(InvalidArgument, match="VOI LUT"):
        upload(image)


def test_a_tiff_directory_that_leads_back_to_itself() -> None:
    data = bytearray(encoded(GREY, "TIFF"))
    offset = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, offset)[0]
    struct.pack_into("<I", data, offset + 2 + 12 * entries, offset)
    np.testing.assert_array_equal(rgb_of_file(bytes(data), LIMITS)[..., 0], GREY)


VALID = [
    encoded(RGB),
    encoded(GREY),
    encoded(Image.fromarray(RGB).quantize(16)),
    encoded(opaque_with(255)),
    encoded(RGB, "JPEG"),
    encoded(GREY, "JPEG", progressive=True),
    encoded(RGB, "TIFF"),
    encoded(RGB, "TIFF", compression="tiff_lzw"),
    encoded(RGB, "TIFF", compression="jpeg"),
    encoded(GREY, "TIFF", compression="tiff_adobe_deflate"),
    oriented("JPEG", 1),
]


def read_or_refused(data: bytes) -> None:
    try:
        rgb = rgb_of_file(data, LIMITS)
    except InvalidInput:
        return
    assert rgb.shape[0] * rgb.shape[1] <= LIMITS.max_image_pixels
    assert rgb.shape[2] == 3


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_sixteen_bits_are_what_the_client_makes_of_the_same_object(draw: st.DataObject) -> None:
    """Wire and DICOM: one implementation, whatever the pixels mean."""
    bits = draw.draw(st.integers(1, 16))
    signed, inverted = draw.draw(st.booleans()), draw.draw(st.booleans())
    number = st.floats(-3000, 3000)
    window = Window(
        draw.draw(number),
        draw.draw(st.floats(1, 4000)),
        draw.draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"])),
    )
    slope, intercept = round(draw.draw(st.floats(0.01, 5)), 4), round(draw.draw(number), 4)
    random = np.random.default_rng(draw.draw(st.integers(0, 2**32 - 1)))
    values = random.integers(0, 1 << 16, (9, 7)).astype("<u2").view("<i2" if signed else "<u2")
    low = int(values[0, 0]) >> (16 - bits)

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = CTImageStorage, 9, 7, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    dataset.add_new("PixelPaddingValue", "SS" if signed else "US", low)
    dataset.add_new("PixelData", "OW", values.tobytes())
    frame = dicom.read(dataset).frame(1, window)

    sent = upload(StoredPixels(values, window, slope, intercept, bits, (low, low), inverted))
    raw = sent.header.raw
    rgb = rgb_of_pixels(sent.payload, RawShape(raw.height, raw.width, raw.channels, deep_form(raw)))

    np.testing.assert_array_equal(rgb[..., 1], frame.image)


# Pillow warns of much that is odd in a file; here a warning is what it is in production: a line of a log.
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(VALID), st.data())
def test_damaged_files_are_read_or_refused(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    # Most claims stand in the first and (TIFF) last bytes.
    places = st.one_of(
        st.integers(0, len(data) - 1), st.integers(0, 63), st.integers(max(0, len(data) - 200), len(data) - 1)
    )
    for _ in range(draw.draw(st.integers(1, 8))):
        damaged[draw.draw(places)] = draw.draw(st.integers(0, 255))
    if draw.draw(st.booleans()):
        del damaged[draw.draw(st.integers(0, len(damaged) - 1)) :]
    read_or_refused(bytes(damaged))


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None)
@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*"]), st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(signature: bytes, rest: bytes) -> None:
    read_or_refused(signature + rest)


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        (RawShape(0, 4, 1), "image"),
        (RawShape(4, 0, 1), "image"),
        (RawShape(101, 100, 1), "image"),
        (RawShape(2**32 - 1, 2**32 - 1, 3), "image"),
        (RawShape(9, 1, 1), "image"),
        (RawShape(4, 4, 0), "header.raw.channels"),
        (RawShape(4, 4, 4), "header.raw.channels"),
    ],
)
def test_raw_shapes_that_are_refused(shape: RawShape, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_raw(shape, LIMITS)
    assert caught.value.field == field


def test_raw_pixels() -> None:
    np.testing.assert_array_equal(rgb_of_pixels(RGB.tobytes(), RawShape(12, 20, 3)), RGB)
    np.testing.assert_array_equal(rgb_of_pixels(GREY.tobytes(), RawShape(12, 20, 1)), np.dstack([GREY] * 3))
    with pytest.raises(InvalidInput, match="must hold the 720 bytes of the header's shape; 719 were sent"):
        rgb_of_pixels(RGB.tobytes()[:-1], RawShape(12, 20, 3))
