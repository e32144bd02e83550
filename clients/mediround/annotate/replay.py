"""Items of a run asked again, twice, one dialogue at a time: what the service gives alone, beside the run.

The two must be equal in every pixel and take the waves that the run took. The run's own batches differed, so that
its masks may differ from them in pixels whose logits are next to 0: how many is counted. Nobody else may ask the
service meanwhile. Knows the sample and the comparison. Does not know how an item is asked.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from mediround._tls import Tls
from mediround.aio import AsyncClient
from mediround.annotate.annotating import Asking, Outcome, annotate
from mediround.annotate.current import ItemRows, current_rows
from mediround.annotate.errors import ItemError, JobError, OtherRun
from mediround.annotate.faults import decoded
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.loading import LoadedItem, load
from mediround.annotate.manifest import read_manifest
from mediround.annotate.rows import Row

_TRIES = 20


@dataclass(slots=True)
class Replay:
    """What came of it.

    Attributes:
        items: replayed.
        rounds: of them.
        gone: items whose source is gone or changed, or that the manifest has no more.
        unlike: rounds whose two replays differ.
        other_waves: rounds that took another wave than the run's.
        other_engine: rounds that another engine record computed than the run's: their masks may differ more.
        other_masks: rounds whose mask is not the run's in every pixel.
        other_pixels: pixels of them.
        largest_share: of a mask's pixels that differ from the run's, 0 to 1.
    """

    items: int = 0
    rounds: int = 0
    gone: int = 0
    unlike: int = 0
    other_waves: int = 0
    other_engine: int = 0
    other_masks: int = 0
    other_pixels: int = 0
    largest_share: float = 0.0

    def passes(self, most_share: float) -> bool:
        """Whether replays are alike, take the run's waves, and no mask differs from the run's in more."""
        return not self.unlike and not self.other_waves and self.largest_share <= most_share and self.items > 0

    def add(self, then: Row, once: Row, again: Row) -> None:
        self.rounds += 1
        self.unlike += _kept(once) != _kept(again)
        self.other_waves += then.wave != once.wave or once.wave != again.wave
        self.other_engine += then.engine_digest != once.engine_digest
        share, pixels = _differing(then, once)
        self.other_masks += pixels > 0
        self.other_pixels += pixels
        self.largest_share = max(self.largest_share, share)


def replay(
    job: Job, run: Run, server: str, count: int, *, seed: int = 0, tls: Tls | None = None, timeout: float = 300.0
) -> Replay:
    """Ask ``count`` items again that the run finished; which, ``seed`` decides.

    Raises:
        JobError: the run or the manifest cannot be read, or the service stays busy.
        OtherRun: the service has another model.
        MediRoundError: it cannot be reached.
    """
    rows = sample(run, count, seed)
    items = {item.item_id: item for piece in read_manifest(job.manifest) for item in piece if item.item_id in rows}
    asking = Asking(run.key, run.identity.correction, run.identity.threshold, "interactive", timeout)

    async def asked() -> Replay:
        return await _replay(rows, items, run, asking, AsyncClient(server, tls=tls))

    return asyncio.run(asked())


def sample(run: Run, count: int, seed: int) -> dict[str, ItemRows]:
    """Rows of ``count`` items that have a result, by name: the same for the same seed, however the index lies."""

    def keyed() -> Iterator[tuple[bytes, ItemRows]]:
        for rows in current_rows(run):
            if rows[0].status != "failed":
                yield blake2b(f"{seed} {rows[0].item_id}".encode(), digest_size=8).digest(), rows

    chosen = heapq.nsmallest(count, keyed(), key=lambda each: each[0])
    return {rows[0].item_id: rows for _, rows in chosen}


async def _replay(
    rows: Mapping[str, ItemRows], items: Mapping[str, Item], run: Run, asking: Asking, connecting: AsyncClient
) -> Replay:
    found = Replay()
    async with connecting as client:
        served = await client.describe()
        if served.model_digest != run.identity.model_digest:
            raise OtherRun(f"the run is of model {run.identity.model_digest[:12]}: serve that one to replay it")
        for name, then in rows.items():
            try:
                item = items[name]
                loaded = await asyncio.to_thread(load, item)
            except (KeyError, ItemError):
                found.gone += 1
                continue
            once = await _asked(client, item, loaded, asking)
            again = await _asked(client, item, loaded, asking)
            found.items += 1
            for each in zip(then, once.rows, again.rows, strict=True):
                found.add(*each)
    return found


async def _asked(client: AsyncClient, item: Item, loaded: LoadedItem, asking: Asking) -> Outcome:
    for _ in range(_TRIES):
        outcome = await annotate(client, item, loaded, asking)
        if outcome.status != "busy":
            return outcome
        await asyncio.sleep(outcome.wait)
    raise JobError("the service stays busy: replay while nobody else asks it")


def _kept(row: Row) -> tuple[object, ...]:
    return row.status, row.answer, row.corrected, row.counts


def _differing(then: Row, now: Row) -> tuple[float, int]:
    """The share of pixels, and how many; all, where only one has a mask or the sizes differ."""
    if then.counts == now.counts and (then.height, then.width) == (now.height, now.width):
        return 0.0, 0
    try:
        one, other = (decoded(row.counts, row.height, row.width) for row in (then, now))
    except ValueError as error:
        raise JobError(
            "a mask of the index cannot be read: `mediround annotate verify` says of which item"
        ) from error
    if one is None or other is None or one.shape != other.shape:
        present = one if one is not None else other
        return 1.0, 0 if present is None else present.size
    pixels = int(np.count_nonzero(one != other))
    return pixels / one.size, pixels
