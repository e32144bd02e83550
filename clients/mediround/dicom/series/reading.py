"""``read_series``: what a folder, a file or a list of objects holds, as stacks.

Knows the order of work: find, read headers, group. One object that cannot be read hurts no other.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from pathlib import Path

from pydicom.dataset import Dataset

from mediround.dicom.errors import DicomError, NoImage, NotDicom
from mediround.dicom.series.grouping import stacks_of
from mediround.dicom.series.headers import ObjectHeader, object_header
from mediround.dicom.series.stack import Reason, SeriesReading, SetAside
from mediround.dicom.series.walk import files
from mediround.dicom.source import DicomSource, opened

MAX_FRAMES = 200_000
"""Of all objects that are read together; a frame takes about 1 KiB."""


def read_series(
    sources: DicomSource | Iterable[DicomSource], *, progress: Callable[[int], None] | None = None
) -> SeriesReading:
    """Stacks of the frames of a folder (with all below it), a file, a data set, or a list of files and data sets.

    Args:
        sources: paths, bytes of Part 10 files, or pydicom data sets.
        progress: is told how many objects were read so far.

    Raises:
        OSError: the one path that was given cannot be read. Of a folder or a list, what cannot be read is in
            ``set_aside``, and the rest is read.
    """
    aside: list[SetAside] = []
    stacks, more = stacks_of(_headers(_objects(sources, aside), aside, progress))
    return SeriesReading(tuple(stacks), (*aside, *more))


def _objects(sources: object, aside: list[SetAside]) -> Iterator[DicomSource]:
    match sources:
        case bytes() | bytearray() | Dataset():
            yield sources
        case str() | PathLike():
            path = Path(sources)
            kind = path.stat().st_mode  # raises what a person must know
            if not stat.S_ISDIR(kind):
                if not stat.S_ISREG(kind):
                    raise NotDicom("must be a file or a folder")
                yield path
                return
            for each in files(path):
                if isinstance(each, SetAside):
                    aside.append(each)
                else:
                    yield each
        case Iterable():
            yield from sources
        case _:
            raise NotDicom("must be a path, the bytes of a file, a pydicom data set, or a list of them")


def _headers(
    objects: Iterator[DicomSource], aside: list[SetAside], progress: Callable[[int], None] | None
) -> Iterator[ObjectHeader]:
    frames = 0
    for count, source in enumerate(objects, start=1):
        if progress:
            progress(count)
        try:
            header = object_header(source, opened(source))
        except (DicomError, OSError) as error:
            aside.append(SetAside(source, None, _reason(error), _words(error)))
            continue
        frames += len(header.frames)
        if frames > MAX_FRAMES:
            aside.append(
                SetAside(source, None, "too_many", f"more than {MAX_FRAMES} frames: the rest is not read")
            )
            return
        yield header


def _reason(error: DicomError | OSError) -> Reason:
    match error:
        case OSError():
            return "unreadable"
        case NotDicom():
            return "not_dicom"
        case NoImage():
            return "no_image"
        case _:
            return "refused"


def _words(error: DicomError | OSError) -> str:
    """An OSError's own words name the file."""
    return f"cannot be read ({type(error).__name__})" if isinstance(error, OSError) else str(error)
