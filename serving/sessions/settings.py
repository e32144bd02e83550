"""Settings of where sessions are kept.

Does not build a store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from serving.rpc.settings import MIB, Bytes, Positive, SettingsSection


class SessionSettings(SettingsSection):
    """Where sessions are that their callers ask to keep; all others are in memory, whatever is set."""

    store: Literal["memory", "sqlite"] = "memory"
    """``memory``: they end as all others do. ``sqlite``: they are in a file, until ``limits.session-lifetime``."""
    path: Path | None = None
    """The file, for ``sqlite``; made where there is none, readable by its owner alone."""
    durability: Literal["process", "power"] = "process"
    """What loses no answered round: the end of the process (kill -9, too), or also that of the power (slower)."""
    max_bytes: Bytes = 4096 * MIB
    """Largest size of the file, in bytes; beyond it rounds of kept sessions are refused."""
    max_per_caller: Positive = 1000
    """Sessions of one caller in the file; without client certificates all callers are one."""
    key_file: Path | None = None
    """File of 64 hexadecimal digits, the key by which words, masks and images are encrypted; without it words and
    masks lie open in the file. Needs the extra ``encryption``.
    """
    images: Literal["none", "encrypted"] = "none"
    """Whether the file has images, too. ``none``: a caller sends the image again to take a parked session up.
    ``encrypted`` needs key-file.
    """

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.store == "sqlite") != (self.path is not None):
            raise ValueError("path must be given with store sqlite, and left out with memory")
        if self.store == "memory" and self.model_fields_set - {"store", "path"}:
            raise ValueError("all but store must be left out unless it is sqlite")
        if self.images == "encrypted" and self.key_file is None:
            raise ValueError("key-file must be given with images encrypted")
        return self
