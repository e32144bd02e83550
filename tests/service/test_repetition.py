"""Requests that come again are answered as before, and progress of those that take their time."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

import grpc
import numpy as np
import pytest

from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api.server import serving
from serving.domain import Priority
from serving.errors import Unavailable
from serving.history.changes import REQUESTS_REMEMBERED
from serving.ports import Completion, Prompt
from tests.service.harness import Stage
from tests.service.harness import stage as build_stage
from tests.service.sessions import Caller, asks, essence, given, new_id, refused, request_id, square

CHAIN = [asks("Segment the liver."), asks("Segment the tumor.", 0), asks("Segment the vessel.", 1)]


@pytest.fixture
async def caller(stub: SegmentationServiceStub) -> Caller:
    made = Caller(stub)
    await made.open()
    return made


def passes(stage: Stage) -> int:
    return len(stage.language.script.asked("complete"))


def timeless(result: pb.RoundResult) -> pb.RoundResult:
    """Without its end, which every answer puts off."""
    plain = pb.RoundResult()
    plain.CopyFrom(result)
    plain.ClearField("expires_at")
    return plain


async def test_a_round_that_is_asked_again_is_answered_as_before(caller: Caller, stage: Stage) -> None:
    same = request_id()
    first = await caller.ask(asks(), same)
    await caller.ask(asks("Segment the tumor."))
    again = await caller.ask(asks(), same)
    assert timeless(again) == timeless(first)
    assert (passes(stage), len(await caller.rounds())) == (2, 2)
    await caller.call("RewindSession", rounds=0)
    assert timeless(await caller.ask(asks(), same)) == timeless(first), "also when it was undone since"
    assert await caller.rounds() == []


async def test_the_pixels_next_to_zero_are_part_of_the_answer_that_comes_again(
    caller: Caller, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    monkeypatch.setattr(stage.vision, "_logits", lambda *_: noise)
    same = request_id()
    first = await caller.ask(asks(), same, near_zero=1.0)
    assert first.near_zero.area
    await caller.call("AmendRound", round_id=first.round_id, given_mask=given(square()))
    again = await caller.ask(asks(), same, near_zero=1.0)
    assert again.near_zero == first.near_zero
    assert again.amended
    for other in (None, 0.5):
        refusal = await refused(caller.ask(asks(), same, near_zero=other))
        assert refusal.reason == "IDEMPOTENCY_MISMATCH", other
    assert passes(stage) == 1


async def test_a_request_id_stands_for_one_request(caller: Caller, stage: Stage) -> None:
    same = request_id()
    first = await caller.ask(asks(), same)
    others = [
        caller.ask(asks("Segment the tumor."), same),
        caller.ask(asks(), same, priority=pb.PRIORITY_BATCH),
        caller.dialogue([asks()], same),
        caller.call("RewindSession", same, rounds=0),
        caller.call("AmendRound", same, round_id=first.round_id, given_mask=given(square())),
    ]
    found = [await refused(each) for each in others]
    assert {(each.code, each.reason) for each in found} == {("FAILED_PRECONDITION", "IDEMPOTENCY_MISMATCH")}
    assert (passes(stage), len(await caller.rounds())) == (1, 1)


async def test_callers_without_an_id_ask_anew(caller: Caller, stage: Stage) -> None:
    for metadata in ((), [("x-request-id", "John Doe")]):
        await caller.ask(asks(), metadata)
    assert (passes(stage), len(await caller.rounds())) == (2, 2)


async def test_a_repetition_that_meets_the_first_waits_for_it(caller: Caller, stage: Stage) -> None:
    same = request_id()
    stage.language.script.hold("complete")
    both = [asyncio.create_task(caller.ask(asks(), same)) for _ in range(3)]
    await stage.language.script.reached("complete")
    await asyncio.sleep(0.05)
    stage.language.script.let_go("complete")
    results = [timeless(each) for each in await asyncio.gather(*both)]
    assert results[0] == results[1] == results[2]
    assert (passes(stage), len(await caller.rounds())) == (1, 1)


async def test_a_failure_is_not_remembered(caller: Caller, stage: Stage) -> None:
    same = request_id()
    stage.language.script.fail_next("complete", Unavailable("gone"))
    assert (await refused(caller.ask(asks(), same))).code == "UNAVAILABLE"
    assert (await caller.ask(asks(), same)).round == 0


async def test_a_dialogue_that_was_cut_off_goes_on_where_it_ended(
    caller: Caller, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered is not asked again, and the rest equals a dialogue that nothing befell."""
    same, fresh = request_id(), Caller(caller.stub)
    await fresh.open()
    expected = await fresh.dialogue(CHAIN)
    complete, calls = stage.language.complete, 0

    async def second_fails(prompt: Prompt) -> Completion:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("gone")
        return await complete(prompt)

    monkeypatch.setattr(stage.language, "complete", second_fails)
    request = pb.SegmentDialogueRequest(session_id=caller.session_id, questions=CHAIN)
    responses = aiter(caller.stub.SegmentDialogue(request, metadata=same, timeout=20))
    first = (await anext(responses)).result
    assert (await refused(anext(responses))).code == "UNAVAILABLE"
    assert len(await caller.rounds()) == 1
    results = await caller.dialogue(CHAIN, same)
    assert calls == 4
    assert timeless(results[0]) == timeless(first)
    assert essence(results) == essence(expected)
    assert [each.cache.wave for each in results] == [0, 1, 2]
    again = await caller.dialogue(CHAIN, same)
    assert [timeless(each) for each in again] == [timeless(each) for each in results]
    assert (calls, len(await caller.rounds())) == (4, 3)


async def test_a_dialogue_that_others_have_come_into_does_not_go_on(caller: Caller, stage: Stage) -> None:
    same = request_id()
    stage.vision.script.hold("decode")
    asked = asyncio.create_task(caller.dialogue(CHAIN, same))
    await stage.vision.script.reached("decode")
    stage.language.script.fail_next("complete", Unavailable("gone"))
    stage.vision.script.let_go("decode")
    assert (await refused(asked)).code == "UNAVAILABLE"
    await caller.ask(asks("Segment another."))
    found = await refused(caller.dialogue(CHAIN, same))
    assert (found.code, found.reason) == ("ABORTED", "MOVED_ON")
    assert len(await caller.rounds()) == 2


async def test_undo_branch_and_amend_are_done_once(caller: Caller) -> None:
    first = await caller.ask(asks())
    for text in ("Segment the tumor.", "Segment the vessel."):
        await caller.ask(asks(text))
    undo, branch, amend = request_id("undo"), request_id("branch"), request_id("amend")
    assert [(await caller.call("RewindSession", undo, rounds=2, expected_rounds=3)).rounds for _ in range(2)] == [
        2,
        2,
    ]
    name = new_id()
    forks = [await caller.call("ForkSession", branch, new_session_id=name, rounds=1) for _ in range(2)]
    assert [each.session_id for each in forks] == [name, name]
    other = caller.call("ForkSession", branch, new_session_id=name, rounds=2)
    assert (await refused(other)).reason == "IDEMPOTENCY_MISMATCH"
    once = {"round_id": first.round_id, "given_mask": given(square()), "expected_rounds": 2}
    amended = await caller.call("AmendRound", amend, **once)
    await caller.call("AmendRound", round_id=first.round_id, given_mask=given(square(1, 1)))
    await caller.call("RewindSession", rounds=1)
    assert (await caller.call("AmendRound", amend, **once)).round == amended.round
    [left] = await caller.rounds()
    assert left.mask.area == square(1, 1).sum()
    assert left.mask.mask_digest != amended.round.mask.mask_digest


async def test_the_last_requests_are_remembered(caller: Caller) -> None:
    oldest = request_id()
    await caller.ask(asks(), oldest)
    for number in range(REQUESTS_REMEMBERED):
        await caller.call("RewindSession", request_id(f"{number}"), rounds=0)
    assert (await caller.ask(asks(), oldest)).round == 0
    assert len(await caller.rounds()) == 1


# ---- progress


def heard(messages: list[pb.Progress]) -> list[tuple[str, int, int]]:
    names = pb.ProgressStage.keys()
    return [(names[each.stage].removeprefix("PROGRESS_STAGE_"), each.wave, each.waves) for each in messages]


async def test_a_dialogue_says_where_it_stands_when_it_is_asked_to(caller: Caller) -> None:
    def request(**more: bool) -> pb.SegmentDialogueRequest:
        return pb.SegmentDialogueRequest(session_id=caller.session_id, questions=CHAIN[:2], **more)

    plain = [each async for each in caller.stub.SegmentDialogue(request(), timeout=20)]
    assert [each.HasField("progress") for each in plain] == [False, False]
    await caller.call("RewindSession", rounds=0)
    events = [each async for each in caller.stub.SegmentDialogue(request(progress=True), timeout=20)]
    results = [number for number, each in enumerate(events) if each.HasField("result")]
    assert [events[number].result.round for number in results] == [0, 1]
    told = heard([each.progress for each in events if not each.HasField("result")])
    assert told[0][0] == "QUEUED"
    assert [each for each in told if each[0] in {"PREPARE", "LANGUAGE", "DECODE"}] == [
        (stage, wave, 2) for wave in (0, 1) for stage in ("PREPARE", "LANGUAGE", "DECODE")
    ]
    assert results[-1] == len(events) - 1


async def test_a_round_says_where_it_stands(caller: Caller) -> None:
    request = pb.AskRoundWithProgressRequest(session_id=caller.session_id, question=asks())
    same = request_id()
    events = [each async for each in caller.stub.AskRoundWithProgress(request, metadata=same, timeout=20)]
    assert [each.HasField("result") for each in events] == [False] * (len(events) - 1) + [True]
    assert heard([events[0].progress]) == [("QUEUED", 0, 0)]
    assert timeless(await caller.ask(asks(), same)) == timeless(events[-1].result), "one request, by either method"
    policy = pb.Correction(policy=pb.CORRECTION_POLICY_REFERENCED)
    bad = pb.AskRoundWithProgressRequest(session_id=caller.session_id, question=asks(), correction=policy)
    assert (await refused(anext(aiter(caller.stub.AskRoundWithProgress(bad))))).fields == ("correction.policy",)


async def test_a_place_in_the_queue_is_told(executor: Executor) -> None:
    stage = build_stage(executor, concurrency=1)
    async with serving(stage.service) as server, grpc.aio.insecure_channel(server.address) as channel:
        callers = [Caller(SegmentationServiceStub(channel)) for _ in range(3)]
        for each in callers:
            await each.open()
        stage.language.script.hold("complete")
        asked = [asyncio.create_task(each.ask(asks())) for each in callers[:2]]
        while not stage.gate.stats(Priority.INTERACTIVE).waiting:  # noqa: ASYNC110  # it does not signal
            await asyncio.sleep(0.01)
        request = pb.AskRoundWithProgressRequest(session_id=callers[2].session_id, question=asks())
        events = aiter(callers[2].stub.AskRoundWithProgress(request, timeout=20))
        places = [(await anext(events)).progress for _ in range(2)]
        assert [each.queue_position for each in places] == [0, 1]
        assert places[1].expected_wait.ToNanoseconds() > 0
        stage.language.script.let_go("complete")
        rest = [each async for each in events]
        await asyncio.gather(*asked)
    assert rest[-1].HasField("result")
    assert [each.progress.queue_position for each in rest if queued(each)] == [0]


def queued(message: pb.AskRoundWithProgressResponse) -> bool:
    return message.progress.stage == pb.PROGRESS_STAGE_QUEUED
