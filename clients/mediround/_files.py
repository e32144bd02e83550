"""A file's bytes, so many at most: what a path names may be of any size, or never end.

Knows files and pipes. Does not know what they hold, or how a caller is told.
"""

from __future__ import annotations

import stat
from pathlib import Path

_PART_BYTES = 1 << 20


class BadFile(Exception):
    """It is not read; ``str(error)`` says what it must be, and does not name it."""


def content(path: Path, most: int) -> bytes:
    """All that a file holds, or that comes through a pipe, which is read once.

    Raises:
        BadFile: it holds more than ``most`` bytes, or is a device.
        OSError: it cannot be read.
        ValueError: no file can have this path.
    """
    found = path.stat()
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        raise BadFile("must be a file, not a device")
    if found.st_size > most:
        raise _too_large(most)
    with path.open("rb") as file:
        parts, size = [file.read(found.st_size)], found.st_size
        while part := file.read(_PART_BYTES):  # a pipe, or a file that has grown
            parts.append(part)
            size += len(part)
            if size > most:
                raise _too_large(most)
    return b"".join(parts)  # the file's own bytes where they are the only part


def _too_large(most: int) -> BadFile:
    return BadFile(f"must hold at most {most} bytes")
