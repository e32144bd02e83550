"""``segment_stack``: a dialogue on the frames of a stack, through the scripted server and both clients."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mediround import (
    AccessDenied,
    AsyncClient,
    Client,
    InvalidArgument,
    ResourceExhausted,
    Round,
    RoundResult,
    ServerFault,
    Unavailable,
    dicom,
)
from mediround.dicom import instance as instance_module
from mediround.dicom.source import DicomSource
from mediround.dicom.volume import run as run_module
from mediround.dicom.volume.dialogue import Marks, rounds_of
from mediround.dicom.volume.order import alone
from mediround.dicom.volume.run import StackRun
from mediround.templates import Template, loads
from mediround.testing import DESCRIPTION, Answer, AskedQuestion, Script, ScriptedServer, serve
from tests.unit.client.dicom.slices import SIDE, mr

TEMPLATE = loads(
    """
    name = "liver"
    modality = "MR"
    body_part = "LIVER"
    model = "scripted"
    mode = "free"
    [[questions]]
    name = "liver"
    question = "Segment the liver."
    [[questions]]
    name = "tumour"
    question = "Segment the tumour in it."
    refer_to = "liver"
    """
)
FULL = np.ones((SIDE, SIDE), np.bool_)
Run = Callable[..., list[dicom.FrameResult]]


def stack_of(count: int, heights: Callable[[int], float] = float, **attributes: object) -> dicom.Stack:
    [stack] = dicom.read_series(mr(heights(index), index + 1, **attributes) for index in range(count)).stacks
    return stack


def blocking(server: ScriptedServer, stack: dicom.Stack, **options: Any) -> list[dicom.FrameResult]:
    with Client(server.address, retries=0) as client:
        return list(dicom.segment_stack(client, stack, options.pop("template", TEMPLATE), **options))


def awaited(server: ScriptedServer, stack: dicom.Stack, **options: Any) -> list[dicom.FrameResult]:
    async def run() -> list[dicom.FrameResult]:
        async with AsyncClient(server.address, retries=0) as client:
            results = dicom.segment_stack_async(client, stack, options.pop("template", TEMPLATE), **options)
            return [result async for result in results]

    return asyncio.run(run())


@pytest.fixture(params=[blocking, awaited], ids=["blocking", "awaited"])
def run(request: pytest.FixtureRequest) -> Run:
    made: Run = request.param
    return made


def test_each_frame_is_a_session_of_its_own(run: Run) -> None:
    with serve() as server:
        results = run(server, stack_of(5))
        assert server.open_sessions == 0
        assert len({question.session_id for question in server.asked}) == 5
    assert [result.index for result in results] == [0, 1, 2, 3, 4]
    first = results[0]
    assert [(answer.name, answer.status, answer.score) for answer in first.answers] == [
        ("liver", "mask", pytest.approx(0.9)),
        ("tumour", "mask", pytest.approx(0.9)),
    ]
    assert first.answers[0].mask is not None
    assert first.answers[0].mask.shape == (SIDE, SIDE)
    assert first.answers[0].model_digest == "5c" * 32
    assert first.window is not None
    assert (first.pixels is not None, first.follows, first.restarted, first.error) == (True, None, "", None)


def test_masks_are_on_the_frames_own_pixels_and_follow_there(run: Run) -> None:
    """Pixels twice as high as wide: the server sees twice the rows."""
    with serve() as server:
        results = run(server, stack_of(3, PixelSpacing=[2, 1]), follow=True)
        assert {(question.height, question.width) for question in server.asked} == {(2 * SIDE, SIDE)}
    for result in results:
        for answer in result.answers:
            assert answer.mask is not None
            assert answer.mask.shape == (SIDE, SIDE)


def test_a_frame_that_follows_begins_with_the_mask_of_its_neighbour(run: Run) -> None:
    masks = {index: np.roll(np.eye(SIDE, dtype=np.bool_), index) for index in range(5)}
    stack = stack_of(5)
    asked: list[AskedQuestion] = []

    def answer(question: AskedQuestion) -> Answer:
        asked.append(question)
        return Answer(masks[len([each for each in asked if each.text == question.text]) - 1])

    with serve(answer) as server:
        results = run(server, stack, follow=True, in_flight=1)
    assert sorted(result.index for result in results) == [0, 1, 2, 3, 4]
    assert results[0].index == 2
    assert {result.index: result.follows for result in results} == {2: None, 1: 2, 0: 1, 3: 2, 4: 3}
    assert all(not result.restarted for result in results)
    begun = [question for question in asked if question.text == "Segment the liver."]
    assert [question.refer_to for question in begun] == [None, 0, 0, 0, 0]
    assert [question.index for question in begun] == [0, 1, 1, 1, 1]


def test_both_directions_and_several_starts_go_on_at_once() -> None:
    together, most, lock = 0, 0, threading.Lock()

    def answer(question: AskedQuestion) -> Answer:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
            together -= 1
        return Answer(delay=0.01)

    with serve(answer) as server:
        results = awaited(server, stack_of(9), follow=True, start=[0, 8], frames=range(9))
    assert {result.index: result.follows for result in results} == {
        0: None, 1: 0, 2: 1, 3: 2, 4: 3, 5: 6, 6: 7, 7: 8, 8: None
    }  # fmt: skip


def test_a_gap_is_not_crossed(run: Run) -> None:
    with serve() as server:
        results = run(server, stack_of(6, lambda index: index + 20.0 * (index > 2)), follow=True, start=0)
    assert {result.index: (result.follows, result.restarted) for result in results} == {
        0: (None, ""), 1: (0, ""), 2: (1, ""), 3: (None, "gap"), 4: (3, ""), 5: (4, "")
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "mark", "restarted"),
    [
        (Answer(score=0.4), "low", "mark"),
        (Answer(score=0.65), "fell", "mark"),
        (Answer(None), "lost", "no mask"),
        (ServerFault("broken"), None, "failed"),
    ],
    ids=["low", "fell", "lost", "failed"],
)
def test_a_frame_whose_score_falls_is_marked_and_none_follows_it(
    run: Run, reply: Answer, mark: str | None, restarted: str
) -> None:
    good = Answer(score=0.9)
    script = {"Segment the liver.": [good, reply, good]}
    with serve(Script(script, otherwise=Answer(score=0.9))) as server:
        first, second, third = run(server, stack_of(3), follow=True, start=0)
    assert (first.answers[0].mark, first.follows) == ("", None)
    assert (third.follows, third.restarted) == (None, restarted)
    assert third.answers[0].mark == ""
    if mark is None:
        assert isinstance(second.error, ServerFault)
        assert second.answers == ()
    else:
        assert second.error is None
        assert second.answers[0].mark == mark
        assert (second.answers[0].mask is None) == (mark == "lost")  # as the model drew it
        assert second.answers[1].status == ("not_asked" if mark == "lost" else "mask")


def test_frames_that_do_not_follow_are_marked_against_their_neighbour(run: Run) -> None:
    scores = iter([0.95, 0.7, 0.72])
    with serve(lambda question: Answer(score=next(scores) if "liver" in question.text else 0.9)) as server:
        results = run(server, stack_of(3), in_flight=1)
    assert [result.answers[0].mark for result in results] == ["", "fell", ""]


def test_masks_of_ones_own_are_not_asked_for_and_others_follow_them(run: Run) -> None:
    mine = np.eye(SIDE, dtype=np.bool_)
    with serve() as server:
        results = run(server, stack_of(4, PixelSpacing=[2, 1]), follow=True, given={1: {"liver": mine}})
        liver = [question for question in server.asked if question.text == "Segment the liver."]
        assert len(liver) == 3
        assert all(question.refer_to == 0 for question in liver)
    found = {result.index: result for result in results}
    assert results[0].index == 1  # where the caller's mask is
    assert {index: result.follows for index, result in found.items()} == {0: 1, 1: None, 2: 1, 3: 2}
    assert found[1].restarted == ""
    answer, other = found[1].answers
    assert (answer.status, answer.score, answer.words) == ("given", None, "It is the liver [SEG].")
    assert answer.mask is mine
    assert other.status == "mask"


def test_masks_of_ones_own_may_stand_on_frames_that_do_not_follow(run: Run) -> None:
    with serve({"Segment the liver.": Answer(None)}) as server:
        given = {0: {"liver": FULL}, 1: {"liver": FULL, "tumour": FULL}}
        results = run(server, stack_of(3), given=given)
    statuses = [[answer.status for answer in result.answers] for result in results]
    assert statuses == [["given", "mask"], ["given", "given"], ["no_mask", "not_asked"]]
    assert [result.answers[0].mark for result in results] == ["", "", "lost"]


def test_the_least_score_is_the_callers(run: Run) -> None:
    with serve(Script(otherwise=Answer(score=0.55))) as server:
        assert run(server, stack_of(1))[0].answers[0].mark == ""
        assert run(server, stack_of(1), least_score=0.6)[0].answers[0].mark == "low"


def test_a_frame_that_fails_hurts_no_other(run: Run) -> None:
    stack = stack_of(4)
    broken = replace(stack.frames[1], source=b"no DICOM")
    gone = replace(stack.frames[2], source="/nowhere/at/all")
    with serve() as server:
        results = run(server, replace(stack, frames=(stack.frames[0], broken, gone, stack.frames[3])))
    assert [type(result.error).__name__ for result in results] == [
        "NoneType",
        "NotDicom",
        "FileNotFoundError",
        "NoneType",
    ]
    assert [len(result.answers) for result in results] == [2, 0, 0, 2]


def test_a_busy_server_is_asked_again(run: Run) -> None:
    openings = [ResourceExhausted("full", retry_after=0.01), Unavailable("starting", retry_after=0.01)]
    with serve(Script(openings=openings)) as server:
        assert run(server, stack_of(1))[0].error is None


def test_a_server_that_is_gone_ends_it(run: Run) -> None:
    with serve() as server:
        address = server
    with pytest.raises(Unavailable):
        run(address, stack_of(3))


async def test_what_was_known_when_it_ended_is_told_first() -> None:
    """The first frame is refused once the two others, which are asked at the same time, are answered."""
    answered = asyncio.Semaphore(0)

    async def ask(frame: dicom.Frame, rounds: list[Round]) -> list[RoundResult | None]:
        if frame.instance.header.InstanceNumber == 1:
            for _ in range(2):
                await answered.acquire()
            raise AccessDenied("revoked")
        answered.release()
        return [None] * len(rounds)

    run = StackRun(stack_of(3), TEMPLATE, alone(range(3)), ask, 3, None, Marks(), {})
    results = run.results()
    told: tuple[int, ...] = ()
    with pytest.raises(AccessDenied):
        async for result in results:
            told += (result.index,)
    assert told == (1, 2)


def test_a_dialogue_that_is_too_long_with_its_seeds_is_refused_before(run: Run) -> None:
    limits = replace(DESCRIPTION.limits, max_rounds=2)
    with serve(Script(description=replace(DESCRIPTION, limits=limits))) as server:
        assert run(server, stack_of(1))[0].error is None
        with pytest.raises(InvalidArgument, match="with seeds there are 3 rounds, the server takes 2"):
            run(server, stack_of(1), follow=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"frames": []}, "frames: must hold at least one index"),
        ({"frames": [3]}, "frames: must be indices from 0 to 2"),
        ({"frames": [True]}, "frames: must be indices"),
        ({"start": 1}, "start: must be left out where frames do not follow"),
        ({"start": 1, "follow": True, "frames": [0]}, "start: must be the index of a frame that is asked"),
        ({"in_flight": 0}, "in_flight: must be a whole number from 1 to 64"),
        ({"given": {3: {}}}, "given: must be masks by the index of a frame"),
        (
            {"given": {0: {"knee": np.ones((SIDE, SIDE), np.bool_)}}},
            "given: must be masks by a question's name: liv",
        ),
        ({"given": {0: {"liver": np.ones((9, 9), np.bool_)}}}, "given: must be bool 16x16 with a pixel set"),
        (
            {"given": {0: {"liver": np.zeros((SIDE, SIDE), np.bool_)}}},
            "given: must be bool 16x16 with a pixel set",
        ),
        ({"least_score": 2}, "least_score: must be between 0 and 1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_is_refused(run: Run, options: dict[str, Any], told: str) -> None:
    with serve() as server:
        with pytest.raises(InvalidArgument, match=told):
            run(server, stack_of(3), **options)
        assert server.asked == ()


ONE: Template = loads(
    'name = "one"\nmodality = "MR"\nbody_part = "LIVER"\nmodel = "scripted"\n'
    '[[questions]]\nname = "liver"\nquestion = "Segment the liver."\nanswer = "It is [SEG]."\n'
)


async def test_a_thousand_frames_hold_no_more_than_those_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts what is alive of images that were decoded and masks that were answered, and headers read."""
    held: list[weakref.ref[np.ndarray]] = []
    most, objects = 0, list[object]()

    def rounds(template: Template, frame: dicom.Frame, *others: Any) -> list[Round]:
        held.append(weakref.ref(frame.image))
        return rounds_of(template, frame, *others)

    def read(source: DicomSource) -> dicom.Instance:
        objects.append(source)
        return dicom.read(source)

    monkeypatch.setattr(run_module, "rounds_of", rounds)
    monkeypatch.setattr(instance_module, "read", read)
    [stack] = dicom.read_series(mr(0, NumberOfFrames=1000, PixelData=bytes(1000 * SIDE * SIDE))).stacks
    async with serve() as server, AsyncClient(server.address) as client:
        async for result in dicom.segment_stack_async(client, stack, ONE, in_flight=8):
            assert result.answers[0].mask is not None
            held = [each for each in held if each() is not None]
            most = max(most, len(held))
            held.append(weakref.ref(result.answers[0].mask))
    assert (result.index, len(objects)) == (999, 1)
    assert most <= 8 + 8 + 2


async def test_leaving_early_asks_no_more_and_leaves_nothing_behind() -> None:
    with serve(Script(otherwise=Answer(delay=0.02))) as server:
        with Client(server.address) as client:
            results = dicom.segment_stack(client, stack_of(50), TEMPLATE, in_flight=2)
            next(results)
            results.close()
        assert len({question.session_id for question in server.asked}) <= 6
        async with AsyncClient(server.address) as awaiting:
            generator = dicom.segment_stack_async(awaiting, stack_of(50), TEMPLATE, in_flight=2)
            assert isinstance(generator, AsyncGenerator)
            await anext(generator)
            await generator.aclose()
        assert len({question.session_id for question in server.asked}) <= 12
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mediround.dicom")]
