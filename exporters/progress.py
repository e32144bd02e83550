"""Steps of a long command, told to people as they begin.

Knows where they are told. Does not know commands.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[str], None]


def timed() -> Progress:
    """Steps on standard error, each with the seconds since now."""
    began = time.monotonic()

    def tell(step: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {step}", file=sys.stderr, flush=True)

    return tell
