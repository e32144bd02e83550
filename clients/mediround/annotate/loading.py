"""What an item is asked with: its image, and the archive's masks that its questions are about.

Knows how files are read, and that they must still be what the manifest says. Does not know the service.
"""

from __future__ import annotations

import hashlib
import io
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

from mediround._commands import window
from mediround.annotate.errors import ItemError
from mediround.annotate.held import Held
from mediround.annotate.items import MAX_FILE_BYTES, GivenReference, Item
from mediround.image import DicomDataset, ImageSource
from mediround.pictures import MALFORMED
from mediround.window import WindowChoice

Bits = npt.NDArray[np.bool_]
Content: TypeAlias = bytes | DicomDataset
"""Of a file, or of an archive's instance."""
HELD_BYTES = 512 << 20
"""Of the images that are held, and of the SEG objects; the last of each is held however large it is."""
_FIXES = {
    "SOURCE_GONE": "plan again; where the file is back, `run --retry-failed`",
    "SOURCE_CHANGED": "plan again; where the file is what it was, `run --retry-failed`",
    "UNREADABLE": "once it can be, `run --retry-failed`",
    "TOO_SLOW": "then `run --retry-failed`",
}
"""What must be done about what was well when it was planned: an item that failed is not asked again by itself."""
_HELD = 2
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_IMAGES = Held[Content](_HELD, HELD_BYTES)
_SEGMENTATIONS = Held[Any](_HELD, HELD_BYTES)  # StoredSegmentation: its extra need not be installed


@dataclass(frozen=True, slots=True)
class LoadedItem:
    """An item's content.

    Attributes:
        image: as the client takes it.
        frame: as ``client.open`` takes it.
        window: the same.
        references: masks of the archive, bool (H, W), by the index of the question that is about them.
    """

    image: ImageSource
    frame: int | None = None
    window: WindowChoice = None
    references: Mapping[int, Bits] = field(default_factory=dict)


def load(item: Item) -> LoadedItem:
    """Read an item's files; blocking.

    Raises:
        ItemError: a file cannot be read, is not what the manifest says, or is no picture or mask.
        ImportError: an extra is not installed.
    """
    if item.problem:
        code, _, words = item.problem.partition(": ")
        raise ItemError(code, f"{words}; then plan again")
    try:
        return _loaded(item)
    except ImportError:
        raise
    except ItemError as error:
        fix = _FIXES.get(error.code)
        raise ItemError(error.code, f"{error}: {fix}" if fix else str(error)) from error
    except Exception as error:  # bytes of an archive must not end a run of days
        words = f"the file cannot be read ({type(error).__name__}): {_FIXES['UNREADABLE']}"
        raise ItemError("UNREADABLE", words) from error


def content_name(item: Item) -> str:
    """Names the content that this item, once it is loaded, has in common with others; empty: with none."""
    return "" if item.frame is None else item.uri


def _loaded(item: Item) -> LoadedItem:
    content = _image(item)
    references = {
        number: _mask(each.reference, content, item.frame)
        for number, each in enumerate(item.questions)
        if each.reference is not None
    }
    if item.kind == "picture":
        return LoadedItem(content, references=references)
    return LoadedItem(content, item.frame, _window(item.window), references)


def _image(item: Item) -> Content:
    """Read once for all of an object's frames, which come together."""

    def made() -> tuple[Content, int]:
        content = _instance(item.uri) if item.kind == "dicomweb" else content_of(item.uri, item.sha256)
        return content, _size(content)

    return made()[0] if item.frame is None else _IMAGES.get(_key(item.uri, item.sha256), made)


def _key(uri: str, sha256: str) -> tuple[object, ...]:
    """Of what is held: a file of this machine that is changed or removed meanwhile is another, or an ItemError."""
    if not uri.startswith("file:"):
        return uri, sha256
    with _reading():
        status = _path(uri).stat()
    return uri, sha256, status.st_ino, status.st_size, status.st_mtime_ns


def _size(content: Content) -> int:
    """Bytes; of an archive's instance its pixels', for the rest is small."""
    if isinstance(content, bytes):
        return len(content)
    return sum(len(getattr(content, name, None) or b"") for name in _PIXELS)


def _instance(uri: str) -> DicomDataset:
    from mediround.annotate.dicomweb import retrieve  # noqa: PLC0415  # its extra need not be installed

    return retrieve(uri)


def content_of(uri: str, sha256: str) -> bytes:
    """A file's bytes, as they were when it was listed. Raises ItemError."""
    content = read(uri)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ItemError("SOURCE_CHANGED", "the file is another one than when the job was planned")
    return content


def target_of(uri: str) -> Bits:
    """A question's target, bool (H, W). Raises ItemError."""
    return _set_pixels(read(uri))


def _set_pixels(content: bytes) -> Bits:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            values = np.asarray(picture.convert("L") if picture.mode != "L" else picture)
    except MALFORMED as error:
        raise ItemError("BAD_MASK", "a mask must be a PNG whose pixels above 0 are set") from error
    return values > 0


def read(uri: str) -> bytes:
    """A file's bytes. Raises ItemError."""
    content = _read_file(uri) if uri.startswith("file:") else _fetched(uri)
    if len(content) > MAX_FILE_BYTES:
        raise ItemError("TOO_LARGE", f"the file must hold at most {MAX_FILE_BYTES >> 20} MiB")
    return content


def _fetched(uri: str) -> bytes:
    from mediround.annotate import remote  # noqa: PLC0415  # its extra need not be installed

    return remote.read(uri, MAX_FILE_BYTES + 1)


def _read_file(uri: str) -> bytes:
    with _reading(), _path(uri).open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


@contextmanager
def _reading() -> Iterator[None]:
    """Raises ItemError for what the system says of a file."""
    try:
        yield
    except FileNotFoundError:
        raise ItemError("SOURCE_GONE", "the file is no longer there") from None
    except OSError as error:
        raise ItemError("UNREADABLE", f"the file cannot be read ({error.strerror})") from error


def _window(text: str) -> WindowChoice:
    try:
        return window(text) if text else None
    except ArgumentTypeError as error:
        raise ItemError("BAD_WINDOW", f"window {error}") from error


def _mask(reference: GivenReference, image: Content, frame: int | None) -> Bits:
    if not reference.segment:
        return _set_pixels(content_of(reference.uri, reference.sha256))
    from mediround.annotate.dicom_masks import mask_of, segmentation_of  # noqa: PLC0415  # its extra need not be

    def made() -> tuple[Any, int]:
        in_archive = reference.uri.startswith(("http://", "https://"))
        content = _instance(reference.uri) if in_archive else content_of(reference.uri, reference.sha256)
        return segmentation_of(content), _size(content)

    # A series' images have their masks in one object.
    segmentation = _SEGMENTATIONS.get(_key(reference.uri, reference.sha256), made)
    return mask_of(segmentation, reference.segment, image, frame)


def _path(uri: str) -> Path:
    return Path(unquote_to_bytes(urlsplit(uri).path).decode("utf-8", "surrogateescape"))
