"""Values that were made last, held for those who ask next: made once, however many threads ask at a time.

Knows how many are held, and how large they are together. Does not know what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(slots=True)
class _Entry(Generic[Value]):
    """``made``: the value; none until it is made, under ``lock``."""

    made: list[Value] = field(default_factory=list)
    size: int = 0
    lock: Lock = field(default_factory=Lock)


class Held(Generic[Value]):
    """The last values, by keys. Any thread may ask."""

    def __init__(self, most: int, most_bytes: int) -> None:
        """``most_bytes``: of all together; the last one is held however large it is."""
        self._most, self._most_bytes = most, most_bytes
        self._entries: dict[Hashable, _Entry[Value]] = {}  # the latest last
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], tuple[Value, int]]) -> Value:
        """A key's value, which the first makes that asks while the others wait. Raises what ``make`` raises: then
        the next makes it.

        Args:
            make: the value, and its size in bytes.
        """
        with self._lock:
            entry = self._entries.pop(key, None) or _Entry()
            self._entries[key] = entry
        with entry.lock:
            if not entry.made:
                value, entry.size = make()
                entry.made.append(value)
        self._drop()
        return entry.made[0]

    def _drop(self) -> None:
        """The oldest, as far as they are too many or too large; who waits for one gets it all the same."""
        with self._lock:
            while len(self._entries) > 1 and not self._fit():
                del self._entries[next(iter(self._entries))]

    def _fit(self) -> bool:
        held = self._entries.values()
        return len(held) <= self._most and sum(each.size for each in held) <= self._most_bytes
