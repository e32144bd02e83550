"""What a size of the model asks of this machine, looked for before anything is made.

Knows disk, memory and packages. Does not know what is done with them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from serving.runtime.cpus import usable_cpus

GB = 1e9
_PACKAGES = {
    "vllm": "vLLM's CPU build: make env-vllm",
    "openvino": "OpenVINO, which encodes: pip install '.[openvino]'",
    "torch": "torch: make env-export",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """In bytes."""

    disk: float
    disk_when_consumed: float
    memory: float
    """Free for what is served: the weights, their cache, and both servers."""
    graph_size: str | None = None
    """A smaller size whose language graph is over 2 GiB, to be damaged as well; None: left out."""


SIZES: Mapping[str, Needs] = {
    "mediround-0.4b": Needs(disk=2.5 * GB, disk_when_consumed=1.8 * GB, memory=5 * GB),
    "mediround-7b": Needs(disk=35 * GB, disk_when_consumed=20 * GB, memory=20 * GB, graph_size="mediround-0.7b"),
}


def lacking(size: str, out: Path, *, consume: bool) -> list[str]:
    """What this machine lacks, in words; empty if it lacks nothing."""
    return list(_lacking(SIZES[size], out, consume=consume))


def words(size: str, *, consume: bool) -> str:
    """What the size asks for."""
    needs = SIZES[size]
    disk = needs.disk_when_consumed if consume else needs.disk
    return f"{size} needs {disk / GB:.1f} GB of disk and {needs.memory / GB:.0f} GB of free memory"


def _lacking(needs: Needs, out: Path, *, consume: bool) -> Iterator[str]:
    yield from (remedy for package, remedy in _PACKAGES.items() if find_spec(package) is None)
    disk = needs.disk_when_consumed if consume else needs.disk
    if (free := shutil.disk_usage(out).free) < disk:
        advice = "" if consume else ", or --consume the checkpoint"
        yield f"{disk / GB:.1f} GB of disk at {out}, where {free / GB:.1f} GB are free: free some{advice}"
    if (available := available_memory()) < needs.memory:
        yield f"{needs.memory / GB:.0f} GB of free memory, where {available / GB:.1f} GB are free: end programs"
    if usable_cpus() < 2:
        yield "two CPU cores: with one, the server's own calls time out"


def available_memory() -> int:
    """Bytes that programs may still take. Linux only."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(match[1]) * 1024 if match else 0
