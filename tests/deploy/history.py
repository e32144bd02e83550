"""One past of a server, and what each recording rule says of it at its end.

Every counter grows by other amounts in each stretch of it, so another window, code, label or metric gives another
number. Knows what a rule's name promises. Does not know how rules are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from random import Random

from serving.telemetry.metrics import CODES, PRIORITIES

AGES = (0, 2, 5, 8, 14, 28, 45, 70, 140, 250, 500, 1000, 1600, 3000, 4500, 8000, 11520)
"""Minutes before the end at which a stretch ends, or begins."""
DENSE = 150
"""Minutes before the end of which each is told."""
CACHES, INSTANCES = ("embedding", "prefix"), ("a", "b")
MINUTES = {"m": 1, "h": 60, "d": 1440}


@dataclass(frozen=True, slots=True)
class Counter:
    name: str
    labels: Mapping[str, str]
    gains: Sequence[int]
    """A minute, in each stretch from the newest."""

    def __str__(self) -> str:
        labels = {"job": "mediround"} | dict(self.labels)
        return self.name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"

    def gained(self, minutes: int) -> int:
        """Within the last minutes."""
        return sum(
            gain * (min(begin, minutes) - end)
            for gain, (end, begin) in zip(self.gains, pairwise(AGES), strict=True)
            if end < minutes
        )

    @property
    def values(self) -> str:
        """By the minute, in promtool's notation; old ones by the hour, since promtool reads 10,000 and no more."""
        ages = [age for age in range(AGES[-1], -1, -1) if age <= DENSE or not age % 60]
        told = [str(self.gained(AGES[-1]) - self.gained(age)) for age in ages]
        gaps = ["" if before == age + 1 else f"_x{before - age - 1} " for before, age in pairwise(ages)]
        return " ".join([told[0], *(gap + value for gap, value in zip(gaps, told[1:], strict=True))])


def _counters() -> list[Counter]:
    labels = {
        "rounds_total": [{"code": code} for code in CODES],
        "round_seconds_bucket": [
            {"priority": p, "le": le} for p, le in product(PRIORITIES, ("0.6", "1.0", "1.5"))
        ],
        "round_seconds_count": [{"priority": priority} for priority in PRIORITIES],
        "shed_total": [{"reason": "queue"}, {"reason": "sessions"}],
        "calls_total": [{"method": "AskRound"}, {"method": "OpenSession"}],
        "cache_hits_total": [{"cache": cache} for cache in CACHES],
        "cache_misses_total": [{"cache": cache} for cache in CACHES],
    }
    masks = ("decode_batch_masks_sum", "correctable_masks_total", "corrected_masks_total", "empty_masks_total")
    labels |= {name: [{}] for name in (*masks, "judge_score_count")}
    draw = Random(1)  # noqa: S311  # no secret
    return [
        Counter(f"mediround_{name}", given | {"instance": instance}, [draw.randint(1, 50) for _ in AGES[1:]])
        for name, many in labels.items()
        for given in many
        for instance in INSTANCES
    ]


COUNTERS = _counters()


def gained(minutes: int, name: str, **labels: str) -> int:
    chosen = [c for c in COUNTERS if c.name == f"mediround_{name}" and labels.items() <= c.labels.items()]
    assert chosen
    return sum(counter.gained(minutes) for counter in chosen)


def failed(minutes: int) -> float:
    ours = sum(gained(minutes, "rounds_total", code=code) for code in ("INTERNAL", "UNAVAILABLE"))
    return ours / gained(minutes, "rounds_total")


def slow(minutes: int) -> float:
    within = gained(minutes, "round_seconds_bucket", priority="interactive", le="1.0")
    return 1 - within / gained(minutes, "round_seconds_count", priority="interactive")


def lookups(minutes: int, cache: str) -> int:
    return gained(minutes, "cache_hits_total", cache=cache) + gained(minutes, "cache_misses_total", cache=cache)


def of_masks(part: str, whole: str) -> Callable[[int], float]:
    return lambda minutes: gained(minutes, part) / gained(minutes, whole)


_MEANT: dict[str, Callable[[int], float]] = {
    "round_errors:ratio_rate": failed,
    "round_slow:ratio_rate": slow,
    "rounds:increase": lambda minutes: gained(minutes, "rounds_total"),
    "interactive_rounds:increase": lambda minutes: gained(minutes, "round_seconds_count", priority="interactive"),
    "shed:ratio_rate": of_masks("shed_total", "calls_total"),
    "masks:increase": lambda minutes: gained(minutes, "decode_batch_masks_sum"),
    "correctable_masks:increase": lambda minutes: gained(minutes, "correctable_masks_total"),
    "corrected_masks:ratio_rate": of_masks("corrected_masks_total", "correctable_masks_total"),
    "empty_masks:ratio_rate": of_masks("empty_masks_total", "decode_batch_masks_sum"),
}
_MEANT_OF_A_CACHE: dict[str, Callable[[int, str], float]] = {
    "cache_lookups:increase": lookups,
    "cache_hits:ratio_rate": lambda minutes, cache: (
        gained(minutes, "cache_hits_total", cache=cache) / lookups(minutes, cache)
    ),
}


def meant(record: str) -> dict[str, float]:
    """What a rule of this name says at the end, by its labels in promtool's notation.

    Raises:
        KeyError: nobody has said what the name means.
    """
    found = re.fullmatch(r"(job|job_cache):mediround_(\w+:[a-z_]+)(\d+)([mhd])", record)
    if found is None:
        raise KeyError(record)
    minutes = int(found[3]) * MINUTES[found[4]]
    if found[1] == "job":
        return {'{job="mediround"}': _MEANT[found[2]](minutes)}
    of_a_cache = _MEANT_OF_A_CACHE[found[2]]
    return {f'{{job="mediround",cache="{cache}"}}': of_a_cache(minutes, cache) for cache in CACHES}
