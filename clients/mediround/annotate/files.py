"""Files that are there whole or not at all.

Knows temporary names, flushing and renaming. Does not know what is written.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mediround.annotate.errors import JobError

UNFINISHED = ".unfinished-"
"""In the name of a file that is being written: what a killed run leaves, and the next one removes."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends well, and is removed when it does not.

    Raises:
        JobError: the file cannot be written, for example on a full disk.
    """
    unfinished = path.with_name(f"{path.name}{UNFINISHED}{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        _flush(unfinished)
        unfinished.replace(path)
        _flush(path.parent)
    except OSError as error:
        raise JobError(
            f"{path.name}: cannot be written ({error.strerror or error}); what is finished stays"
        ) from error
    finally:
        with suppress(OSError):  # what kept it from being written may keep it from being removed
            unfinished.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Raises JobError."""
    with atomic(path) as unfinished:
        unfinished.write_bytes(content)


def remove_unfinished(folder: Path) -> int:
    """What a killed run left of its files; how many. No other run may be at work in the folder."""
    removed = 0
    for path in folder.rglob(f"*{UNFINISHED}*"):
        path.unlink(missing_ok=True)
        removed += 1
    return removed


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
