"""Who asks what, and when: drawn from a scenario and a seed before the run, and equal for equal ones.

Knows arrivals, think times, shapes of dialogues and which image each is about. Does not know servers, pixels or
clocks: every time is in seconds from the run's start. Dialogues are drawn when they are needed; what is kept for
the whole run is four numbers a dialogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.scenario import Arrivals, Images, Scenario, ScenarioError, Shapes

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

STRUCTURES = (
    *("left thalamus", "right thalamus", "left caudate nucleus", "right caudate nucleus"),
    *("left lentiform nucleus", "right lentiform nucleus", "cerebellum", "brain"),
)
MIRROR, HEMISPHERE, BESIDE = RELATIONS = (
    "Segment the same structure on the other side.",
    "Segment the hemisphere that contains it.",
    "Segment the region beside it.",
)
_OTHER_SIDE = {"left": "right", "right": "left"}


@dataclass(frozen=True, slots=True)
class PlannedRound:
    """One round."""

    due: float
    """By the schedule."""
    think: float
    """Seconds after the round before; 0 of the first."""
    question: str
    answer: str
    """Words that name what is asked for, ``[SEG]`` once; for answers that are forced."""
    refer_to: int | None
    """Index of an earlier round of the dialogue."""
    cancel_after: float | None
    deadline: float | None


@dataclass(frozen=True, slots=True)
class PlannedDialogue:
    start: float
    image: int
    """Number of its image: equal numbers, equal images."""
    row: int
    """Of its first round in the record."""
    rounds: tuple[PlannedRound, ...]
    batch: bool
    """Whether it lets interactive ones go first."""


class Plan:
    """All dialogues of a run, in the order of their starts."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        """Raises ScenarioError when no dialogue would start within the time measured."""
        random = np.random.default_rng(seed)
        self._scenario, self._seed = scenario, seed
        self.starts = arrival_times(scenario.arrivals, random)
        if not np.any(self.starts >= scenario.arrivals.begins):
            raise ScenarioError("arrivals: no dialogue would start in the time measured: raise rate or duration")
        least, most = scenario.dialogues.rounds
        self.lengths: I64 = random.integers(least, most + 1, len(self.starts))
        self.images = image_numbers(scenario.images, len(self.starts), random)
        self._rows: I64 = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[PlannedDialogue]:
        return (self.dialogue(number) for number in range(len(self)))

    @property
    def rounds(self) -> int:
        return int(self._rows[-1])

    def dialogue(self, number: int) -> PlannedDialogue:
        """Draw one; drawn again it is the same."""
        random = np.random.default_rng([self._seed, number])
        asked, start = self._scenario.dialogues, float(self.starts[number])
        length = int(self.lengths[number])
        means = np.array([asked.first_think] + [asked.think] * (length - 1))
        thinks = means * (1 + asked.think_spread * random.uniform(-1, 1, length))
        dues = start + (np.cumsum(thinks) if asked.mode == "live" else np.zeros(length))
        references = _references(asked.shapes, length, random)
        endings = self._endings(length, random)
        words = _words(references, random)
        rounds = tuple(
            PlannedRound(float(due), float(think), *said, refer_to, *ending)
            for due, think, said, refer_to, ending in zip(dues, thinks, words, references, endings, strict=True)
        )
        row = int(self._rows[number])
        batch = bool(random.random() < asked.batch_share)
        return PlannedDialogue(start, int(self.images[number]), row, rounds, batch)

    def _endings(self, length: int, random: np.random.Generator) -> list[tuple[float | None, float | None]]:
        """(cancelled after, deadline) of each round; a dialogue in one call has one ending."""
        calls = self._scenario.calls
        drawn = random.random(length)
        if self._scenario.dialogues.mode == "known":
            drawn[:] = drawn[0]
        cancelled = drawn < calls.cancel_share
        hurried = ~cancelled & (drawn < calls.cancel_share + calls.deadline_share)
        return [
            (calls.cancel_after if c else None, calls.deadline if h else None)
            for c, h in zip(cancelled, hurried, strict=True)
        ]


def arrival_times(arrivals: Arrivals, random: np.random.Generator) -> F64:
    """Seconds from the start, rising, below ``arrivals.ends``: a process of rate 1 whose time is stretched."""
    expected = arrivals.rate * (arrivals.ramp / 2 + arrivals.warm_up + arrivals.duration)
    match arrivals.process:
        case "constant":
            points = np.arange(0.5, expected, 1.0)
        case "burst":
            moments = np.arange(0.5 * arrivals.burst, expected, arrivals.burst, dtype=np.float64)
            points = np.repeat(moments, arrivals.burst)
        case "poisson":
            points = _poisson(expected, random)
    ramped = arrivals.rate * arrivals.ramp / 2  # dialogues of the ramp
    in_ramp = np.sqrt(2 * arrivals.ramp * points / arrivals.rate)
    return np.where(points < ramped, in_ramp, arrivals.ramp + (points - ramped) / arrivals.rate)


def _poisson(expected: float, random: np.random.Generator) -> F64:
    points = np.zeros(0)
    while not len(points) or points[-1] < expected:
        last = points[-1] if len(points) else 0.0
        some = int(expected - last + 5 * np.sqrt(expected)) + 16
        points = np.concatenate([points, last + np.cumsum(random.exponential(1.0, some))])
    return points[points < expected]


def image_numbers(images: Images, count: int, random: np.random.Generator) -> I64:
    """The number of each dialogue's image; new images are counted from 0."""
    new = random.random(count) >= images.reuse
    new[:1] = True
    newest = np.cumsum(new) - 1
    back = np.floor(random.random(count) * np.minimum(newest + 1, images.pool)).astype(np.int64)
    return np.where(new, newest, newest - back)


def references(shape: str, length: int, random: np.random.Generator) -> list[int | None]:
    """Which earlier round each round refers to."""
    match shape:
        case "chain":
            return [k - 1 if k else None for k in range(length)]
        case "star":
            return [0 if k else None for k in range(length)]
        case "mixed":
            drawn = (int(random.integers(-1, k)) if k else -1 for k in range(length))
            return [earlier if earlier >= 0 else None for earlier in drawn]
        case _:
            return [None] * length


def _references(shapes: Shapes, length: int, random: np.random.Generator) -> list[int | None]:
    weights = shapes.model_dump()
    shares = np.array(list(weights.values())) / sum(weights.values())
    return references(str(random.choice(list(weights), p=shares)), length, random)


def _words(references: Sequence[int | None], random: np.random.Generator) -> list[tuple[str, str]]:
    """Question and answer of each round."""
    names: list[str] = []
    words = []
    for refer_to in references:
        if refer_to is None:
            names.append(STRUCTURES[random.integers(len(STRUCTURES))])
            question = f"Segment the {names[-1]}."
        else:
            question = RELATIONS[random.integers(len(RELATIONS))]
            names.append(related(question, names[refer_to]))
        words.append((question, f"It is the {names[-1]} [SEG]."))
    return words


def related(relation: str, name: str) -> str:
    """What one of ``RELATIONS`` asks for, of a structure named ``name``."""
    side, _, rest = name.partition(" ")
    if relation == MIRROR:
        return f"{_OTHER_SIDE[side]} {rest}" if side in _OTHER_SIDE else name
    if relation == HEMISPHERE:
        return f"{side} cerebral hemisphere" if side in _OTHER_SIDE else "brain"
    return "region beside it"
