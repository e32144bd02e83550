"""Colour samples made RGB of 8 bits: palettes, and more than 8 bits a channel.

Knows PS3.3 C.7.6.3.1.5 (palettes) and C.7.9.2 (segmented ones). YBR is made RGB by the decoder. Does not know
windows: colour has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from mediround.dicom.attributes import bad, byte_order, value_of, words
from mediround.dicom.decoding import DecodedFrame
from mediround.dicom.pixels import COLOURS, PALETTE, PixelModule
from mediround.dicom.quiet import MALFORMED, quiet

Pixels = npt.NDArray[np.uint8]

_CHANNELS = ("Red", "Green", "Blue")
_MAX_ENTRIES = 1 << 16
_DISCRETE, _LINEAR, _INDIRECT = range(3)


def rgb(frame: DecodedFrame, module: PixelModule, header: Dataset) -> Pixels:
    """uint8 (H, W, 3). Raises BadAttribute."""
    if module.photometric == PALETTE:
        return _of_palette(frame.samples, header)
    if frame.photometric in COLOURS and frame.photometric.startswith("YBR"):
        raise bad("PhotometricInterpretation", "must be one that the decoder makes RGB of")
    return _eight_bits(frame.samples, module.stored)


def _of_palette(samples: npt.NDArray[Any], header: Dataset) -> Pixels:
    for channel in _CHANNELS:
        _check_segments(header, f"Segmented{channel}PaletteColorLookupTableData")
    with quiet():
        try:
            coloured = apply_color_lut(samples, _palette(header))
        except MALFORMED as error:
            name = "RedPaletteColorLookupTableDescriptor"
            raise bad(name, f"the palette must be complete ({type(error).__name__})") from None
    return _eight_bits(coloured, 8 * coloured.dtype.itemsize)


def _palette(header: Dataset) -> Dataset:
    """The palette in little endian: pydicom takes plain tables for such, whatever the object is in."""
    palette = Dataset()
    palette.set_original_encoding(False, True)
    for channel in _CHANNELS:
        for prefix, suffix in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data")):
            keyword = f"{prefix}{channel}PaletteColorLookupTable{suffix}"
            value = value_of(header, keyword)
            if isinstance(value, bytes) and byte_order(header) == ">":
                value = np.frombuffer(value[: len(value) // 2 * 2], "u2").byteswap().tobytes()
            if value is not None:
                palette.add_new(keyword, "OW" if suffix == "Data" else "US", value)
    return palette


def _check_segments(header: Dataset, keyword: str) -> None:
    """Refuse segments that stand for more entries than a table may have: a few bytes could stand for gigabytes."""
    data = words(header, keyword, byte_order(header))
    if data is None:
        return
    segments = data.tolist()
    position, entries, largest = 0, 0, 0
    while position + 1 < len(segments):
        kind, length = segments[position], segments[position + 1]
        if kind not in {_DISCRETE, _LINEAR, _INDIRECT}:
            raise bad(keyword, "must hold segments of kind 0, 1 or 2")
        size = length * max(largest, 1) if kind == _INDIRECT else length
        largest, entries = max(largest, length), entries + size
        position += {_DISCRETE: 2 + length, _LINEAR: 3, _INDIRECT: 4}[kind]
        if entries > _MAX_ENTRIES:
            raise bad(keyword, f"must stand for at most {_MAX_ENTRIES} entries")


def _eight_bits(samples: npt.NDArray[Any], bits: int) -> Pixels:
    if samples.dtype == np.uint8 and bits == 8:
        return samples
    highest = (1 << bits) - 1
    clipped = np.clip(samples, 0, highest).astype(np.uint32)
    return np.asarray((clipped * 255 + highest // 2) // highest, np.uint8)
