"""Silence around pydicom: what it warns and logs of an object quotes the object's values.

Knows pydicom's validation, warnings and log. Does not know objects. The settings are the process's own, so that
one thread at a time has them changed; other threads' warnings are not shown meanwhile.
"""

from __future__ import annotations

import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import config
from pydicom.errors import InvalidDicomError

MALFORMED = (
    ArithmeticError, AssertionError, AttributeError, EOFError, InvalidDicomError, LookupError, MemoryError,
    OSError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises for objects that lie about themselves, too deep nesting (RecursionError) included."""

_LOCK = threading.RLock()
_LOGGER = logging.getLogger("pydicom")


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is validated, warned of or logged by pydicom within."""
    with _LOCK, config.disable_value_validation(), warnings.catch_warnings():
        disabled, _LOGGER.disabled = _LOGGER.disabled, True
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            _LOGGER.disabled = disabled
