"""Files of an object store, by what fsspec knows of its scheme; needs the extra ``s3``, or another's package.

S3 is read with pyarrow, which finds credentials and region where AWS's own programs do (``AWS_ACCESS_KEY_ID``,
``AWS_REGION``, ``~/.aws``, the machine's role); ``AWS_ENDPOINT_URL`` is read here. Knows listing and reading. Does
not know what files hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import S3FileSystem

from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.ours import MOST_BYTES, is_ours

__all__ = ["copy", "files", "read"]
_SCHEMES = frozenset({"abfs", "az", "gcs", "gs", "memory", "s3"})
"""Others may be chained, or run what a name says."""
_CONNECT_SECONDS = 10
_PIECE = 8 << 20


def files(source: str, ours: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """Addresses of every file below one: a folder's, sorted, then those of the folders in it. What lies in a copy
    of a folder of a job, a run or a report of ours is none of a source's.

    Args:
        ours: is told the address of each such folder.

    Raises:
        SourceError: it cannot be listed.
    """
    empty = True
    for uri in _files(source, ours):
        empty = False
        yield uri
    if empty:
        raise SourceError("there is no file to plan below this address")


def _files(source: str, ours: Callable[[str], None]) -> Iterator[str]:
    try:
        store, path = _opened(source)
        folders = [path.rstrip("/")]
        while folders:
            folder = folders.pop()
            entries = sorted(store.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
            if _is_ours(store, folder, entries):
                ours(_address(source, store, folder))
                continue
            yield from (_address(source, store, each["name"]) for each in entries if each["type"] != "directory")
            below = [each["name"].rstrip("/") for each in entries if each["type"] == "directory"]
            folders += [each for each in reversed(below) if each != folder]
    except ValueError:
        words = f"SOURCE must be a path, or an address of {', '.join(sorted(_SCHEMES - {'memory'}))}"
        raise SourceError(words) from None
    except Exception as error:  # each store has errors of its own
        raise SourceError(
            f"the store cannot be listed ({type(error).__name__}): see address, rights and endpoint"
        ) from error


def _is_ours(store: Any, folder: str, entries: list[dict[str, Any]]) -> bool:
    names = {str(each["name"]).rpartition("/")[2] for each in entries if each["type"] != "directory"}

    def read_in(name: str) -> bytes:
        with store.open(f"{folder}/{name}", "rb") as file:  # cat_file seeks, which pyarrow's cannot
            return bytes(file.read(MOST_BYTES))

    return is_ours(names, read_in)


def read(uri: str, most: int) -> bytes:
    """A file, at most ``most`` bytes of it. Raises ItemError."""
    try:
        with _file(uri) as file:
            return bytes(file.read(most))
    except ValueError:
        raise ItemError("UNSUPPORTED", "the place cannot be read: no store that is known has it") from None
    except FileNotFoundError:
        raise ItemError("SOURCE_GONE", "the file is no longer there") from None
    except Exception as error:  # as above
        raise ItemError("UNREADABLE", f"the file cannot be read ({type(error).__name__})") from error


def copy(uri: str, path: Path, most: int) -> None:
    """Copy a file to this machine. Raises SourceError: it cannot be read, or is larger than ``most`` bytes."""
    left = most
    try:
        with _file(uri) as file, path.open("wb") as target:
            while piece := file.read(min(_PIECE, left + 1)):
                target.write(piece)
                left -= len(piece)
                if left < 0:
                    raise SourceError(f"the table must hold at most {most >> 30} GiB: split it")
    except SourceError:
        raise
    except ValueError:
        raise SourceError("the table cannot be read: no store that is known has it") from None
    except Exception as error:  # as above
        raise SourceError(
            f"the table cannot be read ({type(error).__name__}): see address, rights and endpoint"
        ) from error


def _file(uri: str) -> BinaryIO:
    store, path = _opened(uri)
    return cast(BinaryIO, store.open(path, "rb"))


def _opened(uri: str) -> tuple[Any, str]:
    """The store, and the path in it. Raises ValueError: it is no address that is read."""
    scheme, _, path = uri.partition("://")
    if scheme not in _SCHEMES or "::" in uri:
        raise ValueError(scheme)
    return (_s3(), path) if scheme == "s3" else url_to_fs(uri)


@lru_cache
def _s3() -> ArrowFSWrapper:
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    scheme, _, host = server.rpartition("://")
    values = {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"} if host else {}
    return ArrowFSWrapper(S3FileSystem(connect_timeout=_CONNECT_SECONDS, **values))


def _address(source: str, store: fsspec.AbstractFileSystem, path: str) -> str:
    return f"s3://{path}" if source.startswith("s3://") else str(store.unstrip_protocol(path))
