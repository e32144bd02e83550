"""CPUs that this process may use: of its affinity and of its control group's quota, the smaller; and their model.

A container has its host's ``os.cpu_count()``; threads beyond its quota only take one another's time. Knows Linux'
/proc and control groups of both versions. Does not know what threads are for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """At least 1; of a quota of 2.5 CPUs, 2. ``root``: where ``proc`` is mounted, and what its paths are below."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas(root)])))


def cpu_model(root: Path = _ROOT) -> str:
    """Name and instruction sets of the first CPU, as Linux says them; empty where it does not."""
    first, _, _ = _text(root / "proc/cpuinfo").partition("\n\n")
    kept = {"model name", "cpu family", "model", "stepping", "flags", "Features", "CPU implementer", "CPU part"}
    fields = ([each.strip() for each in line.split(":", 1)] for line in first.splitlines())
    return "\n".join(": ".join(field) for field in fields if field[0] in kept)


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each group above this process allows, where it says so: the innermost need not be the smallest."""
    groups = _text(root / "proc/self/cgroup")
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3 or not _counts_cpus(kind[0], kind[2]):
            continue
        version2 = kind[0] == "cgroup2"
        mount, top = root / _unescaped(fields[4]).lstrip("/"), _unescaped(fields[3])
        group = _group(groups, version2=version2)
        # A path that is not below the mounted one is of another namespace: what is mounted is ours.
        inside = Path(group).relative_to(top) if Path(group).is_relative_to(top) else Path()
        read = _quota_v2 if version2 else _quota_v1
        for directory in [mount / inside, *(mount / inside).parents]:
            if not directory.is_relative_to(mount):
                break
            if (quota := read(directory)) is not None:
                yield quota


def _counts_cpus(kind: str, options: str) -> bool:
    return kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(","))


def _group(groups: str, *, version2: bool) -> str:
    """This process's group: of the line ``0::PATH``, or of the one whose controllers have ``cpu``."""
    for line in groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if version2 else "cpu" in controllers.split(","):
            return path
    return "/"


def _quota_v2(group: Path) -> float | None:
    words = _text(group / "cpu.max").split()
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(group: Path) -> float | None:
    return _ratio(_text(group / "cpu.cfs_quota_us").strip(), _text(group / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    """None for "max" and -1: no limit."""
    if not quota.isdecimal() or not period.isdecimal() or not int(period):
        return None
    return int(quota) / int(period)


def _unescaped(path: str) -> str:
    """Of mountinfo: a space is ``\\040``."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
