"""Files of a source: found, hashed, and told apart by what they begin with.

Knows files. Does not know dialogues.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote_from_bytes

from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.loading import MAX_FILE_BYTES

Content: TypeAlias = Literal["picture", "dicom", "other"]
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")
_PREAMBLE_BYTES, _PREFIX = 128, b"DICM"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class ExaminedFile:
    """A file as it was when it was listed.

    Attributes:
        uri: where it lies, ``file://``, percent-encoded, whatever bytes its name has.
        sha256: of its content, hex.
        size: in bytes.
        content: what it begins as.
    """

    uri: str
    sha256: str
    size: int
    content: Content


def uri_of(path: Path) -> str:
    return "file://" + quote_from_bytes(os.fsencode(path.absolute()))


def files_below(folder: Path) -> Iterator[Path]:
    """Every file, sorted folder by folder; links to folders are not followed, so that none is entered twice.

    Raises:
        SourceError: the folder cannot be listed. A folder below that cannot is left out.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise SourceError(f"the folder cannot be listed ({error.strerror})") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            try:
                yield from files_below(Path(entry.path))
            except SourceError:
                continue
        elif not (entry.is_symlink() and Path(entry.path).is_dir()):
            yield Path(entry.path)


def examined(path: Path) -> ExaminedFile:
    """Read and hash a file. Raises ItemError: it cannot be read, or is no regular file of a bearable size."""
    digest, size, head = hashlib.sha256(), 0, b""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ItemError("UNREADABLE", "must be a regular file")
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                head = head or piece[: _PREAMBLE_BYTES + len(_PREFIX)]
                digest.update(piece)
                size += len(piece)
                if size > MAX_FILE_BYTES:
                    raise ItemError("TOO_LARGE", f"the file must hold at most {MAX_FILE_BYTES >> 20} MiB")
    except FileNotFoundError:
        raise ItemError("NO_IMAGE", "there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero in the name
        raise ItemError("UNREADABLE", f"the file cannot be read ({type(error).__name__})") from error
    return ExaminedFile(uri_of(path), digest.hexdigest(), size, _content(head))


def examined_content(uri: str, content: bytes) -> ExaminedFile:
    """Of a file that is not on this machine."""
    return ExaminedFile(uri, hashlib.sha256(content).hexdigest(), len(content), _content(content[:132]))


def _content(head: bytes) -> Content:
    if head[_PREAMBLE_BYTES:] == _PREFIX:  # first: the preamble may be another file's beginning, a TIFF's
        return "dicom"
    return "picture" if head.startswith(_PICTURES) else "other"
