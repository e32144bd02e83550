"""Shared memory that a server on this host may map: one region of equal slots, each for one array.

Knows POSIX shared memory on Linux, which slots are free, and which may still be written by a process that never
replied. Does not know what lies in a slot, nor the server. All on one event loop.

A region's file is locked for as long as its owner lives. So a start can remove the regions of dead processes, also
of other containers, where process ids mean nothing.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.stats import SlabStats

DIRECTORY = Path("/dev/shm")  # noqa: S108  # Linux's shared memory, not a temporary file
PREFIX = "mediround_slab_"
_ALIGNMENT = 64
"""Bytes: a cache line, and what vector instructions like."""


class SlabError(OSError):
    """No region can be made; the message says what to change."""


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """Room for one array."""

    slab: Slab
    offset: int
    nbytes: int
    values: npt.NDArray[Any] = field(repr=False)


class Slab:
    """A region and its slots. Close it: its memory is the host's until then."""

    def __init__(self, slots: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Allocate all slots at once, so that a lack of memory shows now and not in the midst of a write.

        Raises:
            SlabError: there is not so much shared memory.
        """
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._size = int(np.prod(shape)) * self._dtype.itemsize
        self._stride = -(-self._size // _ALIGNMENT) * _ALIGNMENT
        self.nbytes = slots * self._stride
        self.name = f"{PREFIX}{os.getpid()}_{secrets.token_hex(8)}"
        self._file = _created(DIRECTORY / self.name, self.nbytes)
        self._memory = mmap.mmap(self._file, self.nbytes)
        self._free = [slot * self._stride for slot in reversed(range(slots))]
        self._doubtful: list[int] = []

    @property
    def key(self) -> str:
        """The POSIX name of the region."""
        return f"/{self.name}"

    @property
    def free(self) -> int:
        """Slots that may be taken."""
        return len(self._free)

    @property
    def taken(self) -> int:
        """Slots in use."""
        return self.nbytes // self._stride - len(self._free) - len(self._doubtful)

    @property
    def withheld(self) -> int:
        """Slots whose writer was lost and may still write."""
        return len(self._doubtful)

    @property
    def stats(self) -> SlabStats:
        return SlabStats(self.free, self.taken, self.withheld)

    def take(self) -> Slot | None:
        """A free slot; None when there is none."""
        if not self._free:
            return None
        offset = self._free.pop()
        values = np.frombuffer(self._memory, self._dtype, self._size // self._dtype.itemsize, offset)
        return Slot(self, offset, self._size, values.reshape(self._shape))

    def give_back(self, slot: Slot) -> None:
        """The slot is neither read nor written any more."""
        self._free.append(slot.offset)

    def withhold(self, slot: Slot) -> None:
        """The slot's writer was lost without a reply: it stays out of use until ``remapped``."""
        self._doubtful.append(slot.offset)

    def remapped(self) -> None:
        """A server that did not have the region maps it: every writer before it is gone."""
        self._free += self._doubtful
        self._doubtful.clear()

    def close(self) -> None:
        """Take the region from the host. Arrays in it stay readable while they are referenced. Idempotent."""
        if self._file < 0:
            return
        (DIRECTORY / self.name).unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1
        self._free.clear()


def sweep() -> int:
    """Remove the regions of processes that are gone; how many there were."""
    return sum(_removed_if_dead(path) for path in DIRECTORY.glob(f"{PREFIX}*"))


def is_gone(key: str) -> bool:
    """Whether no region of this name is on this host."""
    return not (DIRECTORY / key.removeprefix("/")).exists()


def _created(path: Path, nbytes: int) -> int:
    """Create the backing file fully allocated, and lock it before it is named so that ``sweep`` never takes it for
    an orphan.
    """
    file = -1
    try:
        file = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.posix_fallocate(file, 0, nbytes)
        # With a directory given, Python follows the link; its meaning is none, for the path is absolute.
        os.link(f"/proc/self/fd/{file}", path, src_dir_fd=file, follow_symlinks=True)
    except OSError as error:
        if file >= 0:
            os.close(file)
        if error.errno in {errno.ENOSPC, errno.ENOMEM, errno.EFBIG}:
            raise SlabError(
                f"{DIRECTORY} has no {nbytes >> 20} MiB left: give the container more (docker --shm-size, an "
                "emptyDir with medium: Memory), or take a smaller slab (--triton.slab-bytes)"
            ) from error
        raise SlabError(f"{path} cannot be made: {error.strerror}") from error
    return file


def _removed_if_dead(path: Path) -> bool:
    with suppress(OSError):  # gone meanwhile, or another user's
        file = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(file)
        return True
    return False
