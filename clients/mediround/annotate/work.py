"""Which of a manifest's items are one run's: its shard's, and those that are not finished.

Knows the manifest and the ledger. Does not know how items are asked.
"""

from __future__ import annotations

from collections.abc import Iterator

from mediround.annotate.items import Item
from mediround.annotate.job import Job
from mediround.annotate.ledger import Ledger
from mediround.annotate.manifest import count_items, read_manifest, read_names

_HEX_DIGITS = 15
"""Of an item's name: as many as a double holds without rounding, so that any tool may say the same."""


def shard_name(shard: tuple[int, int] | None) -> str:
    """As folders and ledgers have it; empty for a run that is not cut."""
    return "" if shard is None else f"{shard[0]}-of-{shard[1]}"


def is_of_shard(item_id: str, shard: tuple[int, int] | None) -> bool:
    """Whether an item falls to shard (i, n); every item falls to one of the n."""
    return shard is None or int(item_id[:_HEX_DIGITS], 16) % shard[1] == shard[0]


def count(job: Job, shard: tuple[int, int] | None) -> int:
    """Items of the shard. Raises JobError."""
    if shard is None:
        return count_items(job.manifest)
    return sum(is_of_shard(name, shard) for names in read_names(job.manifest) for name in names)


def left(job: Job, ledger: Ledger, shard: tuple[int, int] | None, *, failed: bool = False) -> Iterator[list[Item]]:
    """Items that are not finished, in the manifest's order, in pieces.

    Args:
        failed: those that failed before count as not finished.
    """

    def wanted(names: list[str]) -> list[str]:
        mine = [name for name in names if is_of_shard(name, shard)]
        done = ledger.finished(mine, failed=not failed)
        return [name for name in mine if name not in done]

    return read_manifest(job.manifest, wanted)
