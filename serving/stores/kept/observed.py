"""How long a place for kept sessions takes, and how it fails: what is told of each of its operations.

Knows outcomes. Does not know places, or who hears.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from serving.errors import Exhausted, Unavailable
from serving.observer import Observer, StoreOutcome
from serving.runtime.stopwatch import Stopwatch


@contextmanager
def observed(observer: Observer, operation: Literal["read", "write"]) -> Iterator[None]:
    """Tell of the block. Other errors than these two are answers: a session that is closed, for example."""
    outcome = StoreOutcome.OK
    with Stopwatch() as watch:
        try:
            yield
        except Exhausted:
            outcome = StoreOutcome.FULL
            raise
        except Unavailable:
            outcome = StoreOutcome.UNAVAILABLE
            raise
        finally:
            observer.stored(operation, outcome, watch.seconds)
