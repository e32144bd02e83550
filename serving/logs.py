"""Lines of the log: a message, and fields beside it.

Two forms of the same: words followed by ``name=value`` for people, one JSON object a line for machines. Fields
are numbers, booleans and short words of ours, so neither form needs to quote them. Does not know what is logged.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO

Format = Literal["text", "json"]
Value = float | str | None
_FIELDS = "fields"
_WARNINGS = logging.getLogger("py.warnings")


def fields(**values: Value) -> dict[str, dict[str, Value]]:
    """For ``extra=``: ``LOG.info("round", extra=fields(index=3))``."""
    return {_FIELDS: values}


class TextFormatter(logging.Formatter):
    """``2026-11-27 13:37:01,123 INFO serving.rounds round index=3``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        line = super().formatMessage(record)
        return " ".join([line, *(f"{name}={_word(value)}" for name, value in _fields_of(record).items())])


class JsonFormatter(logging.Formatter):
    """One object a line, tracebacks within it."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def as_json(words: str) -> str:
    """One object for words that are said before logging is set."""
    return JsonFormatter().format(logging.LogRecord("serving", logging.ERROR, "", 0, words, None, None))


def log_warning(  # noqa: PLR0917  # warnings.showwarning's signature
    message: Warning | str,  # noqa: ARG001  # may quote what a library has read of an image
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001  # warnings.showwarning's
    line: str | None = None,  # noqa: ARG001
) -> None:
    """For ``warnings.showwarning``: its kind and place, as a line of the log."""
    _WARNINGS.warning("%s at %s:%d", category.__name__, Path(filename).name, lineno)


FORMATTERS: dict[Format, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}


def _fields_of(record: logging.LogRecord) -> dict[str, Value]:
    extra: dict[str, Value] = getattr(record, _FIELDS, {})
    return extra


def _word(value: Value) -> str:
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)
