"""``segment_stack``, for threads and scripts, and ``segment_stack_async``.

Knows both clients. Does not know the order of frames, or what makes a dialogue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mediround._description import ServerDescription
from mediround._rounds import DialogueCorrection, Priority, Round
from mediround.aio import AsyncClient
from mediround.client import Client
from mediround.dicom.instance import Frame
from mediround.dicom.series.stack import Stack
from mediround.dicom.volume.answers import Bits, FrameResult
from mediround.dicom.volume.bridge import stepped
from mediround.dicom.volume.dialogue import Marks
from mediround.dicom.volume.order import ordered
from mediround.dicom.volume.run import Ask, StackRun
from mediround.errors import FieldViolation, InvalidArgument
from mediround.results import RoundResult
from mediround.templates import Template, ask, ask_async
from mediround.window import WindowChoice

MAX_IN_FLIGHT = 64


def segment_stack(
    client: Client,
    stack: Stack,
    template: Template,
    *,
    frames: Sequence[int] | None = None,
    follow: bool = False,
    start: int | Sequence[int] | None = None,
    given: Mapping[int, Mapping[str, Bits]] | None = None,
    window: WindowChoice = None,
    least_score: float | None = None,
    in_flight: int = 4,
    correction: DialogueCorrection = "referenced",
    priority: Priority = "interactive",
    timeout: float | None = None,
) -> Generator[FrameResult]:
    """Ask a template's questions on frames of a stack; yields each frame's result as soon as it is known.

    Each frame is a session of its own. Where the generator is closed no further question is asked, and those under
    way are waited for.

    Args:
        stack: one of ``read_series``.
        frames: indices in the stack; None: all.
        follow: a frame begins with the masks of its neighbour, nearer to a start, as rounds that are given: the
            questions that refer to none are then about these masks, crop and box cut from the frame's own pixels.
            It begins with none across a gap, and where the neighbour failed, has no mask or a mark
            (``FrameResult.restarted``). False: no frame knows of another; results come in the stack's order.
        start: with ``follow``, the index or indices of the frames that begin; both directions go from there. None:
            those with masks in ``given``, else the middle.
        given: masks of your own, bool (Rows, Columns), by the frame's index and the question's name. There the
            question is not asked; others, and frames that follow, are about the mask.
        window: of stored values; None: the template's, else what the object says.
        least_score: scores of at most this are marked; None: the server's threshold.
        in_flight: frames under way at once, 1 to 64.
        correction: which masks the judge may have corrected.
        priority: ``batch`` lets interactive requests go first on a busy server.
        timeout: seconds of each call; None is the client's.

    Raises:
        InvalidArgument: an argument is not what it must be, or the server cannot be asked the template.
        AccessDenied, Unavailable, Cancelled: no further frame can be asked. What else goes wrong with a frame is
            in its result, and the others go on.
    """
    plan = _Plan(stack, template, frames, follow, start, given or {}, window, in_flight)
    asking = partial(_ask, client, correction=correction, priority=priority, timeout=timeout)
    least = plan.least(client.describe(timeout=timeout), least_score)
    yield from stepped(plan.run(asking, least).results(), in_flight)


async def segment_stack_async(
    client: AsyncClient,
    stack: Stack,
    template: Template,
    *,
    frames: Sequence[int] | None = None,
    follow: bool = False,
    start: int | Sequence[int] | None = None,
    given: Mapping[int, Mapping[str, Bits]] | None = None,
    window: WindowChoice = None,
    least_score: float | None = None,
    in_flight: int = 4,
    correction: DialogueCorrection = "referenced",
    priority: Priority = "interactive",
    timeout: float | None = None,  # noqa: ASYNC109  # gRPC tells the server of a timeout; asyncio.timeout would not
) -> AsyncGenerator[FrameResult]:
    """The same as ``segment_stack``, for asyncio; closing the generator cancels what is under way."""
    plan = _Plan(stack, template, frames, follow, start, given or {}, window, in_flight)
    asking = partial(_ask_async, client, correction=correction, priority=priority, timeout=timeout)
    least = plan.least(await client.describe(timeout=timeout), least_score)
    results = plan.run(asking, least).results()
    async with aclosing(results):
        async for result in results:
            yield result


@dataclass(frozen=True, slots=True)
class _Plan:
    """What both entrances are given."""

    stack: Stack
    template: Template
    frames: Sequence[int] | None
    follow: bool
    start: int | Sequence[int] | None
    given: Mapping[int, Mapping[str, Bits]]
    window: WindowChoice
    in_flight: int

    def least(self, served: ServerDescription, least: float | None) -> float | None:
        """The score that is marked. Raises InvalidArgument where the server cannot be asked so."""
        self.template.check(served)
        seeds = self.template.references.count(None) if self.follow else 0
        if (rounds := seeds + len(self.template.questions)) > served.limits.max_rounds:
            most = served.limits.max_rounds
            raise _refused(
                "follow", f"must be left out: with seeds there are {rounds} rounds, the server takes {most}"
            )
        if least is None:
            return served.threshold if served.has_judge else None
        if not 0 <= least <= 1:
            raise _refused("least_score", "must be between 0 and 1")
        return least

    def run(self, ask: Ask, least: float | None) -> StackRun:
        """Raises InvalidArgument."""
        if not isinstance(self.in_flight, int) or not 1 <= self.in_flight <= MAX_IN_FLIGHT:
            raise _refused("in_flight", f"must be a whole number from 1 to {MAX_IN_FLIGHT}")
        starts = [self.start] if isinstance(self.start, int) else list(self.start or ())
        self._check_given()
        return StackRun(
            stack=self.stack,
            template=self.template,
            order=ordered(self.stack, self.frames, starts, follow=self.follow, given=self.given),
            ask=ask,
            in_flight=self.in_flight,
            window=self.template.window if self.window is None else self.window,
            marks=Marks(least),
            given=self.given,
        )

    def _check_given(self) -> None:
        names = {question.name for question in self.template.questions}
        for index, masks in self.given.items():
            if not isinstance(index, int) or not 0 <= index < len(self.stack.frames):
                raise _refused("given", "must be masks by the index of a frame, from 0")
            place = self.stack.frames[index]
            for name, mask in masks.items():
                if name not in names:
                    raise _refused("given", f"must be masks by a question's name: {', '.join(sorted(names))}")
                size = place.rows, place.columns
                fits = isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == size
                if not fits or not mask.any():
                    raise _refused("given", f"must be bool {size[0]}x{size[1]} with a pixel set")


async def _ask(client: Client, frame: Frame, rounds: list[Round], **options: Any) -> list[RoundResult | None]:
    def asked() -> list[RoundResult | None]:
        opening = {name: options[name] for name in ("priority", "timeout")}
        with client.open(frame, **opening) as session:
            return ask(session, rounds, **options)

    return await asyncio.to_thread(asked)


async def _ask_async(
    client: AsyncClient, frame: Frame, rounds: list[Round], **options: Any
) -> list[RoundResult | None]:
    opening = {name: options[name] for name in ("priority", "timeout")}
    async with client.open(frame, **opening) as session:
        return await ask_async(session, rounds, **options)


def _refused(name: str, words: str) -> InvalidArgument:
    return InvalidArgument(f"{name}: {words}", (FieldViolation(name, words),))
