"""Masks on DICOM images as SEG objects, those of one series together; needs the extra ``dicom``.

Knows which structure a round is: by its name and label, and where several dialogues on one frame have the same, by
which of them it is of, so that each has a segment. UIDs follow from what is found, so that the same result is
the same object. Does not know archives.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from statistics import median

from pydicom.dataset import Dataset

from mediround import rle
from mediround._records import EngineRecord
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
from mediround.dicom.results import Provenance, Segment, Term, term_of, write_seg
from mediround.dicom.source import opened
from mediround.errors import InvalidArgument

_MOST_PIXELS, _MOST_CHARACTERS = 65535, 64
"""Of a side, and of a segment's label."""
_NOT_FINISHED = ""
"""In place of what was found."""


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """What was found on one series.

    Attributes:
        series: its Series Instance UID.
        objects: SEG objects; none where nothing was found.
        item_ids: what they are made of.
        problem: why there are none although something was found; empty: there are.
        unfinished: items of the series that are not finished: once they are, its objects are others.
    """

    series: str
    objects: tuple[Dataset, ...] = ()
    item_ids: tuple[str, ...] = ()
    problem: str = ""
    unfinished: int = 0


def segmentations(
    found: Iterable[Result], identity: RunIdentity, records: Mapping[str, EngineRecord]
) -> Iterator[SeriesResult]:
    """The objects of each series in turn; ``records`` by digest, those that are known. Raises JobError."""
    for series, group in groupby(grouped(_placed(found)), lambda pair: pair[0]):
        gathered = _Series()
        try:
            for _, text in group:
                if text == _NOT_FINISHED:
                    gathered.unfinished += 1
                else:
                    gathered.add(_Found.read(text))
            objects = tuple(gathered.objects(identity, records)) if gathered.item_ids else ()
            yield SeriesResult(series, objects, tuple(gathered.item_ids), unfinished=gathered.unfinished)
        except (ItemError, DicomError, InvalidArgument) as error:
            yield SeriesResult(series, problem=f"{type(error).__name__}: {error}")


@dataclass(slots=True)
class _Structure:
    """One question over all frames of a series."""

    label: str
    term: Term
    round: int
    masks: PackedMasks = field(default_factory=PackedMasks)
    scores: list[float] = field(default_factory=list)
    corrected: bool = False

    def add(self, found: _Mask, counts: str, header: Dataset, frame: int) -> None:
        """A mask of the image, on the frame's own pixels. Raises ItemError: it is of another size."""
        own = grid(header, frame - 1, *(whole(header, each, 1, _MOST_PIXELS) for each in ("Rows", "Columns")))
        if (found.height, found.width) != own.shown:
            raise ItemError("SOURCE_CHANGED", "a mask is of another size than its image")
        mask = own.to_stored(rle.decode(counts.encode(), found.height, found.width))
        if mask.any():
            self.masks.add((str(header.SOPInstanceUID), frame), mask)
        self.corrected |= found.corrected
        if found.score is not None:
            self.scores.append(found.score)


@dataclass(frozen=True, slots=True)
class _Mask:
    """What of a row goes into an object; ``counts`` None: nothing, but that it was asked."""

    name: str
    label: str
    counts: str | None
    height: int
    width: int
    score: float | None
    corrected: bool
    engine_digest: str
    window: str


@dataclass(frozen=True, slots=True)
class _Found:
    """One frame's masks, as they lie on disk while series are gathered."""

    item: Item
    masks: tuple[_Mask, ...]

    @classmethod
    def text(cls, result: Result) -> str:
        masks = [[getattr(row, each.name) for each in fields(_Mask)] for row in result.rows]
        return json.dumps([row_of(result.item), masks])

    @classmethod
    def read(cls, text: str) -> _Found:
        item, masks = json.loads(text)
        return cls(item_of(item), tuple(_Mask(*each) for each in masks))


@dataclass(slots=True)
class _Series:
    """What was found on one."""

    item_ids: list[str] = field(default_factory=list)
    unfinished: int = 0
    headers: dict[str, Dataset] = field(default_factory=dict)
    structures: dict[tuple[str, str, int], _Structure] = field(default_factory=dict)
    """By name, label, and index among the dialogues on a frame that have both."""
    asked: Counter[tuple[str, int, str, str]] = field(default_factory=Counter)
    """How many dialogues on an instance's frame have asked for a name and label."""
    engines: set[str] = field(default_factory=set)
    windows: set[str] = field(default_factory=set)

    def add(self, found: _Found) -> None:
        """Raises ItemError, DicomError."""
        self.item_ids.append(found.item.item_id)
        if found.item.uri not in self.headers:
            self.headers[found.item.uri] = _header(found.item)
        header, frame = self.headers[found.item.uri], found.item.frame or 1
        for mask in found.masks:
            asked = str(header.SOPInstanceUID), frame, mask.name, mask.label
            index, self.asked[asked] = self.asked[asked], self.asked[asked] + 1
            if mask.counts is not None:
                self.engines.add(mask.engine_digest)
                self.windows.add(mask.window)
                self._structure(mask, index).add(mask, mask.counts, header, frame)

    def _structure(self, mask: _Mask, index: int) -> _Structure:
        number = f" ({index + 1})" if index else ""
        label = mask.label[: _MOST_CHARACTERS - len(number)] + number
        made = _Structure(label, term_of(mask.label), len(self.structures))
        return self.structures.setdefault((mask.name, mask.label, index), made)

    def objects(self, identity: RunIdentity, records: Mapping[str, EngineRecord]) -> list[Dataset]:
        """Raises DicomError, InvalidArgument."""
        segments = [
            Segment(
                label=each.label,
                masks=each.masks,
                round=each.round,
                score=median(each.scores) if each.scores else None,
                corrected=each.corrected,
                term=each.term,
            )
            for each in self.structures.values()
        ]
        sources = sorted(self.headers.values(), key=_place)
        window = self.windows.pop() if len(self.windows) == 1 else "of each frame"
        return write_seg(sources, segments, _provenance(identity, sorted(self.engines - {""}), records, window))


def _place(header: Dataset) -> tuple[int, str]:
    """In a series: by Instance Number, where there is one that can be read."""
    try:
        return int(str(header.get("InstanceNumber", 0))), str(header.get("SOPInstanceUID", ""))
    except ValueError:
        return 0, str(header.get("SOPInstanceUID", ""))


def _provenance(
    identity: RunIdentity, engines: Sequence[str], records: Mapping[str, EngineRecord], window: str
) -> Provenance:
    """Of one engine its record's words; of several, as when a run went on after an upgrade, each one's."""
    policy = {"correction": identity.correction, "threshold": repr(identity.threshold), "window": window}
    known = [Provenance.of_record(identity.key, records[each]) for each in engines if each in records]
    words: dict[str, list[str]] = {}
    for each in known:
        for name, value in each.parameters.items():
            words.setdefault(name, []).append(value)
    parameters = {name: " | ".join(dict.fromkeys(values)) for name, values in words.items()}
    if len(engines) > 1:
        parameters["engine_digests"] = " | ".join(engines)
    return Provenance(
        run=identity.key,
        model_name=identity.model_name,
        model_version=identity.model_version,
        model_digest=identity.model_digest,
        engine_digest=engines[0] if len(engines) == 1 else "",
        parameters=parameters | policy,
    )


def _header(item: Item) -> Dataset:
    """Raises ItemError, DicomError."""
    image = load(item).image
    if not isinstance(image, bytes | Dataset):
        raise ItemError("UNSUPPORTED", "a DICOM object must be a file or a data set")
    return opened(image).header


def _placed(found: Iterable[Result]) -> Iterator[tuple[str, bool, str]]:
    for result in found:
        if result.item.series and (result.answered or not result.rows):
            yield result.item.series, False, _Found.text(result) if result.rows else _NOT_FINISHED
