"""Masks on DICOM images as SEG objects, those of one series together; needs the extra ``dicom``.

Knows which structure a round is: by its name and label. UIDs follow from what is found, so that the same result is
the same object. Does not know archives.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import groupby
from statistics import median

from pydicom.dataset import Dataset

from mediround import rle
from mediround.annotate.errors import ItemError
from mediround.annotate.items import Item
from mediround.annotate.job import RunIdentity
from mediround.annotate.loading import load
from mediround.annotate.manifest import item_of, row_of
from mediround.annotate.results import Result
from mediround.annotate.sorting import grouped
from mediround.dicom.aspect import grid
from mediround.dicom.attributes import whole
from mediround.dicom.command.record import PackedMasks
from mediround.dicom.errors import DicomError
from mediround.dicom.results import Provenance, Segment, write_seg
from mediround.dicom.source import opened
from mediround.errors import InvalidArgument

_MOST_PIXELS = 65535


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """What was found on one series.

    Attributes:
        series: its Series Instance UID.
        objects: SEG objects; none where nothing was found.
        problem: why there are none although something was found; empty: there are.
    """

    series: str
    objects: tuple[Dataset, ...] = ()
    problem: str = ""


def segmentations(found: Iterable[Result], identity: RunIdentity) -> Iterator[SeriesResult]:
    """The objects of each series in turn. Raises JobError."""
    for series, group in groupby(grouped(_placed(found)), lambda pair: pair[0]):
        try:
            yield SeriesResult(series, tuple(_of_series((_Found.read(text) for _, text in group), identity)))
        except (ItemError, DicomError, InvalidArgument) as error:
            yield SeriesResult(series, problem=f"{type(error).__name__}: {error}")


@dataclass(slots=True)
class _Structure:
    """One question over all frames of a series."""

    round: int
    masks: PackedMasks = field(default_factory=PackedMasks)
    scores: list[float] = field(default_factory=list)
    corrected: bool = False

    def add(self, found: _Mask, header: Dataset, frame: int) -> None:
        """A mask of the image, on the frame's own pixels. Raises ItemError: it is of another size."""
        own = grid(header, frame - 1, *(whole(header, each, 1, _MOST_PIXELS) for each in ("Rows", "Columns")))
        if (found.height, found.width) != own.shown:
            raise ItemError("SOURCE_CHANGED", "a mask is of another size than its image")
        mask = own.to_stored(rle.decode(found.counts.encode(), found.height, found.width))
        if mask.any():
            self.masks.add((str(header.SOPInstanceUID), frame), mask)
        self.corrected |= found.corrected
        if found.score is not None:
            self.scores.append(found.score)


@dataclass(frozen=True, slots=True)
class _Mask:
    """What of a row goes into an object."""

    name: str
    label: str
    counts: str
    height: int
    width: int
    score: float | None
    corrected: bool
    engine_digest: str


@dataclass(frozen=True, slots=True)
class _Found:
    """One frame's masks, as they lie on disk while series are gathered."""

    item: Item
    masks: tuple[_Mask, ...]

    @classmethod
    def text(cls, result: Result) -> str:
        masks = [
            [getattr(row, each.name) for each in fields(_Mask)] for row in result.rows if row.counts is not None
        ]
        return json.dumps([row_of(result.item), masks])

    @classmethod
    def read(cls, text: str) -> _Found:
        item, masks = json.loads(text)
        return cls(item_of(item), tuple(_Mask(*each) for each in masks))


def _of_series(found: Iterable[_Found], identity: RunIdentity) -> list[Dataset]:
    headers: dict[str, Dataset] = {}
    structures: dict[tuple[str, str], _Structure] = {}
    engines: set[str] = set()
    for each in found:
        if each.item.uri not in headers:
            headers[each.item.uri] = _header(each.item)
        for mask in each.masks:
            engines.add(mask.engine_digest)
            structure = structures.setdefault((mask.name, mask.label), _Structure(len(structures)))
            structure.add(mask, headers[each.item.uri], each.item.frame or 1)
    segments = [
        Segment(label, each.masks, each.round, median(each.scores) if each.scores else None, each.corrected)
        for (_, label), each in structures.items()
    ]
    return write_seg(sorted(headers.values(), key=_place), segments, _provenance(identity, engines))


def _place(header: Dataset) -> tuple[int, str]:
    """In a series: by Instance Number, where there is one that can be read."""
    try:
        return int(str(header.get("InstanceNumber", 0))), str(header.get("SOPInstanceUID", ""))
    except ValueError:
        return 0, str(header.get("SOPInstanceUID", ""))


def _provenance(identity: RunIdentity, engines: set[str]) -> Provenance:
    return Provenance(
        run=identity.key,
        model_name=identity.model_name,
        model_version=identity.model_version,
        model_digest=identity.model_digest,
        engine_digest=engines.pop() if len(engines) == 1 else "",
        parameters={"correction": identity.correction, "threshold": repr(identity.threshold)},
    )


def _header(item: Item) -> Dataset:
    """Raises ItemError, DicomError."""
    image = load(item).image
    if not isinstance(image, bytes | Dataset):
        raise ItemError("UNSUPPORTED", "a DICOM object must be a file or a data set")
    return opened(image).header


def _placed(found: Iterable[Result]) -> Iterator[tuple[str, bool, str]]:
    for result in found:
        if result.item.series and result.answered:
            yield result.item.series, False, _Found.text(result)
