"""What a run has found: each item with its rows, in the manifest's order, in memory that does not grow with them.

Knows the manifest, the ledger and the index. Does not know what is made of results.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from mediround.annotate.index import read_part, tree
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.ledger import Ledger, opened
from mediround.annotate.manifest import read_manifest
from mediround.annotate.rows import Row, rows_of

_HELD, _HELD_BYTES = 4, 1 << 30
"""Files of the index that are held besides one of each of its folders, and bytes of all: items that come together
lie in few files, and in all shards' folders in turn."""


@dataclass(frozen=True, slots=True)
class Result:
    """One item, and what came of it.

    Attributes:
        rows: in the order of its rounds; none where it is not finished.
    """

    item: Item
    rows: tuple[Row, ...]

    @property
    def answered(self) -> bool:
        """Whether it is finished, and did not fail."""
        return bool(self.rows) and self.rows[0].status != "failed"


def results(job: Job, run: Run) -> Iterator[Result]:
    """Every item of the manifest.

    Raises:
        JobError: a run is at work in the folder, or something in it is damaged.
    """
    with opened(run) as ledger:
        reader = _Reader(ledger, {path.name: path for path in tree(run.index)})
        for piece in read_manifest(job.manifest):
            yield from reader.joined(piece)


@dataclass(slots=True)
class _Reader:
    ledger: Ledger
    paths: dict[str, Path]
    held: OrderedDict[str, tuple[pa.Table, dict[str, list[int]]]] = field(default_factory=OrderedDict)
    size: int = 0
    """Bytes of the rows that are held."""

    def joined(self, items: Sequence[Item]) -> Iterator[Result]:
        places = self.ledger.places([item.item_id for item in items])
        for item in items:
            name = places.get(item.item_id)
            yield Result(item, () if name is None else self._rows(name, item.item_id))

    def _rows(self, name: str, item_id: str) -> tuple[Row, ...]:
        found, lines = self._part(name)
        rows = rows_of(found.take(lines.get(item_id, [])))
        return tuple(sorted(rows, key=lambda row: row.round))

    def _part(self, name: str) -> tuple[pa.Table, dict[str, list[int]]]:
        if name not in self.held:
            found = read_part(self.paths[name])
            lines: dict[str, list[int]] = {}
            for line, item_id in enumerate(found["item_id"].to_pylist()):
                lines.setdefault(item_id, []).append(line)
            self.held[name] = found, lines
            self.size += found.nbytes
            most = _HELD + len({path.parent for path in self.paths.values()})
            while len(self.held) > 1 and (len(self.held) > most or self.size > _HELD_BYTES):
                _, (left, _) = self.held.popitem(last=False)
                self.size -= left.nbytes
        self.held.move_to_end(name)
        return self.held[name]
