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
from mediround.annotate.outputs.segmentations import segmentations
from mediround.annotate.results import Result
from mediround.dicom.results import encode

_DIGITS = 16


@dataclass(slots=True)
class Objects:
    """What was written.

    Attributes:
        series: for which there are objects.
        objects: of them.
        problems: series that have none, or are not whole in the archive, by reason.
    """

    series: int = 0
    objects: int = 0
    problems: Counter[str] = field(default_factory=Counter)


def not_stored(export: Path, archive: str) -> dict[str, int]:
    """Folders of series, below ``export``'s, and how many of their objects the archive does not have; all that it
    has are left out.

    Raises:
        SourceError: it does not answer, or there is no export.
    """
    from mediround.annotate.dicomweb import lacking  # noqa: PLC0415  # its extra need not be installed

    folders = sorted(path for path in export.glob("*/") if any(path.glob("*.dcm")))
    if not folders:
        raise SourceError("there are no objects to count: export with --seg or --stow first")
    counts = {folder.name: lacking(archive, sorted(folder.glob("*.dcm"))) for folder in folders}
    return {name: count for name, count in counts.items() if count}


def write_objects(
    export: Export,
    found: Iterable[Result],
    identity: RunIdentity,
    records: Mapping[str, EngineRecord],
    archive: str | None,
) -> Objects:
    """``DIGEST/N.dcm`` for each series, and the same in ``archive``, a DICOMweb address.

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
        if each.objects and archive is not None:
            from mediround.annotate.dicomweb import store  # noqa: PLC0415  # its extra need not be installed

            problem = store(archive, each.objects)
        if each.problem:
            export.keep_earlier(below)
        if problem:
            written.problems[problem] += 1
        written.series += bool(each.objects)
        written.objects += len(each.objects)
    return written
