"""Which idle sessions give way when another needs room: within budgets of all sessions, and of each payer's.

Knows numbers, and in which words room is refused. Pure: does not know sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from serving.errors import Exhausted, Shed

Key: TypeAlias = tuple[str, str]
"""Caller and id."""

FULL = "open sessions hold all the memory that this server gives them; close some"
MOST = "{} sessions are open, the most that this server holds; close some"
OWN_FULL = "your open sessions hold {} bytes, the most that this server gives one caller; close some"
OWN_MOST = "you have {} open sessions, the most that this server gives one caller; close some"


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that is held."""

    sessions: int
    nbytes: int


_NOTHING = Budget(0, 0)


@dataclass(frozen=True, slots=True)
class Occupant:
    """A session that takes room."""

    key: Key
    payer: tuple[str, str]
    nbytes: int
    ready: float | None
    """When it may give way; None: it is in use."""
    first: bool
    """It goes before others that may at the same moment."""


@dataclass(frozen=True, slots=True)
class Need:
    """Room that is asked for."""

    payer: tuple[str, str]
    sessions: int
    nbytes: int
    now: float
    patience: float
    """Seconds after which what is in use may give way at the earliest."""


class Taken:
    """What all sessions take, and each payer's: kept up to date, so that nobody is asked while all fits."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._sessions = 0
        self._of: dict[tuple[str, str], Budget] = {}

    def add(self, payer: tuple[str, str], sessions: int, nbytes: int) -> None:
        """Either may be negative."""
        before = self._of.pop(payer, _NOTHING)
        after = Budget(before.sessions + sessions, before.nbytes + nbytes)
        if after.sessions:
            self._of[payer] = after
        self._sessions, self.nbytes = self._sessions + sessions, self.nbytes + nbytes

    def leaves(self, need: Need, budget: Budget, each: Budget | None) -> bool:
        """Whether ``need`` fits as it is."""
        own = self._of.get(need.payer, _NOTHING)
        return _fits(self._sessions, self.nbytes, need, budget) and (
            each is None or _fits(own.sessions, own.nbytes, need, each)
        )


def _fits(sessions: int, nbytes: int, need: Need, budget: Budget) -> bool:
    return sessions + need.sessions <= budget.sessions and nbytes + need.nbytes <= budget.nbytes


def giving_way(held: Sequence[Occupant], need: Need, budget: Budget, each: Budget | None) -> list[Key]:
    """Those that give way, so that ``need`` fits: within its payer's budget (``each``) the payer's own alone, then
    within that of all.

    Raises:
        Exhausted: too few may do so now; says when enough will.
    """
    own = [occupant for occupant in held if occupant.payer == need.payer]
    chosen = [] if each is None else _enough(own, need, each, (OWN_MOST, OWN_FULL))
    rest = [occupant for occupant in held if occupant.key not in chosen]
    return chosen + _enough(rest, need, budget, (MOST, FULL))


def _enough(held: Sequence[Occupant], need: Need, budget: Budget, words: tuple[str, str]) -> list[Key]:
    count, nbytes = len(held) + need.sessions, sum(occupant.nbytes for occupant in held) + need.nbytes
    full = words[0].format(budget.sessions) if count > budget.sessions else words[1].format(budget.nbytes)
    ready = [(max(need.now, each.ready), not each.first, each) for each in held if each.ready is not None]
    order = iter(sorted(ready, key=lambda item: item[:2]))
    chosen, last = list[Key](), need.now
    while count > budget.sessions or nbytes > budget.nbytes:
        last, _, occupant = next(order, (0.0, False, None))
        if occupant is None:  # those that are in use become idle at the earliest now
            raise Exhausted(full, need.patience, Shed.SESSIONS)
        chosen.append(occupant.key)
        count, nbytes = count - 1, nbytes - occupant.nbytes
    if last > need.now:
        raise Exhausted(full, last - need.now, Shed.SESSIONS)
    return chosen
