"""Files that are there whole or not at all.

Knows temporary names, flushing and renaming, locks, and names that say what a file holds. Does not know what is
written.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from mediround.annotate.errors import JobError

UNFINISHED = ".unfinished-"
"""In the name of a file that is being written: what a killed run leaves, and the next one removes."""

_DIGITS = 16
_NAMED = re.compile(rf"-([0-9a-f]{{{_DIGITS}}})\.[a-z]+$")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends well, and is removed when it does not.

    Raises:
        JobError: the file cannot be written, for example on a full disk.
    """
    with _begun(path) as unfinished:
        yield unfinished
        _finish(unfinished, path)


def write_named(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file whose name ends in what it holds: ``NAME-DIGEST.SUFFIX`` for ``NAME.SUFFIX``. Its path; whether
    its bytes are still the same is ``is_as_named``'s to tell. Raises JobError, as ``atomic`` does.
    """
    with _begun(path) as unfinished:
        write(unfinished)
        named = path.with_name(f"{path.stem}-{file_digest(unfinished)[:_DIGITS]}{path.suffix}")
        _finish(unfinished, named)
    return named


def is_as_named(path: Path) -> bool | None:
    """Whether a file holds what its name says; None: its name says nothing. Raises OSError."""
    named = _NAMED.search(path.name)
    return file_digest(path).startswith(named[1]) if named else None


def file_digest(path: Path) -> str:
    """SHA-256, hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises JobError where the block cannot write ``path``, for example on a full disk."""
    try:
        yield
    except OSError as error:
        raise JobError(
            f"{path.name}: cannot be written ({error.strerror or error}); what is finished stays"
        ) from error


@contextmanager
def _begun(path: Path) -> Iterator[Path]:
    unfinished = path.with_name(f"{path.name}{UNFINISHED}{secrets.token_hex(4)}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
    finally:
        with suppress(OSError):  # what kept it from being written may keep it from being removed
            unfinished.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Raises JobError."""
    with atomic(path) as unfinished:
        unfinished.write_bytes(content)


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Whether a lock is ours while the block runs, alone or with others that share it. A process that ends gives
    its locks back, however it ends.

    Args:
        wait: until it is; else what another holds is not ours.

    Raises:
        JobError: the file cannot be made, or the disk locks none.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        file = path.open("a+")  # to be read as well: over NFS a shared lock needs it
    except OSError as error:
        raise JobError(f"{path.name}: cannot be written ({error.strerror}); what is finished stays") from error
    with file:
        try:
            fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError as error:
            words = (
                f"{path.name}: cannot be locked ({error.strerror}): the folder must be on a disk that locks files"
            )
            raise JobError(words) from error
        else:
            yield True


def remove_unfinished(place: Path) -> int:
    """What was left unfinished, by who was killed, of a file or of those in a folder; how many. Nobody else may be
    writing them.
    """
    removed = 0
    for path in (*place.parent.glob(f"{escape(place.name)}{UNFINISHED}*"), *place.rglob(f"*{UNFINISHED}*")):
        path.unlink(missing_ok=True)
        removed += 1
    return removed


def _finish(unfinished: Path, path: Path) -> None:
    _flush(unfinished)
    unfinished.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
