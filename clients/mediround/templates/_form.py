"""The form of a template's file: keys, types, limits, and what is said where one is broken.

Knows single values and the words of refusals. Does not know what a whole template means.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mediround.errors import FieldViolation, InvalidArgument

MAX_BYTES = 64 << 10
"""Of a file."""
MAX_QUESTIONS = 64
"""Of a template; a server's own limit may be lower."""
MAX_TEXT_BYTES = 2048
"""UTF-8, of a question or an answer."""
SEG = "[SEG]"

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_MOST_NAMED, _MOST_PROBLEMS, _MOST_NUMBER = 64, 20, 1e9
_MARKERS = (
    SEG, "[CROPPEDIMAGE]", "[BBOXINPUT]", "<image>", "<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]"
)  # fmt: skip
_KINDS = {
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


class TemplateError(InvalidArgument):
    """A template cannot be used: change what ``violations`` name, each by its key in the file.

    ``str(error)`` names the file, the first key and the fix.
    """

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]) -> None:
        violations = tuple(FieldViolation(key, words) for key, words in problems[:_MOST_PROBLEMS])
        first = violations[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{source}: {first.field}: {first.description}{more}", violations)


class Section:
    """One table of the file, whose values are taken key by key; problems are collected, not raised."""

    def __init__(self, values: object, path: str, problems: list[tuple[str, str]]) -> None:
        self._path, self._problems = path, problems
        self._values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
        if not isinstance(values, Mapping):
            self.refuse("", f"must be a table, not {_kind(values)}")

    def refuse(self, key: str, words: str) -> None:
        place = ".".join(filter(None, (self._path, key))) or "the file"
        self._problems.append((place, words))

    def known(self, *keys: str) -> None:
        """Refuse every key but these."""
        strange = [key for key in self._values if key not in keys]
        for key in strange[:_MOST_PROBLEMS]:
            near = get_close_matches(key[:_MOST_NAMED], keys, 1)
            fix = f"did you mean {near[0]}?" if near else f"known are {', '.join(keys)}"
            self.refuse(_printable(key), f"is no key of a template; {fix}")

    def text(self, key: str, *, most: int = MAX_TEXT_BYTES, needed: bool = True) -> str | None:
        """Words without control characters; None where they are missing or refused."""
        value = self._values.get(key)
        if value is None:
            if needed:
                self.refuse(key, "is missing")
            return None
        if not isinstance(value, str):
            self.refuse(key, f"must be a text in quotes, not {_kind(value)}")
            return None
        if words := _unfit(value, most, needed=needed):
            self.refuse(key, words)
            return None
        return value

    def name(self, key: str) -> str | None:
        value = self.text(key, most=_MOST_NAMED)
        if value is not None and not _NAME.fullmatch(value):
            self.refuse(key, "must be small letters, digits and single hyphens, for example left-thalamus")
            return None
        return value

    def code(self, key: str) -> str | None:
        """A DICOM code string."""
        value = self.text(key, most=16)
        if value is not None and not _CODE.fullmatch(value):
            self.refuse(key, "must be a DICOM code string: capitals, digits, space and _, for example BRAIN")
            return None
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str | None:
        value = self.text(key, most=_MOST_NAMED, needed=False)
        if value is not None and value not in choices:
            self.refuse(key, f"must be one of {', '.join(choices)}, or left out")
            return None
        return value

    def number(self, key: str) -> float | None:
        value = self._values.get(key)
        if value is None:
            self.refuse(key, "is missing")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, f"must be a number, not {_kind(value)}")
        elif not abs(value) <= _MOST_NUMBER:
            self.refuse(key, f"must be a number from -{_MOST_NUMBER:g} to {_MOST_NUMBER:g}")
        else:
            return float(value)
        return None

    def section(self, key: str) -> Section | None:
        value = self._values.get(key)
        return None if value is None else Section(value, ".".join(filter(None, (self._path, key))), self._problems)

    def sections(self, key: str, most: int) -> list[Section]:
        value = self._values.get(key)
        if not isinstance(value, list) or not value:
            self.refuse(key, f"must hold at least one, each beginning with [[{key}]]")
            return []
        if len(value) > most:
            self.refuse(key, f"must hold at most {most}; it holds {len(value)}")
            return []
        return [Section(each, f"{key}[{index}]", self._problems) for index, each in enumerate(value)]


def marker_in(words: str) -> str | None:
    """A reserved marker of the model that the words hold, as the service finds it; None: none."""
    folded = unicodedata.normalize("NFKC", words)
    return next((marker for marker in _MARKERS if marker in words or marker in folded), None)


def _unfit(value: str, most: int, *, needed: bool) -> str | None:
    size = len(value.encode())
    if size > most:
        return f"must hold at most {most} bytes of UTF-8; it holds {size}"
    if needed and not value.strip():
        return "must not be empty"
    for position, character in enumerate(value):
        if unicodedata.category(character) == "Cc":
            return f"must not hold a control character (U+{ord(character):04X} at position {position})"
    return None


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a date or time")


def _printable(key: str) -> str:
    """Keys come from a file and must not steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in key[:_MOST_NAMED])
