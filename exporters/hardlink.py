"""A file that is to stand in a second place: a hard link where the file system allows one, else a copy.

External data of graphs is copied: ONNX's tools refuse to read it from a file that has several links.

Does not know what the files are. Such a file is never written in place: its other places would change.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from serving.bundle import EXTERNAL


def place(source: Path, at: Path) -> None:
    """Put ``source`` at ``at`` as well, at once: a reader sees what was there before, or all of it."""
    at.parent.mkdir(parents=True, exist_ok=True)
    made = at.with_name(at.name + ".tmp")
    made.unlink(missing_ok=True)
    if source.name.endswith(EXTERNAL) or not _linked(source, made):
        shutil.copyfile(source, made)
    made.replace(at)
    made.unlink(missing_ok=True)  # a replacement by another link of the same file does nothing


def _linked(source: Path, made: Path) -> bool:
    try:
        os.link(source.resolve(), made)
    except OSError:
        return False
    return True
