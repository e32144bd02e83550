"""Processes and their memory: commands that run to their end, and trees of those that serve.

Knows /proc and exit statuses. Linux only. Does not know what the processes do.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.server_process import peak_memory


class StageFailed(Exception):
    """A command ended otherwise than it should have; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command, or one step of this process."""

    name: str
    seconds: float
    peak_bytes: int
    """Resident at most, mapped files included; 0: not measured."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Of one process that serves."""

    name: str
    peak_bytes: int
    """Resident at most so far; of mapped files, those pages that were read."""
    anonymous_bytes: int
    """Now, and of no file: what cannot be given back."""


def run(name: str, module: str, arguments: Sequence[str]) -> Stage:
    """``python -m module``, its output shown. Raises StageFailed unless it ends with 0."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])  # noqa: S603  # our own command
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise StageFailed(f"{name}: python -m {module} ended with {process.returncode}")
    return Stage(name, time.monotonic() - began, usage.ru_maxrss * 1024)


def refused(module: str, arguments: Sequence[str], word: str, status: int = 2) -> str:
    """The line in which ``python -m module`` refuses. Raises StageFailed if it does not, or not with ``word``."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)  # noqa: S603  # our own
    lines = [line for line in done.stderr.splitlines() if word in line]
    if done.returncode != status or not lines:
        raise StageFailed(f"python -m {module} ended with {done.returncode}, not {status}: {done.stderr[-500:]}")
    return lines[-1]


def tree(name: str, pid: int) -> list[MemoryUse]:
    """A process and all that it started, those of less than 20 MB left out."""
    uses = [_use(name, pid), *(_use(f"{name}: {_command(child)}", child) for child in _descendants(pid))]
    return [use for use in uses if use.peak_bytes > 20e6]


def _use(name: str, pid: int) -> MemoryUse:
    match = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return MemoryUse(name, peak_memory(pid), int(match[1]) * 1024 if match else 0)


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield int(child)
            yield from _descendants(int(child))
