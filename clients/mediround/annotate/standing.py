"""How far a run is, read from its index, while another process may be at work on it.

Knows the index. Does not write anything.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mediround.annotate.index import read_part, tree
from mediround.annotate.job import Run
from mediround.annotate.ledger import Finished


@dataclass(frozen=True, slots=True)
class Standing:
    """How many items are finished.

    Attributes:
        finished: with and without a result.
        failures: items that failed, by error code, the most first.
    """

    finished: Finished
    failures: dict[str, int]


def standing(run: Run) -> Standing:
    """Count a run's items. Raises JobError: a part cannot be read."""
    failed: dict[bytes, str] = {}
    ok: set[bytes] = set()
    for path in tree(run.index):
        found = read_part(path, ("item_id", "status", "error_code", "round"))
        for row in found.to_pylist():
            name = bytes.fromhex(row["item_id"])
            if row["status"] == "failed":
                failed[name] = row["error_code"]
            else:
                ok.add(name)
    left = {name: code for name, code in failed.items() if name not in ok}
    return Standing(Finished(len(ok), len(left)), dict(Counter(left.values()).most_common()))
