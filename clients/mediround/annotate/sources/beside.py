"""Images that lie in a table's folder without a row of it.

Knows files by what they are on the disk, whatever path leads there. Does not know tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.sorting import Names, names
from mediround.annotate.sources import dicom_files
from mediround.annotate.sources.examined import HEAD_BYTES, Place, content_of, files_below, uri_of
from mediround.annotate.sources.omissions import Omissions

MOST_READ = 100_000
"""Files without a row whose beginning is read: a table may lie in a folder of millions."""


class Searched:
    """A folder that is searched once all rows are known. Made by ``of``."""

    def __init__(self, root: Place, named: Names, omissions: Omissions) -> None:
        self._root, self._named, self._omissions = root, named, omissions

    @classmethod
    @contextmanager
    def of(cls, root: Place, omissions: Omissions) -> Iterator[Searched]:
        """``root``: where the table's paths begin; an address is not searched, for each file would be fetched."""
        with names() as named:
            yield cls(root, named, omissions)

    def name(self, *places: Place) -> None:
        """Files that a row names."""
        for place in places:
            if isinstance(place, Path) and (identity := _identity(place)):
                self._named.add(identity)

    def rest(self) -> None:
        """Count the images that no row names."""
        if isinstance(self._root, str):
            return
        try:
            self._count(self._root)
        except SourceError:
            self._omissions.add("unlistable_folder", uri_of(self._root))

    def _count(self, folder: Path) -> None:
        read = 0
        for path in files_below(folder, self._omissions):
            if _identity(path) in self._named:
                continue
            read += 1
            if read > MOST_READ:
                self._omissions.add("not_searched", uri_of(folder))
                return
            if _is_image(path):
                self._omissions.add("no_row", uri_of(path))


def _identity(path: Path) -> str:
    """Empty where there is no such file."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a zero in the name
        return ""
    return f"{status.st_dev} {status.st_ino}"


def _is_image(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            content = content_of(file.read(HEAD_BYTES))
        return content == "picture" or (content == "dicom" and any(dicom_files.frames_of(path, None)))
    except (OSError, ItemError):
        return False
