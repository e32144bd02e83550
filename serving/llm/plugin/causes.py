"""The causes of a start that failed, from vLLM's processes to the one that started them.

vLLM logs a failure with its traceback in the process where it happens, and tells the parent only that there was
one. ``watch`` notes the exception itself, in each of vLLM's processes; ``recorded`` reads the notes. Knows vLLM's
logger. Does not know what fails.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

VARIABLE = "MEDIROUND_VLLM_CAUSES"
"""Names the file of notes while an engine starts; vLLM's processes inherit it."""
_LOGGER = logging.getLogger("vllm")
_POINTS_ELSEWHERE = "root cause"
"""Of vLLM's words for a failure in another process."""
_LONGEST = 600
"""Characters of a cause."""


class _Notes(logging.Handler):
    """Appends each exception that is logged as a line of JSON, which the system writes in one piece."""

    def emit(self, record: logging.LogRecord) -> None:
        error, path = record.exc_info[1] if record.exc_info else None, os.environ.get(VARIABLE)
        if error is None or path is None:
            return
        with suppress(OSError):  # the start is over, and its file gone
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, json.dumps(in_a_line(error)).encode() + b"\n")
            finally:
                os.close(descriptor)


def watch() -> None:
    """Note the exceptions that vLLM logs in this process while an engine starts; idempotent."""
    if not any(isinstance(handler, _Notes) for handler in _LOGGER.handlers):
        _LOGGER.addHandler(_Notes(logging.ERROR))


@contextmanager
def recorded() -> Iterator[Callable[[], str | None]]:
    """The first cause that a process started in this block has noted; None of one that was killed."""
    with tempfile.TemporaryDirectory(prefix="mediround-vllm-") as directory:
        path = Path(directory) / "causes"
        path.touch()
        os.environ[VARIABLE] = str(path)

        def first() -> str | None:
            causes = (json.loads(line) for line in path.read_text().splitlines())
            return next((cause for cause in causes if _POINTS_ELSEWHERE not in cause), None)

        try:
            yield first
        finally:
            del os.environ[VARIABLE]


def in_a_line(error: BaseException) -> str:
    """Its words without line breaks, behind the name of its class where that says more than that it failed."""
    words = " ".join(str(error).split())
    if isinstance(error, ValidationError):
        words = "; ".join(each["msg"] for each in error.errors())
    elif not (words and isinstance(error, ValueError | RuntimeError)):
        words = f"{type(error).__name__}: {words}".removesuffix(": ")
    return words if len(words) <= _LONGEST else words[:_LONGEST] + "…"
