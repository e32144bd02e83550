"""A directory that appears with all of its files, or not at all.

Knows where unfinished work lies and how it takes its place. Does not know what the files are, but for the
manifest, which comes last where a directory is replaced.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporters.progress import Progress
from serving.bundle import EXTERNAL, MANIFEST, VLLM

UNFINISHED = ".unfinished"
"""Suffix of the directory beside the one to come, or its name in one that is there already."""


@contextmanager
def staged(out: Path, progress: Progress) -> Iterator[Path]:
    """A new directory to write a bundle into; at the block's end it becomes ``out``.

    Where ``out`` is there already, each file takes the place of its namesake, what a bundle that stood there had
    beyond this one's files is removed, and all else stays. Files that are linked to those in it
    (``exporters.hardlink``) stay as they are.
    """
    out = out.resolve()
    beside, within = out.with_name(out.name + UNFINISHED), out / UNFINISHED
    for left in (beside, within):
        if left.exists():
            progress(f"removing {left}, which an export that was cut short has left")
            shutil.rmtree(left)
    work = within if out.exists() else beside  # it may be a volume: renaming does not leave one
    work.mkdir(parents=True)
    try:
        yield work
        if out.exists():
            _replace(work, out)
        else:
            work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(work: Path, out: Path) -> None:
    made = [path.relative_to(work) for path in work.rglob("*") if path.is_file()]
    (out / MANIFEST).unlink(missing_ok=True)
    for pattern in ("*.onnx", f"*.onnx{EXTERNAL}", f"{VLLM}/*"):
        for stale in out.glob(pattern):
            if stale.relative_to(out) not in made and not stale.is_dir():
                stale.unlink()
    for name in sorted(made, key=lambda name: name == Path(MANIFEST)):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).replace(out / name)
