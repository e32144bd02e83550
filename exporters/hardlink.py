"""A file that is to stand in a second place: a hard link where the file system allows one, else a copy.

Knows how to write such a file anew without changing its other places. Does not know what the files are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def place(source: Path, at: Path) -> None:
    """Put ``source`` at ``at`` as well, at once: a reader sees what was there before, or all of it."""
    at.parent.mkdir(parents=True, exist_ok=True)
    made = at.with_name(at.name + ".tmp")
    made.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), made)
    except OSError:
        shutil.copyfile(source, made)
    made.replace(at)
    made.unlink(missing_ok=True)  # a replacement by another link of the same file does nothing


@contextmanager
def replacing(at: Path) -> Iterator[Path]:
    """A path to write to in the block; at its end the file becomes ``at``, and what was linked to ``at`` stays."""
    made = at.with_name(f"new-{at.name}")
    try:
        yield made
        made.replace(at)
    finally:
        made.unlink(missing_ok=True)
