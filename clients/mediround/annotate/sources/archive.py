"""Instances of a DICOMweb archive that hold an image, frame by frame, as a query finds them.

Knows what of an instance becomes an item. Does not know how an archive is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.items import Item, Question, item_id
from mediround.annotate.sources.dicom_files import SEGMENTATIONS, Frame
from mediround.annotate.sources.images import problem_item
from mediround.annotate.sources.options import SourceOptions

_MOST_FRAMES = 100_000
_UID = re.compile(r"[0-9.]{1,64}")


def items(source: str, questions: tuple[Question, ...], options: SourceOptions) -> Iterator[Item]:
    """Raises SourceError: the archive does not answer, or the extra is not installed."""
    try:
        from mediround.annotate import dicomweb  # noqa: PLC0415  # its extra need not be installed
        from mediround.annotate.sources.archive_segmentations import ArchiveSegmentations  # noqa: PLC0415  # as above
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        words = f"an archive needs {package}: in the repository, pip install './clients[annotate,dicom,dicomweb]'"
        raise SourceError(words) from missing
    base = source.partition("?")[0]
    found = ArchiveSegmentations(base, questions, options.omissions) if options.references else None
    for place, instance in enumerate(dicomweb.search(source)):
        uids = [dicomweb.value(instance, tag) for tag in (dicomweb.STUDY, dicomweb.SERIES, dicomweb.INSTANCE)]
        if not dicomweb.value(instance, "00280010") or dicomweb.value(instance, "00080016") in SEGMENTATIONS:
            options.omissions.add("no_image", dicomweb.address(base, instance))
            continue
        try:
            if not all(map(_UID.fullmatch, uids)):
                raise ItemError("BAD_DICOM", "the archive's instance must have UIDs of study, series and instance")
            header = dicomweb.header(instance)
            for part in _frames(dicomweb.value(instance, "00280008"), uids, header):
                asked = questions if found is None else found.questions(part)
                yield _item(dicomweb.address(base, instance), part, asked, options.window)
        except ItemError as error:
            yield problem_item(error, str(place), "")


def _frames(count: str, uids: Sequence[str], header: Any) -> Iterator[Frame]:
    frames = int(count) if count.isdecimal() and 0 < int(count) <= _MOST_FRAMES else 1
    study, series, instance = uids
    for number in range(1, frames + 1):
        yield Frame(number if frames > 1 else None, study, series, instance, header)


def _item(uri: str, part: Frame, questions: tuple[Question, ...], window: str) -> Item:
    image_id = sha256(part.instance.encode()).hexdigest()
    return Item(
        item_id=item_id(image_id, part.frame, window, questions),
        image_id=image_id,
        kind="dicomweb",
        uri=uri,
        questions=questions,
        frame=part.frame,
        window=window,
        study=part.study,
        series=part.series,
        instance=part.instance,
    )
