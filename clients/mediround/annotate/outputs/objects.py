"""SEG objects of a run, as files and in an archive.

Knows names of files, which say nothing of a series but a digest. Does not know what objects hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from mediround._records import EngineRecord
from mediround.annotate.errors import SourceError
from mediround.annotate.job import RunIdentity
from mediround.annotate.outputs.kept import Export
from mediround.annotate.outputs.segmentations import SeriesResult, segmentations
from mediround.annotate.results import Result
from mediround.dicom.results import encode

_DIGITS = 16
_UNFINISHED = "not stored, since not all of their items are finished: run, then export again"


@dataclass(slots=True)
class Objects:
    """What was written.

    Attributes:
        series: for which there are objects.
        objects: of them.
        problems: series that have none, or are not in the archive as they are here, by reason.
    """

    series: int = 0
    objects: int = 0
    problems: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Stored:
    """What an archive has of one series.

    Attributes:
        lacking: objects of the export that it does not have.
        others: objects that it has, and the export has not.
    """

    lacking: int
    others: int


def stored(export: Path, archive: str) -> dict[str, Stored]:
    """What the archive has of each series, by its folder below ``export``'s.

    Raises:
        SourceError: it does not answer, or there is no export.
    """
    from mediround.annotate.dicomweb import counted  # noqa: PLC0415  # its extra need not be installed

    folders = sorted(path for path in export.glob("*/") if any(path.glob("*.dcm")))
    if not folders:
        raise SourceError("there are no objects to count: export with --seg or --stow first")
    return {folder.name: Stored(*counted(archive, sorted(folder.glob("*.dcm")))) for folder in folders}


def write_objects(
    export: Export,
    found: Iterable[Result],
    identity: RunIdentity,
    records: Mapping[str, EngineRecord],
    archive: str | None,
) -> Objects:
    """``DIGEST/N.dcm`` for each series, and the same in ``archive``, a DICOMweb address: of those series that are
    finished, since an archive keeps what it has, and a series of which more is finished has other objects.

    Args:
        records: of what computed the run's rounds, by digest, as far as they are known.

    Raises:
        JobError: a file cannot be written.
        SourceError: the address cannot be used.
    """
    written = Objects()
    for each in segmentations(export.of(found), identity, records):
        below = export.place / sha256(each.series.encode()).hexdigest()[:_DIGITS]
        for number, one in enumerate(each.objects, start=1):
            export.keep(below / f"{number}.dcm", encode(one), each.item_ids)
        problem = each.problem
        if archive is not None and not problem:
            problem = _stored(archive, each)
        if each.problem:
            export.keep_earlier(below)
        if problem:
            written.problems[problem] += 1
        written.series += bool(each.objects)
        written.objects += len(each.objects)
    return written


def _stored(archive: str, one: SeriesResult) -> str:
    """Why the archive has not a series' objects, and no others; empty: it has."""
    from mediround.annotate.dicomweb import store  # noqa: PLC0415  # its extra need not be installed

    if one.unfinished:
        return _UNFINISHED
    return store(archive, one.objects) if one.objects else ""
