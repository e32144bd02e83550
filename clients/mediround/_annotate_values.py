"""Values of the arguments of ``mediround annotate``, from their texts; for argparse.

Knows their forms. Does not know arguments.
"""

from __future__ import annotations

import argparse
from pathlib import Path

_MAX_IN_FLIGHT = 1024
_MAX_THREADS = 1024
_MOST_ITEMS = 20_000
"""Of a report: fewer where its first page would exceed 5 MB."""
_MINUTES_AN_HOUR = 60


def shard(text: str) -> tuple[int, int]:
    """``I/N``; for argparse."""
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and int(part) < int(count)):
        raise argparse.ArgumentTypeError("must be I/N, with I from 0 to N - 1")
    return int(part), int(count)


def place(text: str) -> Path | str:
    """A path, or an address; for argparse."""
    return text if "://" in text else Path(text)


def hours(text: str) -> tuple[int, int]:
    """``HH:MM-HH:MM`` as minutes of the day; for argparse."""
    try:
        begin, end = (_minute(part) for part in text.split("-"))
    except ValueError:
        raise argparse.ArgumentTypeError("must be HH:MM-HH:MM, for example 20:00-06:00") from None
    if begin == end:
        raise argparse.ArgumentTypeError("must begin and end at different times; leave it out for all day")
    return begin, end


def max_failures(text: str) -> tuple[int | None, float | None]:
    """``N``, or ``P%`` of the items that are finished; for argparse."""
    number = text.removesuffix("%")
    if not number.isdecimal() or (text != number and int(number) > 100):
        raise argparse.ArgumentTypeError("must be a number of items, or a share: 5%")
    return (int(number), None) if text == number else (None, int(number) / 100)


def tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of at least 0")
    return value


def items(text: str) -> int:
    """For argparse."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_ITEMS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {_MOST_ITEMS}")
    return int(text)


def rate(text: str) -> float:
    """For argparse."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError("must be rounds a second, above 0")
    return found


def margin(text: str) -> float:
    """For argparse."""
    found = float(text)
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return found


def _minute(text: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if not (0 <= hour <= 24 and 0 <= minute < _MINUTES_AN_HOUR and hour * _MINUTES_AN_HOUR + minute <= 24 * 60):
        raise ValueError(text)
    return (hour * _MINUTES_AN_HOUR + minute) % (24 * 60)


def threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_THREADS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {_MAX_THREADS}")
    return int(text)


def in_flight(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_IN_FLIGHT:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {_MAX_IN_FLIGHT}")
    return int(text)
