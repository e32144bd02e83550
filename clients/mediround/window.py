"""Stored values made 8 bits: modality transform, window (VOI), inversion, padding; the one implementation.

Knows DICOM's formulas (PS3.3 C.11.1, C.11.2) and numpy. Does not know files, messages or where a window comes
from.
``mediround.dicom`` uses it in the client, and the server for raw 16-bit pixels, so that both see the same grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from mediround.errors import FieldViolation, InvalidArgument

Function: TypeAlias = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
"""VOI LUT Function (0028,1056)."""
WindowChoice: TypeAlias = "Window | tuple[float, float] | str | int | None"
"""A window, or (center, width) of a LINEAR one. Of DICOM objects also: a preset's name
(``mediround.dicom.PRESETS``); ``percentile``; the number, from 1, of the object's own windows. None: the object's
first, else percentiles."""
Values: TypeAlias = npt.NDArray[Any]
"""Stored values, of any integer or float type."""
F64: TypeAlias = npt.NDArray[np.float64]

FUNCTIONS: tuple[Function, ...] = get_args(Function)
RULE = "mediround.window 1"
"""Names what this module computes: another number, other grey levels for the same stored values."""

_TABLE_BITS = 16
_BLOCK = 1 << 20
"""Values that are computed at once where no table holds them all."""


def refused(field: str, description: str) -> InvalidArgument:
    path = f"window.{field}" if field else "window"
    return InvalidArgument(f"{path}: {description}", (FieldViolation(path, description),))


def _text(number: float) -> str:
    """All its digits: equal texts, equal numbers."""
    return repr(float(number)).removesuffix(".0")


def _finite(number: object) -> bool:
    kinds = (int, float, np.integer, np.floating)
    return isinstance(number, kinds) and not isinstance(number, bool) and math.isfinite(number)


@dataclass(frozen=True, slots=True)
class Window:
    """Which values are told apart: DICOM's window, in units after the modality transform (CT: Hounsfield units).
    Raises InvalidArgument for what cannot be one.

    Attributes:
        center: Window Center (0028,1050).
        width: Window Width (0028,1051): at least 1 for ``LINEAR``, else above 0.
        function: VOI LUT Function (0028,1056).
    """

    center: float
    width: float
    function: Function = "LINEAR"

    def __post_init__(self) -> None:
        if not _finite(self.center):
            raise refused("center", "must be a finite number")
        if not _finite(self.width) or self.width <= 0:
            raise refused("width", "must be a finite number above 0")
        if self.function not in FUNCTIONS:
            raise refused("function", f"must be one of {', '.join(FUNCTIONS)}")
        if self.function == "LINEAR" and self.width < 1:
            raise refused("width", "must be at least 1 for LINEAR (PS3.3 C.11.2.1.2); LINEAR_EXACT takes less")

    def __str__(self) -> str:
        return f"{self.function} center {_text(self.center)} width {_text(self.width)}"

    def fractions(self, values: F64) -> F64:
        """0 (darkest) to 1 (brightest). Source: PS3.3 C.11.2.1.2 and C.11.2.1.3."""
        if self.function == "SIGMOID":
            with np.errstate(over="ignore"):  # an infinite power is the formula's 0
                return np.asarray(1 / (1 + np.exp(-4 * (values - self.center) / self.width)), np.float64)
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.center) / self.width + 0.5, 0, 1)
        if self.width <= 1:
            return np.asarray(values > self.center - 0.5, np.float64)
        return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)


Origin: TypeAlias = Literal["request", "preset", "dicom", "percentile"]
"""Where a window comes from: the caller, a named preset, the object, the pixels' percentiles, or the range that 8
stored bits have."""


@dataclass(frozen=True, slots=True, eq=False)
class LookupTable:
    """A table of an object: a Modality LUT or a VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1).

    Attributes:
        first: the value that the first entry stands for; those below take it, those above the last one.
        entries: integers (N,).
        bits: of an entry.
    """

    first: int
    entries: npt.NDArray[np.int64]
    bits: int

    def __call__(self, values: F64) -> F64:
        index = np.clip(values - self.first, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.int64)].astype(np.float64)

    def fractions(self, values: F64) -> F64:
        """As a window's."""
        return np.clip(self(values) / ((1 << self.bits) - 1), 0, 1)

    def __str__(self) -> str:
        return f"LUT of {len(self.entries)} entries of {self.bits} bits"


@dataclass(frozen=True, slots=True)
class Rescale:
    """Stored values to units: ``slope * stored + intercept`` (PS3.3 C.11.1). Raises InvalidArgument."""

    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if not _finite(self.slope) or self.slope == 0:
            raise refused("slope", "must be a finite number other than 0")
        if not _finite(self.intercept):
            raise refused("intercept", "must be a finite number")

    def __call__(self, values: F64) -> F64:
        with np.errstate(over="ignore"):  # what is infinite then is beyond any window
            return values * self.slope + self.intercept

    def __str__(self) -> str:
        return f"slope {_text(self.slope)} intercept {_text(self.intercept)}"


IDENTITY = Rescale()


@dataclass(frozen=True, slots=True)
class StoredValues:
    """What stored values mean.

    Attributes:
        modality: to units.
        padding: values from the first to the last (inclusive) that stand for no measurement: Pixel Padding Value
            and its range limit. They become black.
        inverted: MONOCHROME1: the lowest value is white.
    """

    modality: Rescale | LookupTable = IDENTITY
    padding: tuple[float, float] | None = None
    inverted: bool = False

    def grey(
        self, stored: Values, voi: Window | LookupTable, used: Callable[[Values], Values] = np.asarray
    ) -> npt.NDArray[np.uint8]:
        """uint8 of the shape of ``stored``: 0 black to 255 white; ``used`` takes its bits that are stored.

        Values of up to 16 bits go through a table of all of them: 64 KiB beside the result, however large it is.
        """
        flat = np.ascontiguousarray(stored).reshape(-1)
        grey = np.empty(flat.size, np.uint8)
        bits = 8 * stored.dtype.itemsize
        if stored.dtype.kind in "iu" and bits <= _TABLE_BITS:
            patterns = np.arange(1 << bits, dtype=np.uint32).astype(f"u{bits // 8}")
            table = self._direct(used(patterns.view(f"{stored.dtype.kind}{bits // 8}")), voi)
            native = flat.astype(flat.dtype.newbyteorder("="), copy=False).view(patterns.dtype)
            for start in range(0, flat.size, _BLOCK):
                grey[start : start + _BLOCK] = table[native[start : start + _BLOCK]]
        else:
            for start in range(0, flat.size, _BLOCK):
                grey[start : start + _BLOCK] = self._direct(used(flat[start : start + _BLOCK]), voi)
        return grey.reshape(stored.shape)

    def percentile_window(self, stored: Values, lowest: float = 0.5, highest: float = 99.5) -> Window:
        """The window that shows the values between two percentiles of those that are no padding."""
        kept = stored[~self.padded(stored)]
        if kept.dtype.kind == "f":
            kept = kept[np.isfinite(kept)]
        if not kept.size:
            return Window(0, 1)
        ends = np.asarray(np.percentile(kept, (lowest, highest), method="nearest"), np.float64)
        low, high = sorted(float(each) for each in self.modality(ends))
        if not low < high or not math.isfinite(high - low):
            return Window(low if math.isfinite(low) else 0, 1)
        return Window(low + (high - low) / 2, high - low, "LINEAR_EXACT")

    def padded(self, stored: Values) -> npt.NDArray[np.bool_]:
        """Where a value stands for no measurement; of the shape of ``stored``."""
        if self.padding is None:
            return np.zeros(stored.shape, np.bool_)
        first, last = self.padding
        return np.asarray((stored >= first) & (stored <= last))

    def _direct(self, stored: Values, voi: Window | LookupTable) -> npt.NDArray[np.uint8]:
        values = self.modality(np.nan_to_num(stored.astype(np.float64)))
        levels = np.rint(voi.fractions(values) * 255).astype(np.uint8)
        if self.inverted:
            levels = 255 - levels
        levels[self.padded(stored)] = 0
        return levels


@dataclass(frozen=True, slots=True)
class AppliedWindow:
    """How stored values became the 8 bits that were sent. ``str()`` of it is what records hold.

    Attributes:
        voi: the window, or the object's own table.
        origin: where it comes from.
        modality: stored values to the window's units.
        inverted: whether the lowest value is white (MONOCHROME1).
    """

    voi: Window | LookupTable
    origin: Origin
    modality: Rescale | LookupTable = IDENTITY
    inverted: bool = False

    def __str__(self) -> str:
        polarity = ", inverted" if self.inverted else ""
        return f"{self.voi} ({self.origin}), {self.modality}{polarity}"


def used_bits(raw: Values, bits: int, high_bit: int) -> Values:
    """Values of the bits that are stored, the others (overlays, junk) cut off; ``raw``'s type says the sign.

    Args:
        raw: integers of the width that is allocated.
        bits: Bits Stored.
        high_bit: High Bit: ``bits - 1`` in all but old objects.
    """
    allocated = raw.dtype.itemsize * 8
    if bits >= allocated:
        return raw
    shifted: Values = np.left_shift(raw, raw.dtype.type(allocated - 1 - high_bit))
    return np.asarray(np.right_shift(shifted, raw.dtype.type(allocated - bits)))
