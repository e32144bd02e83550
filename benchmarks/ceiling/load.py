"""What is asked of a server while its CPU is watched: dialogues on new images, openings, and rounds.

Knows the published client, and how a server with instant engines says what it used. Does not know servers' sizes
or how many are compared.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from benchmarks.workload import Case, image, questions
from mediround import Client

T = TypeVar("T")
U8 = npt.NDArray[np.uint8]

STAGES = ("event loop", "pixels", "openings", "asyncio", "other")


@dataclass(frozen=True, slots=True)
class Used:
    """CPU of the server for each of ``things``, and how many came in a second."""

    rate: float
    milliseconds: dict[str, float]
    """By kind of thread."""
    asking: float
    """Share of a core that this process took meanwhile: near 1, it is the client that is measured."""

    @property
    def total(self) -> float:
        return sum(self.milliseconds.values())


@dataclass(slots=True)
class Images:
    """Images that no server has seen: uint8 (512, 512, 3)."""

    grey: bool
    _seeds: count[int]

    @classmethod
    def new(cls, *, grey: bool) -> Images:
        return cls(grey, count(time.time_ns() % 10**9))

    def make(self, number: int) -> list[U8]:
        made = [image(next(self._seeds)) for _ in range(number)]
        return [np.repeat(each[..., :1], 3, axis=2) for each in made] if self.grey else made


def used(client: Client, things: int, work: Callable[[], None]) -> Used:
    """What the server used for ``work``, which makes it do so many things."""
    before, own, began = _cpu(client), time.process_time(), time.perf_counter()
    work()
    seconds, own = time.perf_counter() - began, time.process_time() - own
    after = _cpu(client)
    milliseconds = {stage: (after[stage] - before[stage]) / things * 1e3 for stage in STAGES}
    return Used(things / seconds, milliseconds, own / seconds)


def dialogues(client: Client, images: Sequence[U8], asked: Case) -> Used:
    """One live dialogue an image, ``asked.concurrency`` at once: things are rounds, openings included."""

    def one(shown: U8) -> None:
        with client.open(shown) as session:
            for question in questions(asked):
                session.ask(question.text, refer_to=question.refer_to, answer=question.answer)

    return used(client, len(images) * asked.rounds, lambda: _each(one, images, asked.concurrency))


def openings(client: Client, images: Sequence[U8], at_once: int) -> Used:
    """Things are sessions opened, nothing asked, and closed."""

    def one(shown: U8) -> None:
        with client.open(shown):
            pass

    return used(client, len(images), lambda: _each(one, images, at_once))


def rounds(client: Client, images: Sequence[U8], number: int, *, refer: bool) -> Used:
    """``number`` rounds on each of some sessions after a first, which is not counted; ``refer``: to its mask."""
    with ExitStack() as open_sessions:
        sessions = [open_sessions.enter_context(client.open(shown)) for shown in images]
        first, later = questions(Case("star", 2, 1))
        for session in sessions:
            session.ask(first.text, answer=first.answer)

        def one(place: int) -> None:
            for _ in range(number):
                sessions[place].ask(later.text, refer_to=0 if refer else None, answer=later.answer)

        places = range(len(sessions))
        return used(client, number * len(sessions), lambda: _each(one, places, len(sessions)))


def _each(work: Callable[[T], None], items: Sequence[T], at_once: int) -> None:
    with ThreadPoolExecutor(at_once) as callers:
        for _ in callers.map(work, items):
            pass


def _cpu(client: Client) -> dict[str, float]:
    said: dict[str, float] = json.loads(client.describe().vision_engine)
    return said
