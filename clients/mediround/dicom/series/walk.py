"""The files of a folder, within limits.

Knows directories, links and what is no file. Does not open any file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mediround.dicom.series.stack import SetAside

MAX_DEPTH = 32
"""Folders within folders."""
MAX_FILES = 100_000


def files(folder: Path) -> Iterator[Path | SetAside]:
    """Regular files below a folder in the order of their names, and what is left out. Links to folders are not
    followed, so that none leads in a circle; links to files are.

    Raises:
        OSError: the folder itself cannot be read.
    """
    os.listdir(folder)  # noqa: PTH208  # raises here what a person must know at once
    count = 0
    for each in _below(folder, 0):
        if isinstance(each, Path):
            count += 1
            if count > MAX_FILES:
                yield SetAside(folder, None, "too_many", f"more than {MAX_FILES} files: the rest is not read")
                return
        yield each


def _below(folder: Path, depth: int) -> Iterator[Path | SetAside]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield SetAside(folder, None, "unreadable", f"the folder cannot be read ({type(error).__name__})")
        return
    for entry in entries:
        path = Path(entry.path)
        try:
            kind = path.stat().st_mode
        except OSError as error:  # a link to nothing, or in a circle
            yield SetAside(path, None, "unreadable", f"cannot be read ({type(error).__name__})")
            continue
        if stat.S_ISREG(kind):
            yield path
        elif not stat.S_ISDIR(kind):
            yield SetAside(path, None, "unreadable", "is no file: a pipe, a socket or a device")
        elif entry.is_symlink():
            yield SetAside(path, None, "unreadable", "is a link to a folder, which is not followed")
        elif depth >= MAX_DEPTH:
            yield SetAside(path, None, "too_many", f"lies more than {MAX_DEPTH} folders deep")
        else:
            yield from _below(path, depth + 1)
