"""Stray output: what libraries written in C, and processes started here, write to stdout and stderr themselves.

In a log of JSON objects each becomes an object too. Knows file descriptors 1 and 2. Does not know what is written.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TextIO

_PIPE_BYTES = 1 << 20
_CLOSING_SECONDS = 1.0
"""For the last lines; a process that lives longer than this one keeps its end open."""
_LINE_BYTES = 4096


@contextmanager
def kept_stderr() -> Iterator[TextIO]:
    """What is stderr now, for code that goes on writing to it while ``logged`` takes its place."""
    with os.fdopen(os.dup(2), "w", encoding="utf-8", buffering=1) as stream:
        yield stream


@contextmanager
def logged(log: logging.Logger) -> Iterator[None]:
    """Log what is written to stdout and stderr while the block runs, line by line; ``log`` must not write there.

    A line that finds the pipe full is lost rather than waited for: the writer may hold this
    interpreter's lock, without which nothing is read.
    """
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    os.set_blocking(writing, False)
    before = [os.dup(1), os.dup(2)]
    reader = Thread(target=_log_lines, args=(reading, log), name="stray-output", daemon=True)
    for number in (1, 2):
        os.dup2(writing, number)
    os.close(writing)
    reader.start()
    try:
        yield
    finally:
        for number, kept in enumerate(before, start=1):
            os.dup2(kept, number)
            os.close(kept)
        reader.join(_CLOSING_SECONDS)


def _log_lines(reading: int, log: logging.Logger) -> None:
    with os.fdopen(reading, "rb") as stream:
        while line := stream.readline(_LINE_BYTES):
            if words := line.decode(errors="backslashreplace").strip():
                log.warning("%s", words)
