"""``mediround annotate`` as a process, killed at random points before it is let end.

Knows processes. Does not know what a run does.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

_ANNOTATE = (sys.executable, "-m", "mediround", "annotate")
_SHORTEST, _LONGEST = 2.0, 10.0
"""Seconds from a start to its kill: its imports alone take one."""


def annotate(*words: str) -> tuple[int, str]:
    """Exit code, and what it printed, of one command."""
    command = [*_ANNOTATE, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own
    return done.returncode, done.stdout + done.stderr


def begun(words: Sequence[str]) -> subprocess.Popen[bytes]:
    """The same, in a process that is not waited for; it says nothing."""
    command = [*_ANNOTATE, *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603  # as above


def killed(words: Sequence[str], kills: int, seed: int) -> int:
    """Start a command, and kill it (-9), so many times; how many starts were killed before they ended."""
    draw, hit = np.random.default_rng(seed), 0
    for _ in range(kills):
        process = begun(words)
        time.sleep(draw.uniform(_SHORTEST, _LONGEST))
        hit += process.poll() is None
        process.kill()
        process.wait()
    return hit
