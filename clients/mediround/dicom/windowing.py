"""Which window a frame is shown by, and what its stored values mean.

Knows the attributes, and the order that counts: the request's window, a preset, the object's own, percentiles.
Does not know the formulas (``mediround.window``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from mediround.dicom.attributes import bad, byte_order, group, item, numbers, texts, words
from mediround.dicom.pixels import PixelModule
from mediround.errors import InvalidArgument
from mediround.window import (
    FUNCTIONS,
    IDENTITY,
    AppliedWindow,
    Function,
    LookupTable,
    Origin,
    Rescale,
    StoredValues,
    Window,
    WindowChoice,
    refused,
)

Samples = npt.NDArray[Any]

PRESETS: dict[str, Window] = {
    "abdomen": Window(50, 400),
    "bone": Window(400, 1800),
    "brain": Window(40, 80),
    "liver": Window(30, 150),
    "lung": Window(-600, 1500),
    "mediastinum": Window(50, 350),
    "stroke": Window(40, 40),
}
"""For CT, in Hounsfield units: values in common use."""

PERCENTILE = "percentile"
_MAX_ENTRIES = 1 << 16


@dataclass(frozen=True, slots=True)
class Shown:
    """What a window is chosen for: a frame's stored values, and what they mean."""

    header: Dataset
    module: PixelModule
    index: int
    stored: Samples
    values: StoredValues

    def own(self) -> list[Window | LookupTable]:
        """The object's windows, then its table (PS3.3 C.11.2). Raises BadAttribute."""
        place = group(self.header, "FrameVOILUTSequence", self.index)
        centers, widths = numbers(place, "WindowCenter"), numbers(place, "WindowWidth")
        if len(centers) != len(widths):
            raise bad("WindowWidth", "must have as many values as WindowCenter")
        function, own = _function(place), list[Window | LookupTable]()
        for center, width in zip(centers, widths, strict=True):
            try:
                own.append(Window(center, width, function))
            except InvalidArgument:
                words = "must be at least 1, or above 0 where VOILUTFunction is not LINEAR"
                raise bad("WindowWidth", words) from None
        table = item(place, "VOILUTSequence")
        signed = self.module.signed or self.values.modality != IDENTITY
        return own if table is None else [*own, _table(table, byte_order(self.header), signed=signed)]

    def by_percentile(self) -> AppliedWindow:
        return self.applied(self.values.percentile_window(self.stored), "percentile")

    def applied(self, voi: Window | LookupTable, origin: Origin) -> AppliedWindow:
        return AppliedWindow(voi, origin, self.values.modality, self.values.inverted)


def stored_values(header: Dataset, module: PixelModule, index: int) -> StoredValues:
    """What a frame's stored values mean. Raises BadAttribute."""
    return StoredValues(
        _modality(header, index, module.signed), _padding(header, module), module.photometric == "MONOCHROME1"
    )


def chosen(choice: WindowChoice, shown: Shown) -> AppliedWindow:
    """The window that a frame is shown by.

    Raises:
        InvalidArgument: it cannot be what was asked for.
        BadAttribute: the object's own cannot be one.
    """
    match choice:
        case None:
            own = shown.own()
            return shown.applied(own[0], "dicom") if own else shown.by_percentile()
        case str():
            if choice == PERCENTILE:
                return shown.by_percentile()
            return shown.applied(_preset(choice, shown.header), "preset")
        case int() if not isinstance(choice, bool):
            own = shown.own()
            if not 1 <= choice <= len(own):
                raise refused("", f"must be from 1 to the {len(own)} windows that the object has")
            return shown.applied(own[choice - 1], "dicom")
        case _:
            return shown.applied(_requested(choice), "request")


def _requested(choice: Any) -> Window:
    if isinstance(choice, Window):
        return choice
    if isinstance(choice, tuple) and len(choice) == 2:
        return Window(*choice)
    raise refused("", "must be a window, (center, width), a preset's name, or a number")


def _preset(name: str, header: Dataset) -> Window:
    preset = PRESETS.get(name)
    if preset is None:
        raise refused("", f"must be a window, or one of {', '.join(sorted(PRESETS))}, {PERCENTILE}")
    if texts(header, "Modality") != ("CT",):
        raise refused("", "must be no preset: they are in Hounsfield units, for CT alone")
    return preset


def _function(place: Dataset) -> Function:
    names = texts(place, "VOILUTFunction")
    if not names:
        return "LINEAR"
    for function in FUNCTIONS:
        if function == names[0]:
            return function
    raise bad("VOILUTFunction", f"must be one of {', '.join(FUNCTIONS)}")


def _modality(header: Dataset, index: int, signed: bool) -> Rescale | LookupTable:
    place = group(header, "PixelValueTransformationSequence", index)
    if (table := item(place, "ModalityLUTSequence")) is not None:
        return _table(table, byte_order(header), signed=signed)
    slope, intercept = numbers(place, "RescaleSlope"), numbers(place, "RescaleIntercept")
    try:
        return Rescale(slope[0] if slope else 1.0, intercept[0] if intercept else 0.0)
    except InvalidArgument:
        raise bad("RescaleSlope", "must not be 0") from None


def _table(holder: Dataset, order: str, *, signed: bool) -> LookupTable:
    descriptor = numbers(holder, "LUTDescriptor")
    if len(descriptor) != 3 or any(each != int(each) for each in descriptor):
        raise bad("LUTDescriptor", "must be three whole numbers")
    count, first, bits = (int(each) for each in descriptor)
    count = count & 0xFFFF or _MAX_ENTRIES
    first = first - (1 << 16) if signed and first >= 1 << 15 else first
    if not 8 <= bits <= 16:
        raise bad("LUTDescriptor", "must name 8 to 16 bits")
    entries = _entries(holder, count, order)
    if entries.size < count:
        raise bad("LUTData", "must have as many entries as LUTDescriptor says")
    return LookupTable(first, entries[:count], bits)


def _entries(holder: Dataset, count: int, order: str) -> npt.NDArray[np.int64]:
    """US or OW; entries of 8 bits may stand two a word (PS3.3 C.11.1.1.1)."""
    found = words(holder, "LUTData", order)
    if found is None:
        return np.zeros(0, np.int64)
    if found.size < count <= 2 * found.size:
        return found.astype("<u2").view(np.uint8).astype(np.int64)
    return found.astype(np.int64)


def _padding(header: Dataset, module: PixelModule) -> tuple[float, float] | None:
    """Pixel Padding Value to its range limit, as stored values (PS3.3 C.7.5.1.1.2)."""
    bits = module.stored
    first = _stored_number(numbers(header, "PixelPaddingValue"), bits, module.signed)
    if first is None:
        return None
    limit = _stored_number(numbers(header, "PixelPaddingRangeLimit"), bits, module.signed)
    last = first if limit is None else limit
    return min(first, last), max(first, last)


def _stored_number(found: tuple[float, ...], bits: int, signed: bool) -> float | None:
    """Of either sign, whichever VR its writer chose."""
    if not found:
        return None
    number = found[0]
    if signed and number >= 1 << (bits - 1) and number < 1 << 16:
        return number - (1 << max(bits, 16)) if number >= 1 << 15 else number
    return number + (1 << bits) if not signed and number < 0 else number
