"""A DICOM object as an image: its frames, each ready to be opened.

    instance = mediround.dicom.read("ct.dcm")
    frame = instance.frame(1, window="brain")
    with client.open(frame) as session:
        frame.to_stored(session.ask("Segment the left thalamus.").mask)   # bool (Rows, Columns)

Knows the order in which a frame is made: samples, modality, window, 8 bits, inversion, padding, square pixels.
Does not know series, geometry or what is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from threading import Lock

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from mediround._records import PixelRecord
from mediround.dicom.aspect import Grid, grid
from mediround.dicom.colour import rgb
from mediround.dicom.decoding import DecodedFrame, decoded_frame
from mediround.dicom.pixels import PixelModule, pixel_module
from mediround.dicom.source import DicomSource, Source, opened
from mediround.dicom.windowing import Shown, chosen, stored_values
from mediround.errors import FieldViolation, InvalidArgument
from mediround.image import PreparedImage
from mediround.window import AppliedWindow, WindowChoice, used_bits

Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object (SOP instance) that holds an image; its header is checked, its pixels are not read yet.

    Attributes:
        header: the data set. Of a file it has all attributes but the pixel data; a caller's own data set is that
            one. Its values may identify a patient.
        pixels: the Image Pixel module, checked.
    """

    header: Dataset = field(repr=False)
    pixels: PixelModule
    _source: Source = field(repr=False)

    @property
    def frames(self) -> int:
        """How many there are; they count from 1."""
        return self.pixels.frames

    @property
    def transfer_syntax(self) -> str:
        """The UID of the syntax that the pixel data has."""
        return str(self._source.syntax)

    def frame(self, number: int = 1, window: WindowChoice = None) -> Frame:
        """Decode one frame, and no other.

        Args:
            number: from 1, as DICOM counts frames.
            window: see ``WindowChoice``; none for colour.

        Raises:
            InvalidArgument: there is no such frame, or the window cannot be applied to it.
            DicomError: the frame cannot be read.
            OSError: the file cannot be read.
        """
        if not isinstance(number, Integral) or isinstance(number, bool) or not 1 <= number <= self.frames:
            words = f"must be a whole number from 1 to the {self.frames} frames that the object has"
            raise InvalidArgument(f"frame: {words}", (FieldViolation("frame", words),))
        index, module = int(number) - 1, self.pixels
        squared = grid(self.header, index, module.rows, module.columns)
        if module.colour and window is not None:
            words = "must be left out: a colour image has none"
            raise InvalidArgument(f"window: {words}", (FieldViolation("window", words),))
        decoded = decoded_frame(self._source, module, index)
        image, applied = self._eight_bits(decoded, index, window)
        record = PixelRecord(decoded.libraries, "none" if applied is None else str(applied))
        pixels = np.ascontiguousarray(squared.stretched(image))
        return Frame(pixels, record, applied, self, index + 1, squared)

    def _eight_bits(
        self, decoded: DecodedFrame, index: int, window: WindowChoice
    ) -> tuple[npt.NDArray[np.uint8], AppliedWindow | None]:
        module, stored = self.pixels, decoded.samples
        if module.colour:
            return rgb(decoded, module, self.header), None
        if stored.dtype.kind in "iu" and module.allocated > 1:
            stored = used_bits(stored, module.stored, module.high_bit)
        values = stored_values(self.header, module, index)
        applied = chosen(window, Shown(self.header, module, index, stored, values))
        return values.grey(stored, applied.voi), applied


@dataclass(frozen=True, slots=True, eq=False)
class Frame(PreparedImage):
    """One frame as 8 bits, ready for ``client.open``.

    Attributes:
        image: uint8 (H, W), or (H, W, 3) RGB; its pixels are square.
        record: the window and the libraries that decoded it, as results keep them (``RoundResult.pixels``).
        window: what made 8 bits of stored values; None for colour.
        instance: what it is a frame of.
        number: from 1.
        grid: the frame's own pixels, and the image's.
    """

    window: AppliedWindow | None
    instance: Instance = field(repr=False)
    number: int
    grid: Grid

    def to_stored(self, mask: Bits) -> Bits:
        """A mask of the image, (H, W), on the frame's own Rows x Columns. Raises InvalidArgument: another size."""
        return self.grid.to_stored(_of_size(mask, self.grid.shown))

    def from_stored(self, mask: Bits) -> Bits:
        """A mask on Rows x Columns, on the image's (H, W); ``to_stored`` undoes it exactly. Raises as that."""
        return self.grid.from_stored(_of_size(mask, self.grid.stored))


def read(source: DicomSource) -> Instance:
    """Read an object's header and check it; no pixels yet.

    Args:
        source: a path, the bytes of a Part 10 file, or a pydicom data set with its ``file_meta``.

    Raises:
        DicomError: what the caller must do is said by its kind.
        OSError: the path cannot be read.
    """
    found = opened(source)
    return Instance(found.header, pixel_module(found), found)


class LastRead:
    """The object that was read last: the header of an enhanced one is read once, not for each of its frames.

    Safe across threads.
    """

    def __init__(self) -> None:
        self._lock, self._source = Lock(), object()
        self._instance: Instance | None = None

    def instance(self, source: DicomSource) -> Instance:
        """The same one for the same source as before. Raises as ``read`` does."""
        with self._lock:
            if self._instance is None or self._source is not source:
                self._instance = None  # two are not held at once
                self._instance, self._source = read(source), source
            return self._instance


def _of_size(mask: Bits, size: tuple[int, int]) -> Bits:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != size:
        words = f"must be bool of {size[0]}x{size[1]}"
        raise InvalidArgument(f"mask: {words}", (FieldViolation("mask", words),))
    return mask
