"""Instances of a DICOMweb archive that hold an image, frame by frame, as a query finds them.

Knows what of an instance becomes an item. Does not know how an archive is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from mediround.annotate.errors import SourceError
from mediround.annotate.items import Item, Question, item_id
from mediround.annotate.sources.dicom_files import SEGMENTATIONS

_MOST_FRAMES = 100_000


def items(source: str, questions: tuple[Question, ...], window: str) -> Iterator[Item]:
    """Raises SourceError: the archive does not answer, or the extra is not installed."""
    try:
        from mediround.annotate import dicomweb  # noqa: PLC0415  # its extra need not be installed
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        words = f"an archive needs {package}: in the repository, pip install './clients[annotate,dicom,dicomweb]'"
        raise SourceError(words) from missing
    base = source.partition("?")[0]
    for found in dicomweb.search(source):
        uid, rows = dicomweb.value(found, "00080018"), dicomweb.value(found, "00280010")
        if not rows or dicomweb.value(found, "00080016") in SEGMENTATIONS:
            continue
        count = dicomweb.value(found, "00280008")
        frames = int(count) if count.isdecimal() and 0 < int(count) <= _MOST_FRAMES else 1
        image_id = sha256(uid.encode()).hexdigest()
        for number in range(1, frames + 1):
            frame = number if frames > 1 else None
            yield Item(
                item_id=item_id(image_id, frame, window, questions),
                image_id=image_id,
                kind="dicomweb",
                uri=dicomweb.address(base, found),
                questions=questions,
                frame=frame,
                window=window,
                study=dicomweb.value(found, "0020000D"),
                series=dicomweb.value(found, "0020000E"),
                instance=uid,
            )
