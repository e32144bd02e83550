"""Exit codes, and which errors end in which.

Knows ``docs/batch.md``'s table. Does not know commands.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mediround._commands import tls as tls_of
from mediround.annotate.errors import AnnotateError, NotNow, SourceError, Stopped
from mediround.errors import InvalidArgument, MediRoundError

DONE, NOT_RUN, ITEMS_FAILED, GIVEN_UP, INTERRUPTED = 0, 2, 3, 4, 130
_PASSING = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.EMFILE,
    errno.ENOMEM,
}
"""A disk that is full or fails, a network or a server that is gone for a while, a machine that has no room."""

AGAIN = (
    "again      `mediround annotate run --retry-failed` asks them again; docs/batch.md says what each code means"
)

__all__ = ["AGAIN", "DONE", "GIVEN_UP", "INTERRUPTED", "ITEMS_FAILED", "NOT_RUN", "guarded", "needing", "tls_of"]


def guarded(command: Callable[[], int]) -> int:
    """A command's exit code; its errors are one line."""
    try:
        return command()
    except NotNow as error:
        print(f"error: {error}; the same command may do better later", file=sys.stderr)
        return GIVEN_UP
    except Stopped as error:
        print(f"stopped: {error}; once that is mended the same command goes on", file=sys.stderr)
        return GIVEN_UP
    except (AnnotateError, SourceError, InvalidArgument, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return GIVEN_UP if _passes(error) else NOT_RUN
    except MediRoundError as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return GIVEN_UP
    except KeyboardInterrupt:
        print("interrupted: what is finished stays; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _passes(error: BaseException | None) -> bool:
    """Whether a machine is what hindered it, which may be mended without another command."""
    while error is not None and not (isinstance(error, OSError) and error.errno in _PASSING):
        error = error.__cause__
    return error is not None


@contextmanager
def needing(extras: str) -> Iterator[None]:
    """Around imports of what is an extra. Raises SourceError: it is not installed."""
    try:
        yield
    except ModuleNotFoundError as missing:
        package = str(missing.name).partition(".")[0]
        words = f"{package} is not installed: in the repository, pip install './clients[{extras}]'"
        raise SourceError(words) from missing
