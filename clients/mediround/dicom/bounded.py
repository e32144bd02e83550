"""A file that is read within bounds: a length that lies takes no memory, a header without end no time.

Knows bytes and counts. Does not know DICOM.
"""

from __future__ import annotations

import io
from typing import BinaryIO

from mediround.dicom.errors import TooLarge

_NO_BOUND = 1 << 62
_ELEMENT_BYTES = 8
"""Of tag, VR and length: where these are asked for and nothing is left, an object ends as it should."""


class BoundedFile(io.RawIOBase):
    """A view of a seekable file. Positions are the file's."""

    def __init__(self, file: BinaryIO, start: int, max_bytes: int = _NO_BOUND, max_reads: int = _NO_BOUND) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self._bytes, self._reads = max_bytes, max_reads
        self.cut = False
        """Whether more was asked for than is there."""
        self._position = file.seek(min(start, self._size))

    @property
    def size(self) -> int:
        return self._size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most what is left. Raises TooLarge beyond a bound."""
        left = max(self._size - self._position, 0)
        count = left if size is None or size < 0 else min(size, left)
        self._bytes, self._reads = self._bytes - count, self._reads - 1
        if self._bytes < 0 or self._reads < 0:
            raise TooLarge("the attributes before the pixel data must be fewer (mediround.dicom.limits)")
        data = self._file.read(count)
        self._position += len(data)
        if size is not None and len(data) < size and (data or size != _ELEMENT_BYTES):
            self.cut = True
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = self._file.seek(min(max(base + offset, 0), self._size))
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
