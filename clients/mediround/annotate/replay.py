"""Items of a run asked again, twice, one dialogue at a time: what the service gives alone, beside the run.

The two must be equal in every pixel and take the waves that the run took. The run's own batches differed, so that
its masks may differ from them, but only in pixels whose logits are next to 0, which the service tells: how many
is counted. Nobody else may ask the service meanwhile. Knows the sample and the comparison. Does not know how an
item is asked.
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
from mediround.annotate.errors import ItemError, JobError, NotNow, OtherRun
from mediround.annotate.faults import decoded
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.loading import LoadedItem, load
from mediround.annotate.manifest import read_manifest
from mediround.annotate.planned import planned
from mediround.annotate.rows import Row
from mediround.annotate.sorting import Names
from mediround.annotate.waiting import Threads
from mediround.masks import Bits

NEAR_ZERO = 1e-4
"""Of a logit: what other batches change of it in float32."""
_TRIES = 20


@dataclass(slots=True)
class Replay:
    """What came of it.

    Attributes:
        items: replayed.
        rounds: of them.
        gone: items that could not be replayed: their source is gone or changed.
        unlike: rounds whose two replays differ.
        other_waves: rounds that took another wave than the run's.
        other_engine: rounds that another engine record computed than the run's: their masks may differ more.
        other_masks: rounds whose mask is not the run's in every pixel.
        other_pixels: pixels of them that differ.
        beyond: rounds that are not the run's: another status, other words, or pixels beyond the margin.
        beyond_pixels: those that differ although their logits lie further from 0 than the margin.
        not_judged: rounds that were shown another mask than the run's, or follow such a one: what differs in them
            need not lie next to 0.
    """

    items: int = 0
    rounds: int = 0
    gone: int = 0
    unlike: int = 0
    other_waves: int = 0
    other_engine: int = 0
    other_masks: int = 0
    other_pixels: int = 0
    beyond: int = 0
    beyond_pixels: int = 0
    not_judged: int = 0

    @property
    def passes(self) -> bool:
        """Whether replays are alike, take the run's waves, and differ from the run in nothing but rounding; of all
        items of the sample, and with at least half of their rounds judged.
        """
        judged = self.items > 0 and not self.gone and 2 * self.not_judged <= self.rounds
        return judged and not self.unlike and not self.other_waves and not self.beyond

    def add(self, then: ItemRows, once: Outcome, again: Outcome) -> None:
        """One item, as the run has it and as it was replayed. Raises JobError."""
        self.items += 1
        other: set[int] = set()
        judged = True
        for before, first, second, near_zero in zip(then, once.rows, again.rows, _near_zero(once), strict=True):
            self.rounds += 1
            self.unlike += _kept(first) != _kept(second)
            self.other_waves += before.wave != first.wave or first.wave != second.wave
            self.other_engine += before.engine_digest != first.engine_digest
            judged = judged and first.refer_to not in other
            differs, beyond = _differing(before, first, near_zero)
            self.other_pixels += differs
            if differs:
                self.other_masks += 1
                other.add(first.round)
            if not judged:
                self.not_judged += 1
            elif beyond or _words(before) != _words(first):
                self.beyond += 1
                self.beyond_pixels += beyond


def replay(
    job: Job,
    run: Run,
    server: str,
    count: int,
    *,
    seed: int = 0,
    margin: float = NEAR_ZERO,
    tls: Tls | None = None,
    timeout: float = 300.0,
) -> Replay:
    """Ask ``count`` items again that the run finished and the manifest has; which, ``seed`` decides.

    Args:
        margin: pixels whose logits lie at most so far from 0 may differ from the run's; above 0, at most 1.

    Raises:
        NotNow: the service stays busy.
        JobError: the run or the manifest cannot be read, or the service is of an older version.
        OtherRun: as of ``check``.
        MediRoundError: the service cannot be reached.
    """
    rows = sample(job, run, count, seed)
    items = {item.item_id: item for piece in read_manifest(job.manifest) for item in piece if item.item_id in rows}
    asking = Asking(run.key, run.identity.correction, run.identity.threshold, "interactive", timeout, margin)

    async def asked() -> Replay:
        return await _replay(rows, items, run, asking, AsyncClient(server, tls=tls))

    return asyncio.run(asked())


def check(run: Run, server: str, *, tls: Tls | None = None) -> None:
    """Ask the service whether a replay can begin, which reads the run first.

    Raises:
        OtherRun: it has another model, or this client another rule of preprocessing.
        MediRoundError: it cannot be reached.
    """

    async def asked() -> None:
        async with AsyncClient(server, tls=tls) as client:
            await _check(client, run)

    asyncio.run(asked())


def sample(job: Job, run: Run, count: int, seed: int) -> dict[str, ItemRows]:
    """Rows of ``count`` planned items that have a result, by name: the same for the same seed, however the index
    lies.
    """

    def keyed(names: Names) -> Iterator[tuple[bytes, ItemRows]]:
        for rows in current_rows(run):
            name = rows[0].item_id
            if name in names and rows[0].status != "failed":
                yield blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), rows

    with planned(job) as names:
        chosen = heapq.nsmallest(count, keyed(names), key=lambda each: each[0])
    return {rows[0].item_id: rows for _, rows in chosen}


async def _replay(
    rows: Mapping[str, ItemRows], items: Mapping[str, Item], run: Run, asking: Asking, connecting: AsyncClient
) -> Replay:
    found, reading = Replay(), Threads(1)
    async with connecting as client:
        await _check(client, run)
        for name, then in rows.items():
            try:
                item = items[name]
                loaded = await reading.run(load, item)
            except (KeyError, ItemError):
                found.gone += 1
                continue
            once = await _asked(client, item, loaded, asking)
            again = await _asked(client, item, loaded, asking)
            found.add(then, once, again)
    return found


async def _check(client: AsyncClient, run: Run) -> None:
    run.check_rule()
    served = await client.describe()
    if served.model_digest != run.identity.model_digest:
        raise OtherRun(f"the run is of model {run.identity.model_digest[:12]}: serve that one to replay it")


async def _asked(client: AsyncClient, item: Item, loaded: LoadedItem, asking: Asking) -> Outcome:
    for _ in range(_TRIES):
        outcome = await annotate(client, item, loaded, asking)
        if outcome.status != "busy":
            return outcome
        await asyncio.sleep(outcome.wait)
    raise NotNow("the service stays busy: replay while nobody else asks it")


def _kept(row: Row) -> tuple[object, ...]:
    return row.status, row.answer, row.corrected, row.counts


def _words(row: Row) -> tuple[object, ...]:
    return row.status, row.answer, row.corrected


def _near_zero(outcome: Outcome) -> tuple[Bits | None, ...]:
    """Of each row. Raises JobError."""
    if outcome.status == "failed":
        return (None,) * len(outcome.rows)
    told = zip(outcome.rows, outcome.near_zero, strict=True)
    if any(row.status == "mask" and near_zero is None for row, near_zero in told):
        raise JobError(
            "the service does not say which pixels are next to 0: it must be of this client's version or later"
        )
    return outcome.near_zero


def _differing(then: Row, now: Row, near_zero: Bits | None) -> tuple[int, int]:
    """How many pixels differ, and how many of them away from 0; all, where only one has a mask or sizes differ."""
    if then.counts == now.counts and (then.height, then.width) == (now.height, now.width):
        return 0, 0
    try:
        one, other = (decoded(row.counts, row.height, row.width) for row in (then, now))
    except ValueError as error:
        raise JobError(
            "a mask of the index cannot be read: `mediround annotate verify` says of which item"
        ) from error
    if one is None or other is None or one.shape != other.shape:
        present = one if one is not None else other
        pixels = 0 if present is None else present.size
        return pixels, pixels
    differs = one != other
    beyond = differs if near_zero is None else differs & ~near_zero
    return int(np.count_nonzero(differs)), int(np.count_nonzero(beyond))
