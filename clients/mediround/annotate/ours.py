"""What says that a folder holds what we wrote: a job, one of its runs, or a report.

Knows the files' names, and how a job's and a run's are told from other programs' of that name. Does not know what
else they hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

JOB, RUN, REPORT = "job.json", "run.json", "mediround-report.txt"
MOST_BYTES = 1 << 20
"""Of a file of ours that is JSON."""
_KEYS = {JOB: {"format", "current"}, RUN: {"model_digest", "preprocessing"}}


def is_ours(names: Collection[str], read: Callable[[str], bytes]) -> bool:
    """Whether a folder is ours.

    Args:
        names: of its files, those that are none of ``JOB``, ``RUN`` and ``REPORT`` aside.
        read: a file's first ``MOST_BYTES``, by its name. What it raises goes to the caller.
    """
    return REPORT in names or any(_has(read(name), keys) for name, keys in _KEYS.items() if name in names)


def is_ours_here(folder: Path) -> bool:
    """The same of a folder of this machine. Raises OSError."""

    def read(name: str) -> bytes:
        with (folder / name).open("rb") as file:
            return file.read(MOST_BYTES)

    return is_ours([name for name in (JOB, RUN, REPORT) if (folder / name).is_file()], read)


def _has(content: bytes, keys: Collection[str]) -> bool:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.keys() >= set(keys)
