"""Room on a disk, looked for before anything is written to it.

Knows how much is free, and which places share a disk. Does not know what it is for.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from exporters.byte_progress import gigabytes
from exporters.errors import DiskFullError
from exporters.progress import Progress

MARGIN = 1.02
SPARE = 64 << 20
"""Bytes beyond the margin: small files, and the file system's own."""


def check_room(out: Path, nbytes: int, advice: str, progress: Progress) -> None:
    """Say what is needed and what is free where ``out`` will be.

    Raises:
        DiskFullError: too little; ``advice`` is the rest of the message.
    """
    needed = int(nbytes * MARGIN) + SPARE
    free = shutil.disk_usage(_existing(out)).free
    words = f"{out} needs {gigabytes(needed)} of disk, {gigabytes(free)} are free"
    if free < needed:
        raise DiskFullError(f"{words}: free some, or name another --out{advice}.")
    progress(words)


def on_one_disk(out: Path, other: Path) -> bool:
    """Whether what is deleted of ``other`` makes room where ``out`` will be."""
    return _existing(out).stat().st_dev == _existing(other).stat().st_dev


def _existing(path: Path) -> Path:
    """The path itself, or the nearest directory above it that is there."""
    path = path.resolve()
    return path if path.exists() else _existing(path.parent)
