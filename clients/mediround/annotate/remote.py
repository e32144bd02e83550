"""Files of an object store, by what fsspec knows of its scheme; needs the extra ``s3``, or another's package.

Knows listing and reading. Does not know what files hold.
"""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
from fsspec.core import url_to_fs

from mediround.annotate.errors import ItemError, SourceError

__all__ = ["files", "read"]
_SCHEMES = frozenset({"abfs", "az", "gcs", "gs", "memory", "s3"})
"""Others may be chained, or run what a name says."""


def files(source: str) -> Iterator[str]:
    """Addresses of every file below one, sorted. Raises SourceError: it cannot be listed."""
    if source.partition("://")[0] not in _SCHEMES or "::" in source:
        raise SourceError(f"SOURCE must be a path, or an address of {', '.join(sorted(_SCHEMES - {'memory'}))}")
    try:
        store, path = url_to_fs(source)
        found = sorted(store.find(path))
    except Exception as error:  # each store has errors of its own
        raise SourceError(
            f"the store cannot be listed ({type(error).__name__}): see address and rights"
        ) from error
    if not found:
        raise SourceError("there is no file below this address")
    yield from (store.unstrip_protocol(each) for each in found)


def read(uri: str, most: int) -> bytes:
    """A file, at most ``most`` bytes of it. Raises ItemError."""
    if uri.partition("://")[0] not in _SCHEMES or "::" in uri:
        raise ItemError("UNSUPPORTED", "the place cannot be read: no store that is known has it")
    try:
        with fsspec.open(uri, "rb") as file:
            return bytes(file.read(most))
    except FileNotFoundError:
        raise ItemError("SOURCE_GONE", "the file is no longer there: plan again") from None
    except Exception as error:  # as above
        raise ItemError("UNREADABLE", f"the file cannot be read ({type(error).__name__})") from error
