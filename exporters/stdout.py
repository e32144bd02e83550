"""Standard output kept for the report: whatever else would be written to it goes to standard error.

Libraries log to standard output, in this process and in processes of their own (vLLM does both). Knows files and
file descriptors. Does not know who writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_STDOUT, _STDERR = 1, 2


@contextmanager
def logs_on_stderr() -> Iterator[None]:
    """While the block runs: of Python, of libraries in C, and of processes started meanwhile, for good."""
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    try:
        os.dup2(_STDERR, _STDOUT)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, _STDOUT)
        os.close(kept)
