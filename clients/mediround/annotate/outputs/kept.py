"""Files of an output: written where they are not there as they must be, so that a second export costs little.

Knows files. Does not know what they hold.
"""

from __future__ import annotations

from pathlib import Path

from mediround.annotate.errors import JobError
from mediround.annotate.files import write_atomic


def keep(path: Path, content: bytes) -> bool:
    """Whether it had to be written. Raises JobError: it cannot be."""
    try:
        if path.stat().st_size == len(content) and path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    except OSError as error:
        raise JobError(f"{path.name}: cannot be read ({error.strerror}); move it away") from error
    write_atomic(path, content)
    return True
