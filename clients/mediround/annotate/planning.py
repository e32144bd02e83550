"""A plan: a source's items frozen, and what a run of them will take.

Knows the order of work, and estimates. Does not know how anything is listed or asked.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mediround._tls import Tls
from mediround.aio import AsyncClient
from mediround.annotate.annotating import Asking, annotate
from mediround.annotate.errors import ItemError, JobError
from mediround.annotate.items import Item, image_of
from mediround.annotate.job import Job
from mediround.annotate.loading import load
from mediround.annotate.manifest import count_asked, read_manifest, write_manifest
from mediround.annotate.waiting import Threads

PROBED = 3
"""Items that are asked for an estimate; the first of them pays for what is cold, and is not counted."""
LEAST_KEPT = 0.5
"""Of a manifest's items that can be asked, at least so many are in the next one, whose export removes the others'
files."""
BYTES_A_ROUND = 700
"""Of the index; by the bundled slices' masks."""
_NONE: Mapping[str, int] = {}
_KEPT = "The manifest stays as it was"


@dataclass(slots=True)
class Planned:
    """What is planned.

    Attributes:
        items: of the manifest.
        images: of them, of different content, as far as they come together.
        rounds: of all dialogues.
        given: of them, about a mask of the archive.
        referring: of them, about an earlier round's.
        problems: items that fail without being asked, by code.
        first: of each image that was to come first and is there, how many verdicts said so.
    """

    items: int = 0
    images: int = 0
    rounds: int = 0
    given: int = 0
    referring: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    first: Counter[str] = field(default_factory=Counter)
    _image: str = ""

    @property
    def asked(self) -> int:
        """Items without a problem."""
        return self.items - self.problems.total()

    def counted(self, items: Iterable[Item], first: Mapping[str, int]) -> Iterator[Item]:
        for item in items:
            self.items += 1
            if (image := image_of(item)) in first:
                self.first[image] = first[image]
            self.images += item.image_id != self._image
            self._image = item.image_id
            self.rounds += len(item.questions)
            self.given += sum(each.reference is not None for each in item.questions)
            self.referring += sum(each.refer_to is not None for each in item.questions)
            if item.problem:
                self.problems[item.problem.partition(":")[0]] += 1
            yield item


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, from a few items asked now.

    Attributes:
        seconds_an_item: asked one after the other.
        probed: items that it is from; 0: none could be asked.
    """

    seconds_an_item: float
    probed: int

    def seconds(self, items: int) -> float:
        """Of a whole run, one item after the other: several in flight take less."""
        return self.seconds_an_item * items


def freeze(
    job: Job, items: Iterable[Item], first: Mapping[str, int] = _NONE, *, allow_fewer: bool = False
) -> Planned:
    """Write the manifest.

    Args:
        first: images that come first, each with how many verdicts say so.
        allow_fewer: also where the source has fewer than half of the items that an earlier manifest has.

    Raises:
        SourceError: the source cannot be listed.
        JobError: it has no item, or too few, or the manifest cannot be written. An earlier one is then as it was.
    """
    planned = Planned()
    least = 0 if allow_fewer else _asked_before(job) * LEAST_KEPT

    def checked() -> Iterator[Item]:
        yield from planned.counted(items, first)
        if not planned.items:
            raise JobError(f"the source has no image: is it there, and mounted? {_KEPT}")
        if planned.asked < least:
            raise JobError(
                f"the source has {planned.asked} items that can be asked, fewer than half of those of the job's "
                f"manifest: is all of it there, and mounted? {_KEPT}; --allow-fewer plans them all the same"
            )

    write_manifest(job.manifest, checked())
    job.keep_manifest()
    return planned


def _asked_before(job: Job) -> int:
    """Items of an earlier manifest that can be asked; 0 where there is none that can be read."""
    if not job.manifest.is_file():
        return 0
    try:
        return count_asked(job.manifest)
    except JobError:  # another version's, for example, which must be planned again
        return 0


def probe(job: Job, server: str, asking: Asking, tls: Tls | None) -> Estimate:
    """Ask the first items that can be asked; nothing of it is kept. Raises MediRoundError."""
    return asyncio.run(_probe(job, server, asking, tls))


async def _probe(job: Job, server: str, asking: Asking, tls: Tls | None) -> Estimate:
    taken: list[float] = []
    reading = Threads(1)
    async with AsyncClient(server, tls=tls) as client:
        for item in _first(job):
            try:
                loaded = await reading.run(load, item)
            except ItemError:
                continue
            began = time.monotonic()
            outcome = await annotate(client, item, loaded, asking)
            if outcome.status == "ok":
                taken.append(time.monotonic() - began)
    counted = taken[1:] or taken
    return Estimate(sum(counted) / len(counted) if counted else 0.0, len(taken))


def _first(job: Job) -> list[Item]:
    for piece in read_manifest(job.manifest):
        if found := [item for item in piece if not item.problem][:PROBED]:
            return found
    return []
