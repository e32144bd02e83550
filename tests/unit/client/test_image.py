"""Images as they are sent."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediround import StoredPixels, Tls, Window, dicom, masks, medseg
from mediround import image as image_module
from mediround._connection import SentImages
from mediround.errors import FailedPrecondition, InvalidArgument
from mediround.image import CHUNK_BYTES, ChosenFrame, ImageSource, upload
from mediround.raw import deep_form
from mediround.v1 import segmentation_pb2 as pb


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


class Overridden(np.ndarray):
    """Answers with other bytes than it holds."""

    def tobytes(self, order: str | None = "C") -> bytes:
        return bytes(self.size)


def arrays(pixels: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """The same pixels as numpy can hold them."""
    mapped = np.memmap(folder / "pixels", np.uint8, "w+", shape=pixels.shape)
    mapped[:] = pixels
    frozen = pixels.copy()
    frozen.flags.writeable = False
    return {
        "Fortran order": np.asfortranarray(pixels),
        "reversed twice": pixels[::-1, ::-1].copy()[::-1, ::-1],
        "every second column": np.repeat(pixels, 2, axis=1)[:, ::2],
        "memmap": mapped,
        "matrix": np.asmatrix(pixels),
        "record array": pixels.view(np.recarray),
        "read-only": frozen,
        "other endian": pixels.astype(">u1"),
        "no stride": np.broadcast_to(pixels[:1], pixels.shape),
        "overridden": pixels.view(Overridden),
    }


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of numpy.matrix
def test_an_array_is_sent_as_its_pixels_are_whatever_holds_them(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name, form in arrays(pixels, tmp_path).items():
        shown = bytes(int(form[row, column]) for row in range(3) for column in range(4))
        assert upload(form).payload == shown, name


@pytest.mark.parametrize("hidden", [np.ma.nomask, np.eye(3, 4, dtype=bool)], ids=["nothing hidden", "hidden"])
def test_a_masked_array_is_no_image_and_no_mask(hidden: object) -> None:
    pixels = np.ma.array(np.arange(12, dtype=np.uint8).reshape(3, 4), mask=hidden)
    for form in (pixels, np.ma.stack([pixels] * 3, axis=-1)):
        with pytest.raises(InvalidArgument, match="filled"):
            upload(form)
    for encoding in (pb.MASK_ENCODING_COCO_RLE, pb.MASK_ENCODING_PACKED_BITS, pb.MASK_ENCODING_PNG):
        with pytest.raises(ValueError, match="masked"):
            masks.encode(pixels > 5, encoding)
        with pytest.raises(ValueError, match="uint8"):
            masks.encode(np.asarray(pixels), encoding)


class Tensor:
    """As another library's array: it has numpy's protocols, a type and a shape."""

    def __init__(self) -> None:
        self.dtype, self.shape, self.mode = "torch.uint8", (2, 2), "train"

    def size(self) -> tuple[int, int]:
        return (2, 2)

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return np.zeros((2, 2), np.uint8)

    def tobytes(self) -> bytes:
        return b"abcd"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_pil_image_is_the_array_it_shows(mode: str) -> None:
    shape = (4, 5) if mode == "L" else (4, 5, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert upload(Image.fromarray(pixels)) == upload(pixels)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((2, 2), np.float32), "VOI LUT"),
        (np.zeros((2, 2), np.bool_), "VOI LUT"),
        (np.zeros((2, 2, 4), np.uint8), "shape"),
        (np.zeros((3, 2, 2), np.uint8), "shape"),
        (np.zeros((2,), np.uint8), "shape"),
        (np.zeros((0, 2), np.uint8), "shape"),
        (Image.new("I;16", (2, 2)), "VOI LUT"),
        (Image.new("F", (2, 2)), "VOI LUT"),
        (Image.new("RGBA", (2, 2)), "transparent"),
        (Image.new("CMYK", (2, 2)), "convert"),
        (None, "NoneType"),
        (b"", "empty"),
        (bytearray(), "empty"),
        (Tensor(), "Tensor"),
        (memoryview(np.zeros((2, 2), np.uint8)), "memoryview"),
        (np.array(5, np.uint8), "shape"),
        (np.zeros((2, 2), np.int8), "VOI LUT"),
        (np.zeros((2, 2), object), "VOI LUT"),
        (np.zeros((2, 2), [("r", "u1")]), "VOI LUT"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_what_is_no_image(image: object, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        upload(image)
    assert caught.value.violations[0].field == "image"


WINDOW = Window(40, 400)
DEEP = np.arange(-10, 10, dtype=np.int16).reshape(4, 5)


def test_sixteen_bits_are_sent_with_their_window() -> None:
    sent = upload(ChosenFrame(DEEP, window=(40, 400)))
    whole = StoredPixels(DEEP.view(np.uint16), WINDOW, 2, -10, 12, (0, 3), inverted=True)

    raw = sent.header.raw
    assert sent.payload == DEEP.tobytes()
    assert (raw.height, raw.width, raw.channels, raw.pixel_type) == (4, 5, 1, pb.PIXEL_TYPE_INT16)
    assert sent.record is not None
    assert sent.record.window == "LINEAR center 40 width 400 (request), slope 1 intercept 0"
    assert deep_form(raw) == StoredPixels(DEEP, WINDOW).form
    assert deep_form(upload(whole).header.raw) == whole.form
    assert upload(ChosenFrame(DEEP[:, ::-1].astype(">i2"), window=WINDOW)).payload == DEEP[:, ::-1].tobytes()
    assert sent.key != upload(ChosenFrame(DEEP, window=(41, 400))).key


@pytest.mark.parametrize(
    ("image", "field", "words"),
    [
        (DEEP, "window", "must be given with 16-bit pixels"),
        (ChosenFrame(DEEP, window="brain"), "window", "a mediround.Window, or"),
        (ChosenFrame(DEEP, window=(0, 0)), "window.width", "above 0"),
        (ChosenFrame(DEEP, 1, WINDOW), "frame", "must be left out"),
        (ChosenFrame(np.zeros((2, 2), np.uint8), window=WINDOW), "window", "DICOM objects, and 16-bit arrays"),
        (ChosenFrame(b"not empty", 1), "frame", "must be left out: it is for DICOM objects"),
        (ChosenFrame(DEEP[None], window=WINDOW), "image", "int16 or uint16"),
        (ChosenFrame(np.ma.masked_array(DEEP), window=WINDOW), "image", "must be an array, not a MaskedArray"),
    ],
)
def test_frames_and_windows_are_for_what_has_them(image: ImageSource, field: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        upload(image)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"values": DEEP.astype(np.int32)}, "image"),
        ({"values": DEEP[:0]}, "image"),
        ({"values": [[1]]}, "image"),
        ({"window": (40, 400)}, "window"),
        ({"slope": 0}, "window.slope"),
        ({"intercept": float("inf")}, "window.intercept"),
        ({"bits_stored": 17}, "bits_stored"),
        ({"bits_stored": True}, "bits_stored"),
        ({"padding": (2, 1)}, "padding"),
        ({"padding": 5}, "padding"),
        ({"padding": (0, 1 << 40)}, "padding"),
    ],
)
def test_stored_pixels_that_cannot_be(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        StoredPixels(**{"values": DEEP, "window": WINDOW} | changes)  # type: ignore[arg-type]
    assert caught.value.violations[0].field == field


def test_a_path_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        upload(tmp_path / "absent.png")


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit((tmp_path / "pipe").write_bytes, b"whatever comes through")
        assert upload(tmp_path / "pipe").payload == b"whatever comes through"
        written.result()


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (upload, InvalidArgument),
        (dicom.read, dicom.NotDicom),
        (medseg.read_items, medseg.DataError),
        (lambda path: Tls(ca=path), InvalidArgument),
    ],
)
def test_what_never_ends_or_is_too_large_is_not_read(
    read: Callable[[Path], object], error: type[Exception], tmp_path: Path
) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate((2 << 30) + 1)  # takes no room
    for path in (Path("/dev/zero"), tmp_path / "large"):
        with pytest.raises(error, match=r"must (be a file, not|hold at most|stand at byte 128)"):
            read(path)


def test_a_pipe_that_never_ends_is_read_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "MAX_FILE_BYTES", 3 << 20)
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit((tmp_path / "pipe").write_bytes, bytes(5 << 20))
        with pytest.raises(InvalidArgument, match="image: the file must hold at most 3145728 bytes"):
            upload(tmp_path / "pipe")
        assert isinstance(written.exception(), BrokenPipeError)
    with pytest.raises(dicom.NotDicom, match="must be a file, not a pipe"):
        dicom.read(tmp_path / "pipe")


def test_without_the_extra_a_dicom_object_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediround.dicom", None)
    with pytest.raises(FailedPrecondition, match=r"pip install './clients\[dicom\]'"):
        upload(bytes(128) + b"DICM")


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1])
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


def test_an_image_is_the_same_however_urgent_it_is() -> None:
    plain = upload(np.zeros((4, 4), np.uint8))
    batch = plain.prioritised(pb.PRIORITY_BATCH)
    assert [message.header.priority for message in batch.inquiry()] == [pb.PRIORITY_BATCH]
    assert next(batch.messages()).header.priority == pb.PRIORITY_BATCH
    assert batch.key == plain.key
