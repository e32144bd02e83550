"""Attributes as they must be: numbers within bounds, of the data set or of a frame's functional groups.

Knows how a value is read from a data set that may hold anything. Does not know which attributes an image needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from mediround.dicom.errors import BadAttribute
from mediround.dicom.quiet import MALFORMED, quiet


def value_of(dataset: Dataset, keyword: str) -> Any:
    """The attribute's value; None where it is missing or empty. Raises BadAttribute where it cannot be read."""
    with quiet():
        try:
            value = dataset.get(keyword)
            # Not every sequence may be compared: highdicom's raise.
            empty = not len(value) if isinstance(value, Sequence) else value == ""
            return None if value is None or empty else value
        except MALFORMED as error:
            raise bad(keyword, f"cannot be read ({type(error).__name__})") from None


def whole(dataset: Dataset, keyword: str, lowest: int, highest: int, default: int | None = None) -> int:
    """A whole number. Raises BadAttribute; also where it is missing and has no default."""
    value = value_of(dataset, keyword)
    if value is None:
        if default is None:
            raise bad(keyword, "must be there")
        return default
    number = _number(value)
    if number is None or number != int(number) or not lowest <= number <= highest:
        raise bad(keyword, f"must be a whole number from {lowest} to {highest}")
    return int(number)


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Finite numbers; none where it is missing. Raises BadAttribute."""
    value = value_of(dataset, keyword)
    if value is None:
        return ()
    found = [_number(each) for each in (value if _many(value) else [value])]
    if any(each is None for each in found):
        raise bad(keyword, "must be finite numbers")
    return tuple(each for each in found if each is not None)


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Code strings, upper case; none where it is missing."""
    value = value_of(dataset, keyword)
    if value is None:
        return ()
    return tuple(str(each).strip().upper() for each in (value if _many(value) else [value]))


def text(dataset: Dataset, keyword: str) -> str:
    """One text, of several the first; empty where it is missing or cannot be read."""
    try:
        value = value_of(dataset, keyword)
    except BadAttribute:
        return ""
    return str(value[0] if _many(value) else value) if value is not None else ""


def words(dataset: Dataset, keyword: str, order: str = "<") -> npt.NDArray[np.uint16] | None:
    """A table's data as 16-bit words, whatever its VR; None where it is missing. Raises BadAttribute."""
    value = value_of(dataset, keyword)
    if value is None:
        return None
    if isinstance(value, bytes):
        return np.frombuffer(value[: len(value) // 2 * 2], f"{order}u2").astype(np.uint16)
    found = list(value) if _many(value) else [value]
    if not all(isinstance(each, int) for each in found):
        raise bad(keyword, "must be bytes or whole numbers")
    return (np.asarray(found, np.int64) & 0xFFFF).astype(np.uint16)


def byte_order(dataset: Dataset) -> str:
    """numpy's sign of a data set's byte order."""
    return ">" if dataset.original_encoding[1] is False else "<"


def item(dataset: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence; None where there is none. Raises BadAttribute."""
    value = value_of(dataset, keyword)
    if value is None:
        return None
    with quiet():
        try:
            first = value[0]
        except MALFORMED as error:
            raise bad(keyword, f"must be a sequence ({type(error).__name__})") from None
    if not isinstance(first, Dataset):
        raise bad(keyword, "must be a sequence")
    return first


def group(dataset: Dataset, keyword: str, index: int) -> Dataset:
    """What holds a functional group's attributes for a frame: its own, the shared ones, or the data set itself."""
    for place in (_frames_own(dataset, index), item(dataset, "SharedFunctionalGroupsSequence")):
        if place is not None and (found := item(place, keyword)) is not None:
            return found
    return dataset


def bad(keyword: str, description: str) -> BadAttribute:
    tag = tag_for_keyword(keyword)
    where = "" if tag is None else f" ({tag >> 16:04X},{tag & 0xFFFF:04X})"
    return BadAttribute(f"{keyword}{where}: {description}", keyword)


def _frames_own(dataset: Dataset, index: int) -> Dataset | None:
    groups = value_of(dataset, "PerFrameFunctionalGroupsSequence")
    if groups is None:
        return None
    with quiet():
        try:
            own = groups[index] if index < len(groups) else None
        except MALFORMED as error:
            raise bad("PerFrameFunctionalGroupsSequence", f"cannot be read ({type(error).__name__})") from None
    return own if isinstance(own, Dataset) else None


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever the file holds
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def _many(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
