"""The service as its callers see it: a server of its own, reached through the published client.

Knows how a case becomes calls, and which part of a round's time the engines took. Does not know baselines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks.workload import Case, image, questions
from mediround import Client, Round, RoundResult, Timings

PATIENT = ("--admission.max-wait", "600")
"""Flags of a server that refuses nobody for having to wait: the time that it takes is what is measured."""
AT_ONCE = ("--admission.encode-on-open", "never")
"""Flags of a server whose callers ask at once: each round is told of its own encode."""


@dataclass(slots=True)
class Measured:
    """One run of a case."""

    seconds: float = 0.0
    bound: float = 0.0
    """Seconds that the engines alone took: for each wave the longer of encoding and reading, then decoding."""
    passes: int = 0
    encodes: int = 0
    overheads: list[float] = field(default_factory=list)
    """Seconds of each wave outside the engines, in the server: see ``engines``."""
    seen: list[float] = field(default_factory=list)
    """The same as the caller saw it: the wire and the mask's coding on both sides included."""


def round_by_round(client: Client, case: Case, seed: int) -> Measured:
    """A live session: each round is asked when the one before is answered."""
    measured = Measured()
    with client.open(image(seed)) as session:
        for asked in questions(case):
            began = time.perf_counter()
            result = session.ask(asked.text, refer_to=asked.refer_to, answer=asked.answer)
            _add(measured, result, time.perf_counter() - began)
    return measured


def known_in_advance(client: Client, case: Case, seed: int) -> Measured:
    """The whole dialogue in one call."""
    measured = Measured()
    rounds = [Round(asked.text, refer_to=asked.refer_to, answer=asked.answer) for asked in questions(case)]
    began, seen = time.perf_counter(), -1
    for result in client.segment(image(seed), rounds, correction="always"):
        if result.cache.wave > seen:
            seen = result.cache.wave
            now = time.perf_counter()
            _add(measured, result, now - began)
            began = now
    return measured


Way = Callable[[Client, Case, int], Measured]


def run(client: Client, case: Case, way: Way, seeds: Sequence[int]) -> Measured:
    """One dialogue a seed, ``case.concurrency`` at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(case.concurrency) as callers:
        parts = list(callers.map(lambda seed: way(client, case, seed), seeds))
    total = Measured(seconds=time.perf_counter() - began)
    for part in parts:
        total.bound += part.bound
        total.passes += part.passes
        total.encodes += part.encodes
        total.overheads += part.overheads
        total.seen += part.seen
    return total


def engines(timings: Timings) -> float:
    """Seconds that the engines took of a wave: the longer of encoding and reading, then decoding.

    What is left of its ``total`` is the server's overhead, by this definition in all benchmarks: turns, admission,
    crops, prompts, the mask and the record. Answers' coding and the wire are not in ``total``.
    """
    return max(timings.language, timings.encode) + timings.decode


def _add(measured: Measured, result: RoundResult, seconds: float) -> None:
    took = engines(result.timings)
    measured.bound += took
    measured.passes += 1
    measured.encodes += not result.cache.embedding_hit
    measured.overheads.append(result.timings.total - took)
    measured.seen.append(seconds - took)
