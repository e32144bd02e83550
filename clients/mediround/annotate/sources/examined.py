"""Files of a source: found, hashed, and told apart by what they begin with.

Knows files. Does not know dialogues.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote_from_bytes

from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.items import MAX_FILE_BYTES
from mediround.annotate.loading import read
from mediround.annotate.ours import is_ours_here
from mediround.annotate.sorting import in_order
from mediround.annotate.sources.omissions import Omissions

Content: TypeAlias = Literal["picture", "dicom", "other"]
Place: TypeAlias = Path | str
"""Of a file: on this machine, or its address in an object store."""
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")
_PREAMBLE_BYTES, _PREFIX = 128, b"DICM"
HEAD_BYTES = _PREAMBLE_BYTES + len(_PREFIX)
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class ExaminedFile:
    """A file as it was when it was listed.

    Attributes:
        uri: where it lies, ``file://``, percent-encoded, whatever bytes its name has.
        sha256: of its content, hex.
        size: in bytes.
        content: what it begins as.
        readable: what its content is read from.
    """

    uri: str
    sha256: str
    size: int
    content: Content
    readable: Path | bytes = field(repr=False)


def place_of(root: Place, name: str) -> Place:
    """Of a file that a table names: below its root, or by an address. Raises ItemError: it may not be read."""
    if "://" in name:
        if isinstance(root, str) and name.startswith("file:"):
            words = "a table whose paths begin in a store must name no file of this machine"
            raise ItemError("UNSUPPORTED", words)
        return name
    return f"{root.rstrip('/')}/{name}" if isinstance(root, str) else root / name


def uri_of(place: Place) -> str:
    if isinstance(place, str):
        return place
    return "file://" + quote_from_bytes(os.fsencode(place.absolute()))


@contextmanager
def stores_needed() -> Iterator[None]:
    """Raises SourceError where the block needs the extra, and it is not installed."""
    try:
        yield
    except ModuleNotFoundError as missing:
        words = "object stores need fsspec: in the repository, pip install './clients[annotate,s3]'"
        raise SourceError(words) from missing


def bytes_of(place: Place) -> bytes:
    """A file's content. Raises ItemError; SourceError: the extra is not installed."""
    with stores_needed():
        return read(uri_of(place))


def files_below(folder: Path, omissions: Omissions) -> Iterator[Path]:
    """Every file, sorted folder by folder; links to folders are not followed, so that none is entered twice. What
    lies in a folder of a job, a run or a report of ours is none of a source's.

    Raises:
        SourceError: the folder cannot be listed. One below that cannot is left out, as ``omissions`` then says.
    """
    open_folders = [(folder, _entries(folder, omissions))]  # no recursion: paths may be deeper than the stack
    while open_folders:
        parent, entries = open_folders[-1]
        try:
            name, kind = next(entries, (b"", ""))
        except OSError as error:
            if parent is folder:
                raise SourceError(f"the folder cannot be listed ({error.strerror})") from error
            omissions.add("unlistable_folder", uri_of(parent))
            kind = ""
        if not kind:
            open_folders.pop()
            continue
        path = parent / os.fsdecode(name)
        if kind == "folder":
            open_folders.append((path, _entries(path, omissions)))
        elif kind == "link" and _leads_to_folder(path):
            omissions.add("linked_folder", uri_of(path))
        else:
            yield path


def _leads_to_folder(link: Path) -> bool:
    try:
        return link.is_dir()
    except OSError:  # who reads it says why it cannot be
        return False


def _entries(folder: Path, omissions: Omissions) -> Iterator[tuple[bytes, str]]:
    """Names and kinds, sorted; none of a folder of ours. Raises OSError, at the first."""

    def listed() -> Iterator[tuple[bytes, str]]:
        if is_ours_here(folder):
            omissions.add("ours", uri_of(folder))
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                kind = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file"
                yield os.fsencode(entry.name), kind

    return in_order(listed())


def examined(place: Place) -> ExaminedFile:
    """Read and hash a file. Raises ItemError: it cannot be read, or is no regular file of a bearable size."""
    if isinstance(place, Path):
        return _examined(place)
    content = bytes_of(place)
    digest = hashlib.sha256(content).hexdigest()
    return ExaminedFile(place, digest, len(content), content_of(content[:HEAD_BYTES]), content)


def _examined(path: Path) -> ExaminedFile:
    digest, size, head = hashlib.sha256(), 0, b""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ItemError("UNREADABLE", "must be a regular file")
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                head = head or piece[:HEAD_BYTES]
                digest.update(piece)
                size += len(piece)
                if size > MAX_FILE_BYTES:
                    raise ItemError("TOO_LARGE", f"the file must hold at most {MAX_FILE_BYTES >> 20} MiB")
    except FileNotFoundError:
        raise ItemError("NO_IMAGE", "there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero in the name
        raise ItemError("UNREADABLE", f"the file cannot be read ({type(error).__name__})") from error
    return ExaminedFile(uri_of(path), digest.hexdigest(), size, content_of(head), path)


def content_of(head: bytes) -> Content:
    """What a file is whose first ``HEAD_BYTES`` these are."""
    if head[_PREAMBLE_BYTES:] == _PREFIX:  # first: the preamble may be another file's beginning, a TIFF's
        return "dicom"
    return "picture" if head.startswith(_PICTURES) else "other"
