"""Limits of what is read from one DICOM object, as values.

Knows numbers and units. Does not know where they are enforced.
"""

from __future__ import annotations

MAX_HEADER_BYTES = 64 << 20
"""All attributes but the pixel data; an enhanced object has about 2 KiB a frame."""
MAX_HEADER_READS = 2_000_000
"""Pieces of the header that are read, two or three an attribute: what bounds the time."""
MAX_INFLATED_BYTES = 512 << 20
"""Of an object in Deflated Explicit VR Little Endian."""
MAX_FRAME_PIXELS = 1 << 26
"""Rows times columns of one frame, before and after pixels are made square: 8192 x 8192."""
MAX_PIXEL_RATIO = 16
"""A pixel's longer side over its shorter."""
MAX_FRAMES = 1 << 20
DECODE_SECONDS = 5.0
"""That one compressed frame may take, and as many more as it has millions of samples."""
START_SECONDS = 60.0
"""That the process that decodes may take to start."""
DECODE_BYTES = 4 << 30
"""Address space of the process that decodes."""
