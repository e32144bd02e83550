"""Raw grey pixels of 16 bits with the window that makes 8 bits of them, as values and in the contract's form.

Knows what ``RawPixels`` may say of such pixels, and refuses the rest in words that the server and the test double
share. Does not know sizes, limits or uploads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mediround.errors import FieldViolation, InvalidArgument
from mediround.v1 import segmentation_pb2 as pb
from mediround.window import IDENTITY, AppliedWindow, Function, Rescale, StoredValues, Window, used_bits

PATH = "header.raw"
BITS = 16
DTYPES = {pb.PIXEL_TYPE_UINT16: "<u2", pb.PIXEL_TYPE_INT16: "<i2"}
"""numpy's names of the types that need a window."""
PIXEL_TYPES = (pb.PIXEL_TYPE_UINT8, *DTYPES)
"""What raw pixels may be."""
NO_WINDOW = (
    "must be given with 16-bit pixels: its center and width say which values are told apart (DICOM VOI LUT, PS3.3 "
    "C.11.2)"
)

_FUNCTIONS: Mapping[int, Function] = {
    pb.WINDOW_FUNCTION_UNSPECIFIED: "LINEAR",
    pb.WINDOW_FUNCTION_LINEAR: "LINEAR",
    pb.WINDOW_FUNCTION_LINEAR_EXACT: "LINEAR_EXACT",
    pb.WINDOW_FUNCTION_SIGMOID: "SIGMOID",
}
_PHOTOMETRICS = {
    pb.PHOTOMETRIC_UNSPECIFIED: False,
    pb.PHOTOMETRIC_MONOCHROME1: True,
    pb.PHOTOMETRIC_MONOCHROME2: False,
}
_PADDING_LIMIT = 1 << 31


@dataclass(frozen=True, slots=True)
class DeepForm:
    """What 16-bit pixels mean, and their window. ``str()`` of it says all: equal texts, equal grey levels.

    Attributes:
        pixel_type: UINT16 or INT16.
        bits: that are stored, the lowest ones.
        window: in units after the rescale.
        rescale: stored values to units.
        padding: the lowest and highest value that stand for no measurement.
        inverted: MONOCHROME1.
    """

    pixel_type: pb.PixelType.ValueType
    window: Window
    rescale: Rescale = IDENTITY
    bits: int = BITS
    padding: tuple[int, int] | None = None
    inverted: bool = False

    @property
    def applied(self) -> AppliedWindow:
        return AppliedWindow(self.window, "request", self.rescale, self.inverted)

    def __str__(self) -> str:
        padding = "" if self.padding is None else f", padding {self.padding[0]} to {self.padding[1]}"
        return f"{self.applied}, {self.bits} bits of {DTYPES[self.pixel_type][1:]}{padding}"

    def grey(self, payload: bytes | memoryview, height: int, width: int) -> npt.NDArray[np.uint8]:
        """uint8 (height, width); ``payload``: two bytes a pixel."""
        stored = np.frombuffer(payload, DTYPES[self.pixel_type]).reshape(height, width)
        values = StoredValues(self.rescale, self.padding, self.inverted)
        return values.grey(stored, self.window, self._used)

    def message(self, height: int, width: int) -> pb.RawPixels:
        function = pb.WindowFunction.Value(f"WINDOW_FUNCTION_{self.window.function}")
        padding = None if self.padding is None else pb.PixelPadding(first=self.padding[0], last=self.padding[1])
        return pb.RawPixels(
            height=height,
            width=width,
            channels=1,
            pixel_type=self.pixel_type,
            bits_stored=self.bits,
            window=pb.Window(
                center=self.window.center,
                width=self.window.width,
                function=function,
                slope=self.rescale.slope,
                intercept=self.rescale.intercept,
            ),
            padding=padding,
            photometric=pb.PHOTOMETRIC_MONOCHROME1 if self.inverted else pb.PHOTOMETRIC_MONOCHROME2,
        )

    def _used(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return used_bits(raw, self.bits, self.bits - 1)


def deep_form(raw: pb.RawPixels) -> DeepForm | None:
    """What a header says of 16-bit pixels; None: they have 8. Raises InvalidArgument."""
    if raw.pixel_type not in DTYPES:
        _check_plain(raw)
        return None
    if not raw.HasField("window"):
        raise _refused("window", NO_WINDOW)
    if raw.channels != 1:
        raise _refused("channels", "must be 1: 16-bit pixels are grey")
    if raw.bits_stored > BITS:
        raise _refused("bits_stored", f"must be 1 to {BITS}, or 0 for all")
    if raw.photometric not in _PHOTOMETRICS:
        raise _refused("photometric", "must be MONOCHROME1 or MONOCHROME2")
    if raw.window.function not in _FUNCTIONS:
        raise _refused("window.function", "must be LINEAR, LINEAR_EXACT or SIGMOID")
    padding = (raw.padding.first, raw.padding.last) if raw.HasField("padding") else None
    if padding and padding[0] > padding[1]:
        raise _refused("padding", "must have its lowest value first")
    window = raw.window
    try:
        return DeepForm(
            raw.pixel_type,
            Window(window.center, window.width, _FUNCTIONS[window.function]),
            Rescale(window.slope if window.HasField("slope") else 1.0, window.intercept),
            raw.bits_stored or BITS,
            padding,
            _PHOTOMETRICS[raw.photometric],
        )
    except InvalidArgument as error:
        violation = error.violations[0]
        raise _refused(violation.field, violation.description) from None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class StoredPixels:
    """Grey pixels as a scanner stored them, with the window that makes 8 bits of them on the server. Raises
    InvalidArgument for what cannot be.

    Attributes:
        values: int16 or uint16 (H, W).
        window: which values are told apart, in units after the rescale.
        slope: stored values to units: ``slope * stored + intercept`` (CT: Hounsfield units).
        intercept: the same.
        bits_stored: how many of a value's bits are used, the lowest ones.
        padding: the lowest and the highest value that stand for no measurement; they become black.
        inverted: MONOCHROME1: the lowest value is white.
    """

    values: npt.NDArray[np.int16] | npt.NDArray[np.uint16] = field(repr=False)
    window: Window
    slope: float = 1.0
    intercept: float = 0.0
    bits_stored: int = BITS
    padding: tuple[int, int] | None = None
    inverted: bool = False

    def __post_init__(self) -> None:
        _ = self.form

    @property
    def form(self) -> DeepForm:
        values = self.values
        if not isinstance(values, np.ndarray) or isinstance(values, np.ma.MaskedArray):
            raise _refused_here("image", f"must be an array, not a {type(values).__name__}")
        if values.dtype.kind not in "iu" or values.dtype.itemsize != 2 or values.ndim != 2 or not values.size:
            raise _refused_here("image", f"must be int16 or uint16 (H, W), not {values.dtype} {values.shape}")
        if not isinstance(self.window, Window):
            raise _refused_here("window", "must be a mediround.Window")
        if not _whole(self.bits_stored) or not 1 <= self.bits_stored <= BITS:
            raise _refused_here("bits_stored", f"must be a whole number from 1 to {BITS}")
        signed = values.dtype.kind == "i"
        return DeepForm(
            pb.PIXEL_TYPE_INT16 if signed else pb.PIXEL_TYPE_UINT16,
            self.window,
            Rescale(self.slope, self.intercept),
            int(self.bits_stored),
            _checked_padding(self.padding),
            bool(self.inverted),
        )

    def payload(self) -> bytes:
        """Two bytes a pixel, little endian, rows from the top."""
        values = np.asarray(self.values)  # numpy's own: a subclass's methods may give other bytes
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _checked_padding(padding: Any) -> tuple[int, int] | None:
    if padding is None:
        return None
    match padding:
        case (first, last) if _whole(first) and _whole(last) and -_PADDING_LIMIT <= first <= last < _PADDING_LIMIT:
            return int(first), int(last)
        case _:
            raise _refused_here("padding", "must be two whole numbers, the lowest first")


def _check_plain(raw: pb.RawPixels) -> None:
    """Refuse what belongs to 16 bits beside pixels of 8: it would have no effect."""
    given = [each for each in ("window", "padding") if raw.HasField(each)]
    given += [each for each in ("bits_stored", "photometric") if getattr(raw, each)]
    if given and raw.pixel_type == pb.PIXEL_TYPE_UINT8:
        raise _refused(given[0], "must be left out: it is for 16-bit pixels")


def _whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _refused(name: str, description: str) -> InvalidArgument:
    return _refused_here(f"{PATH}.{name}", description)


def _refused_here(path: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {description}", (FieldViolation(path, description),))
