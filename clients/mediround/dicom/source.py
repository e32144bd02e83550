"""A DICOM object's header and the place of its pixel data, whatever form the caller has it in.

Knows Part 10 files and bytes, pydicom's data sets, and how much of them is read. Does not know what attributes
mean.
"""

from __future__ import annotations

import io
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, stat_result
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast

from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from mediround.dicom.bounded import BoundedFile
from mediround.dicom.errors import BadAttribute, BadPixels, DicomError, NotDicom, TooLarge, UnsupportedSyntax
from mediround.dicom.limits import MAX_HEADER_BYTES, MAX_HEADER_READS, MAX_INFLATED_BYTES
from mediround.dicom.quiet import MALFORMED, quiet

DicomSource: TypeAlias = str | PathLike[str] | bytes | bytearray | Dataset
"""A path, the bytes of a Part 10 file, or a pydicom data set."""

KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
UNDEFINED = 0xFFFFFFFF

_PREAMBLE_BYTES, _PREFIX = 128, b"DICM"
_LONG_VRS = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN"})


@dataclass(frozen=True, slots=True)
class PixelPlace:
    """Where the pixel data lies.

    Attributes:
        keyword: ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
        vr: its VR; empty in implicit VR.
        offset: of the value.
        length: of the value as declared; UNDEFINED where it is encapsulated.
    """

    keyword: str
    vr: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Source:
    """One object, its header parsed."""

    header: Dataset
    syntax: uid.UID
    """Of the pixel data as it lies there: an object that was deflated is explicit little endian."""
    pixels: PixelPlace | None
    _content: Path | bytes | BinaryIO
    _state: tuple[int, int] | None = None
    """Size and time of a file."""

    @contextmanager
    def value(self) -> Iterator[BoundedFile]:
        """The pixel data's value, from its first byte. Raises BadPixels, OSError."""
        if self.pixels is None:
            raise BadPixels("the object has no pixel data")
        if isinstance(self._content, Path):
            with self._content.open("rb") as file:
                if _state(self._content.stat()) != self._state:
                    raise BadPixels("the file was changed after its header was read: read it again")
                yield BoundedFile(file, self.pixels.offset)
        elif isinstance(self._content, bytes):
            yield BoundedFile(io.BytesIO(self._content), self.pixels.offset)
        else:
            yield BoundedFile(self._content, self.pixels.offset)


def opened(source: DicomSource) -> Source:
    """Parse an object's header; no pixel is read.

    Raises:
        NotDicom, BadAttribute, TooLarge: it cannot be parsed.
        OSError: the path cannot be read.
    """
    match source:
        case Dataset():
            return _of_dataset(source)
        case bytes() | bytearray():
            return _of_file(io.BytesIO(source), bytes(source), None)
        case _:
            path = _path(source)
            with path.open("rb") as file:
                return _of_file(file, path, _state(path.stat()))


def is_part10(head: bytes) -> bool:
    """Whether a file's first 132 bytes are those of a Part 10 file."""
    return head[_PREAMBLE_BYTES : _PREAMBLE_BYTES + len(_PREFIX)] == _PREFIX


def _path(source: object) -> Path:
    try:
        path = Path(cast(Any, source))
        kind = path.stat().st_mode
    except (TypeError, ValueError):
        raise NotDicom("must be a path, the bytes of a file, or a pydicom data set") from None
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # a folder's own error says what it is
        raise NotDicom("must be a file, not a pipe or a device")
    return path


def _of_file(file: BinaryIO, content: Path | bytes, state: tuple[int, int] | None) -> Source:
    if not is_part10(file.read(_PREAMBLE_BYTES + len(_PREFIX))):
        raise NotDicom("is no DICOM file (PS3.10): 'DICM' must stand at byte 128")
    try:
        header, syntax, place, inflated = _parsed(file)
    except DicomError:
        raise
    except MALFORMED as error:
        # pydicom's words may quote the file; its error's name does not.
        raise NotDicom(f"cannot be parsed as DICOM ({type(error).__name__})") from None
    return Source(header, syntax, place, inflated or content, None if inflated else state)


def _parsed(file: BinaryIO) -> tuple[Dataset, uid.UID, PixelPlace | None, bytes | None]:
    inflated, bounded = None, BoundedFile(file, len(_PREFIX) + _PREAMBLE_BYTES, MAX_HEADER_BYTES, MAX_HEADER_READS)
    with quiet():
        meta = read_dataset(cast(BinaryIO, bounded), False, True, stop_when=_beyond_meta)
        syntax = _syntax(meta)
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            inflated = _inflated(file, bounded.tell())
            bounded = BoundedFile(io.BytesIO(inflated), 0, MAX_HEADER_BYTES, MAX_HEADER_READS)
            syntax = uid.ExplicitVRLittleEndian
        order = syntax.is_implicit_VR, syntax.is_little_endian
        header = read_dataset(cast(BinaryIO, bounded), *order, stop_when=_at_pixels)
        header.file_meta = FileMetaDataset(meta)
        first = next((header.get_item(tag) for tag in header.keys()), None)  # noqa: SIM118  # not of its elements
        # As its elements are, whatever the syntax says: pydicom reads both.
        implicit = isinstance(first, RawDataElement) and first.is_implicit_VR
        header.set_original_encoding(implicit, syntax.is_little_endian)
        place = _place(bounded, syntax, implicit)
        if place is None and bounded.cut:
            raise NotDicom("is truncated before its pixel data: fetch it again")
        return header, syntax, place, inflated


def _syntax(meta: Dataset) -> uid.UID:
    name = meta.get("TransferSyntaxUID")
    if not isinstance(name, str) or not name:
        raise BadAttribute("TransferSyntaxUID (0002,0010) must be there", "TransferSyntaxUID")
    syntax = uid.UID(name)
    if not syntax.is_transfer_syntax or syntax.is_private:
        raise UnsupportedSyntax("the transfer syntax must be one of DICOM's (PS3.6, table A-1)")
    return syntax


def _beyond_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _at_pixels(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) in KEYWORDS


def _place(file: BoundedFile, syntax: uid.UID, implicit: bool) -> PixelPlace | None:
    """Of the element that parsing stopped at; None at the end of the file."""
    order: Literal["little", "big"] = "little" if syntax.is_little_endian else "big"
    head = file.read(8)
    if len(head) < 8:
        return None
    tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)
    if tag not in KEYWORDS:
        return None
    if implicit:
        return PixelPlace(KEYWORDS[tag], "", file.tell(), int.from_bytes(head[4:8], order))
    if head[4:6] not in _LONG_VRS:
        raise BadAttribute(f"{KEYWORDS[tag]} must have VR OB or OW", KEYWORDS[tag])
    length = int.from_bytes(file.read(4), order)
    return PixelPlace(KEYWORDS[tag], head[4:6].decode(), file.tell(), length)


def _inflated(file: BinaryIO, start: int) -> bytes:
    """The data set, inflated. What follows a damaged part is missing, and noticed where it is needed."""
    file.seek(start)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    packed = file.read(MAX_INFLATED_BYTES + 1)
    data = inflater.decompress(packed, MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail or len(packed) > MAX_INFLATED_BYTES:
        raise TooLarge(f"must be at most {MAX_INFLATED_BYTES} bytes when it is inflated")
    return data


def _of_dataset(dataset: Dataset) -> Source:
    with quiet():
        try:
            syntax = _syntax(getattr(dataset, "file_meta", Dataset()))
            keyword = next((each for each in KEYWORDS.values() if each in dataset), None)
            if keyword is None:
                return Source(dataset, syntax, None, b"")
            value, vr = dataset[keyword].value, dataset[keyword].VR
        except DicomError:
            raise
        except MALFORMED as error:
            raise BadPixels(f"the pixel data cannot be read ({type(error).__name__})") from None
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        syntax = uid.ExplicitVRLittleEndian
    if isinstance(value, bytes | bytearray | memoryview):
        content: bytes | BinaryIO = bytes(value)
        size = len(value)
    elif hasattr(value, "read"):
        content, size = value, value.seek(0, io.SEEK_END)
    else:
        raise BadPixels("the pixel data must be bytes")
    length = UNDEFINED if syntax.is_encapsulated else size
    return Source(dataset, syntax, PixelPlace(keyword, vr, 0, length), content)


def _state(status: stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
