"""``mediround annotate`` as a process, killed at random points before it is let end.

Knows processes. Does not know what a run does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_ANNOTATE = (sys.executable, "-m", "mediround", "annotate")
_LONGEST = 5.0
"""Seconds from a start's first result to its kill."""
_LOOK_SECONDS = 0.1


def annotate(*words: str) -> tuple[int, str]:
    """Exit code, and what it printed, of one command."""
    command = [*_ANNOTATE, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own
    return done.returncode, done.stdout + done.stderr


def begun(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """The same, in a process that is not waited for; it says nothing."""
    command = [*_ANNOTATE, *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603  # as above


def is_at_work(process: subprocess.Popen[bytes], index: Path, before: set[str]) -> bool:
    """Wait until a run has kept something; False: it has ended.

    Args:
        index: of the run.
        before: what it held before its start, by ``held``.
    """
    while process.poll() is None:
        if held(index) - before:
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def held(index: Path) -> set[str]:
    """Names of what was kept in an index and is not merged."""
    return {path.name for path in index.glob("part-*.parquet")}


def killed(words: Sequence[str], index: Path, kills: int, seed: int) -> int:
    """Start a run, and kill it (-9) after its first result, so many times; how many starts were killed at work."""
    draw, hit = np.random.default_rng(seed), 0
    for _ in range(kills):
        before = held(index)
        process = begun(words)
        if is_at_work(process, index, before):
            time.sleep(draw.uniform(0.0, _LONGEST))
            hit += process.poll() is None
        process.kill()
        process.wait()
    return hit
