"""The GPU of this host, as its driver tells: what plans are built for.

Knows nvidia-smi. Does not know TensorRT.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from exporters.errors import SourceError

_QUERY = ("--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader,nounits")
_SECONDS = 30
_MIB = 1 << 20


class NoGpuError(SourceError):
    """The GPU is not known. Run it where the GPU is, or name the architecture (``--capability``)."""


@dataclass(frozen=True, slots=True)
class Gpu:
    capability: str
    """Its architecture, such as 9.0."""
    name: str | None = None
    driver: str | None = None
    memory: int | None = None
    """Bytes in all."""


def find_gpu() -> Gpu:
    """The first GPU, if all are of one architecture.

    Raises:
        NoGpuError: there is none, or they are of several.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        raise NoGpuError("no nvidia-smi here: run it on the GPU's host, or name its --capability")
    try:
        said = subprocess.run([command, *_QUERY], capture_output=True, text=True, timeout=_SECONDS, check=True)  # noqa: S603  # found above
    except (OSError, subprocess.SubprocessError) as error:
        raise NoGpuError(f"nvidia-smi failed ({type(error).__name__}): name the GPU's --capability") from error
    return parse_gpus(said.stdout)


def parse_gpus(said: str) -> Gpu:
    """From nvidia-smi's lines ``name, compute capability, driver, MiB``; of several the least memory.

    Raises:
        NoGpuError: as ``find_gpu`` does.
    """
    lines = [[field.strip() for field in line.rsplit(",", 3)] for line in said.splitlines() if line.strip()]
    if not lines or any(len(fields) != 4 for fields in lines):
        raise NoGpuError("nvidia-smi lists no GPU: name its --capability")
    if len({fields[1] for fields in lines}) > 1:
        raise NoGpuError(
            "this host has GPUs of several architectures: show TensorRT one of them (CUDA_VISIBLE_DEVICES), "
            "and name its --capability"
        )
    name, capability, driver, _ = lines[0]
    sizes = [fields[3] for fields in lines]  # "[N/A]" where the GPU has its host's memory
    known = all(size.isdecimal() for size in sizes)
    return Gpu(capability, name, driver, min(map(int, sizes)) * _MIB if known else None)
