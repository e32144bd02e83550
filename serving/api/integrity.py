"""Integrity of image files: a file of which a part is missing or damaged is refused.

Pillow fills gaps with grey where the format allows it, and drops its libraries' warnings. Here every byte that
pixels depend on is accounted for: chunks and checksums (PNG), segments up to the end of the image and a strict
decode (JPEG), the directory and every strip (TIFF). Damage that makes another valid stream cannot be detected.
Knows the containers of these three formats. Does not know what pixels mean, or which images are served.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

import simplejpeg

from serving.errors import InvalidInput

FIELD = "image"
MAX_SCANS = 100
"""Scans of a JPEG. An encoder writes about ten; each costs a pass over the whole image."""

_PNG_SIGNATURE_BYTES = 8
_EOI, _SOS, _FILL = 0xD9, 0xDA, 0xFF
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
"""Frames of DCT coefficients, sequential and progressive."""
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends a scan's data: not a stuffed byte, a restart or a fill byte."""

UNCOMPRESSED, LZW, JPEG, PACKBITS = 1, 5, 7, 32773
DEFLATE = frozenset({8, 32946})
COMPRESSIONS = frozenset({UNCOMPRESSED, LZW, JPEG, PACKBITS}) | DEFLATE
"""Of a TIFF: those whose damage is seen, by their decoder or here. A fax's decoder, for one, fills in white."""
_STEP = 1 << 20


def check_png(payload: bytes) -> None:
    """Raises InvalidInput unless chunks follow one another up to IEND, each with its checksum."""
    view, position = memoryview(payload), _PNG_SIGNATURE_BYTES
    while True:
        try:
            length, kind = struct.unpack_from(">I4s", payload, position)
            (checksum,) = struct.unpack_from(">I", payload, position + 8 + length)
        except struct.error:
            raise _truncated() from None
        if zlib.crc32(view[position + 4 : position + 8 + length]) != checksum:
            raise InvalidInput(FIELD, "is a damaged PNG: a checksum does not match")
        if kind == b"IEND":
            return
        position += 12 + length


def check_jpeg(payload: bytes) -> None:
    """Raises InvalidInput for more scans than ``MAX_SCANS``, and unless the image is there up to its end marker.

    What follows the end (a phone's film) is none of the image.
    """
    _check_scans(payload)
    check_jpeg_data(payload)


def check_jpeg_data(payload: bytes) -> None:
    """Raises InvalidInput where libjpeg itself knows that data are missing or corrupt."""
    try:
        # An eighth of the size: the data are read in full, and most of the arithmetic is left out.
        simplejpeg.decode_jpeg(payload, "GRAY", min_height=1, min_width=1, strict=True)
    except ValueError as error:
        # libjpeg's own words and numbers; nothing of the file.
        raise InvalidInput(FIELD, f"is a truncated or damaged JPEG ({error}); send the original file") from None


def check_extents(payload: bytes) -> None:
    """Raises InvalidInput unless a TIFF's first directory, and all that its entries point to, lies in the file."""
    order = "<" if payload[:2] == b"II" else ">"
    big = payload[2:4] in {b"\x2b\x00", b"\x00\x2b"}
    count_form, entry_form, next_bytes = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
    try:
        (offset,) = struct.unpack_from(order + ("8xQ" if big else "4xI"), payload)
        (entries,) = struct.unpack_from(order + count_form, payload, offset)
        position = offset + struct.calcsize(count_form)
        step = struct.calcsize("<" + entry_form)
        if position + entries * step + next_bytes > len(payload):
            raise _truncated()
        for _ in range(entries):
            _, kind, count, value = struct.unpack_from(order + entry_form, payload, position)
            nbytes = sizes.get(kind, 0) * count
            at = int.from_bytes(value, "little" if order == "<" else "big")
            if nbytes > len(value) and at + nbytes > len(payload):
                raise _truncated()
            position += step
    except struct.error:
        raise _truncated() from None


def check_strip(strip: bytes, compression: int, tables: bytes, allowed: int) -> None:
    """Raises InvalidInput for a strip or tile of a TIFF that is damaged where Pillow would not say so.

    ``tables``: JPEG tables that all strips share, or none. ``allowed``: bytes or pixels that a strip may have.
    """
    if compression == JPEG:
        whole = tables[:-2] + strip[2:] if tables else strip
        height, width = _jpeg_size(whole)
        if height * width > allowed:
            raise InvalidInput(FIELD, "is a malformed TIFF: a strip is larger than the image")
        check_jpeg(whole)
    elif compression in DEFLATE:
        _check_deflate(strip, allowed)


def _check_deflate(strip: bytes, allowed: int) -> None:
    stream, left, nbytes = zlib.decompressobj(), strip, 0
    try:
        while not stream.eof:
            out = stream.decompress(left, _STEP)
            left, nbytes = stream.unconsumed_tail, nbytes + len(out)
            if not out and not left and not stream.eof:
                raise _truncated()
            if nbytes > allowed:
                raise InvalidInput(FIELD, "is a malformed TIFF: a strip is larger than the image")
    except zlib.error:
        raise InvalidInput(FIELD, "is a damaged TIFF: a checksum does not match") from None


def _jpeg_size(payload: bytes) -> tuple[int, int]:
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(payload)
    except ValueError as error:
        raise InvalidInput(FIELD, f"is a truncated or damaged JPEG ({error}); send the original file") from None
    return height, width


def _check_scans(payload: bytes) -> None:
    """Raises InvalidInput for too many scans, and unless they bring each coefficient in full."""
    scans, left = 0, dict[int, list[int]]()
    for marker, body in _segments(payload):
        if marker in _FRAMES:
            left = {component: [1] * 64 for component in body[6::3]}
        elif marker == _SOS and body:
            scans += 1
            chosen, (first, last, precision) = body[1 : 1 + 2 * body[0] : 2], body[-3:]
            for component in chosen:
                if component in left:
                    left[component][first : last + 1] = [precision & 15] * (min(last, 63) + 1 - first)
    if scans > MAX_SCANS:
        raise InvalidInput(FIELD, f"must be a JPEG of at most {MAX_SCANS} scans; save it again")
    if not scans or any(any(bits) for bits in left.values()):
        raise InvalidInput(FIELD, "is a truncated JPEG: some of its scans are missing; send the original file")


def _segments(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers and their bodies, up to the end of the image. A thumbnail lies in a body, a film behind the end."""
    position = 2
    while True:
        if position + 1 >= len(payload) or payload[position] != _FILL:
            raise _truncated()
        marker = payload[position + 1]
        if marker == _FILL:
            position += 1
            continue
        position += 2
        if marker == _EOI:
            return
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(payload[position : position + 2], "big")
        yield marker, payload[position + 2 : position + length]
        position += length
        if marker == _SOS:
            match = _MARKER_IN_SCAN.search(payload, position)
            if match is None:
                raise _truncated()
            position = match.start()


def _truncated() -> InvalidInput:
    return InvalidInput(FIELD, "is truncated or malformed; send the original file")
