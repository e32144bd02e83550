"""SEG objects of a run, as files and in an archive.

Knows names of files, which say nothing of a series but a digest. Does not know what objects hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from mediround.annotate.job import RunIdentity
from mediround.annotate.outputs.kept import keep
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


def write_objects(folder: Path, found: Iterable[Result], identity: RunIdentity, archive: str | None) -> Objects:
    """``folder/DIGEST/N.dcm`` for each series, and the same in ``archive``, a DICOMweb address.

    Raises:
        JobError: a file cannot be written.
        SourceError: the address cannot be used.
    """
    written = Objects()
    for each in segmentations(found, identity):
        below = folder / sha256(each.series.encode()).hexdigest()[:_DIGITS]
        for number, one in enumerate(each.objects, start=1):
            keep(below / f"{number}.dcm", encode(one))
        problem = each.problem
        if each.objects and archive is not None:
            from mediround.annotate.dicomweb import store  # noqa: PLC0415  # its extra need not be installed

            problem = store(archive, each.objects)
        if problem:
            written.problems[problem] += 1
        written.series += bool(each.objects)
        written.objects += len(each.objects)
    return written
