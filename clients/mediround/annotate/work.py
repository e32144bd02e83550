"""Which of a manifest's items are one run's: its shard's, and those that are not finished.

Knows the manifest and the ledger. Does not know how items are asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mediround.annotate.items import Item
from mediround.annotate.job import Job
from mediround.annotate.ledger import Finished, Ledger
from mediround.annotate.manifest import copy_manifest, read_manifest, read_names

_HEX_DIGITS = 15
"""Of an item's name: as many as a double holds without rounding, so that any tool may say the same."""


def shard_name(shard: tuple[int, int] | None) -> str:
    """As folders and ledgers have it; empty for a run that is not cut."""
    return "" if shard is None else f"{shard[0]}-of-{shard[1]}"


def is_of_shard(item_id: str, shard: tuple[int, int] | None) -> bool:
    """Whether an item falls to shard (i, n); every item falls to one of the n."""
    return shard is None or int(item_id[:_HEX_DIGITS], 16) % shard[1] == shard[0]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a start of a run finds.

    Attributes:
        total: items of the manifest that are the shard's.
        finished: of them; what the ledger knows besides is no longer planned, or another shard's.
        pieces: of the manifest, those with items that are left, or that failed.
    """

    total: int
    finished: Finished
    pieces: tuple[int, ...]


def survey(job: Job, ledger: Ledger, shard: tuple[int, int] | None) -> Survey:
    """Look each item up. Raises JobError."""
    total = ok = failed = 0
    pieces = []
    for number, names in enumerate(read_names(job.manifest)):
        mine = _of_shard(names, shard)
        found = ledger.counted(mine)
        total, ok, failed = total + len(mine), ok + found.ok, failed + found.failed
        if found.ok < len(mine):
            pieces.append(number)
    return Survey(total, Finished(ok, failed), tuple(pieces))


@dataclass(frozen=True, slots=True)
class Left:
    """Items that are not finished, in the manifest's order, and what came of them.

    Attributes:
        failed: those that failed before count as not finished.
    """

    job: Job
    ledger: Ledger
    shard: tuple[int, int] | None
    surveyed: Survey
    failed: bool = False

    def pieces(self) -> Iterator[list[Item]]:
        """Raises JobError."""
        return read_manifest(self.job.manifest, self._wanted, self.surveyed.pieces)

    def write(self, path: Path) -> int:
        """The same as a manifest of their own; how many. Raises JobError."""
        return copy_manifest(self.job.manifest, path, self._wanted, self.surveyed.pieces)

    def failures(self) -> dict[str, int]:
        """Items that failed, by this start or before, by error code, the most first. Raises JobError."""
        found = Counter[str]()
        for names in read_names(self.job.manifest, self.surveyed.pieces):
            found.update(self.ledger.failures(_of_shard(names, self.shard)))
        return dict(found.most_common())

    def _wanted(self, names: list[str]) -> list[str]:
        mine = _of_shard(names, self.shard)
        done = self.ledger.finished(mine, failed=not self.failed)
        return [name for name in mine if name not in done]


def _of_shard(names: list[str], shard: tuple[int, int] | None) -> list[str]:
    return names if shard is None else [name for name in names if is_of_shard(name, shard)]
