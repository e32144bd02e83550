"""Which items are planned: the manifest's names on disk, so that memory stays flat.

Knows a job's manifest. Does not know why it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mediround.annotate.job import Job
from mediround.annotate.manifest import read_names
from mediround.annotate.sorting import Names, names


@contextmanager
def planned(job: Job) -> Iterator[Names]:
    """The manifest's items, while the block runs. Raises JobError: it cannot be read, or the disk is full."""
    with names() as found:
        for piece in read_names(job.manifest):
            for name in piece:
                found.add(name)
        yield found
