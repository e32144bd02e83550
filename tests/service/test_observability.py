"""What a run leaves in metrics and log: every round once, and nothing of what anybody asked."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from concurrent.futures import Executor

import grpc
import pytest
from prometheus_client import CollectorRegistry

from mediround import (
    AsyncClient,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MediRoundError,
    NotFound,
    ResourceExhausted,
    Round,
    ServerFault,
    Unavailable,
)
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving import errors
from serving.api.server import serving
from serving.logs import JsonFormatter, TextFormatter
from serving.telemetry import metrics as telemetry
from tests.service.harness import Stage, picture
from tests.service.harness import stage as build_stage

NAME = "Doe^Jane 1970-01-01 PID4711"
UUID = "0f8fad5b-d9cd-469f-a165-70867728950e"


def value(stage: Stage, name: str, /, **labels: str) -> float:
    """Of all series that have these labels."""
    samples = [sample for family in stage.registry.collect() for sample in family.samples if sample.name == name]
    assert samples, name
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def rounds(stage: Stage) -> dict[tuple[str, str], float]:
    """By code and index, those that are not 0."""
    samples = [
        s for family in stage.registry.collect() for s in family.samples if s.name == "mediround_rounds_total"
    ]
    return {(s.labels["code"], s.labels["index"]): s.value for s in samples if s.value}


async def test_rounds_by_outcome_and_index(client: AsyncClient, stage: Stage) -> None:
    async with client.open(picture()) as session:
        first = await session.ask("Segment the liver.")
        await session.ask("Segment the tumor in it.", refer_to=first)
        with pytest.raises(InvalidArgument):
            await session.ask("Segment it [SEG].")
        with pytest.raises(InvalidArgument):
            await session.ask("Segment it.", refer_to=5)
        [_ async for _ in session.segment([Round("a"), Round("b", refer_to=0), Round("c", refer_to=3)])]
    with pytest.raises(FailedPrecondition):
        await session.ask("Segment the liver.")
    assert rounds(stage) == {
        ("OK", "0"): 1,
        ("OK", "1"): 1,
        ("OK", "2"): 1,
        ("OK", "3"): 1,
        ("OK", "4"): 1,
        ("INVALID_ARGUMENT", "unknown"): 2,
        ("FAILED_PRECONDITION", "unknown"): 1,
    }
    assert value(stage, "mediround_calls_total", method="AskRound") == 5
    assert value(stage, "mediround_calls_total", method="SegmentDialogue", code="OK") == 1
    assert value(stage, "mediround_calls_total", method="OpenSession", code="OK") == 1
    assert value(stage, "mediround_dialogue_rounds_sum") == 3
    assert value(stage, "mediround_dialogue_waves_sum") == 2
    assert value(stage, "mediround_language_passes_total") == 4


async def test_a_dialogue_that_fails_halfway(client: AsyncClient, stage: Stage) -> None:
    """What was answered counts as answered; what was not, at its index."""
    questions = [Round("a"), Round("can you hear me", mode="free"), Round("c", refer_to=1), Round("d")]
    async with client.open(picture()) as session:
        with pytest.raises(FailedPrecondition):
            [_ async for _ in session.segment(questions)]
    assert rounds(stage) == {
        ("OK", "0"): 1,
        ("OK", "1"): 1,
        ("FAILED_PRECONDITION", "2"): 1,
        ("FAILED_PRECONDITION", "3"): 1,
    }
    assert value(stage, "mediround_answers_without_mask_total") == 1
    assert value(stage, "mediround_dialogue_rounds_count") == 0


@pytest.mark.parametrize(
    ("failure", "seen", "code"),
    [
        (errors.Exhausted("full"), ResourceExhausted, "RESOURCE_EXHAUSTED"),
        (errors.Unavailable("down"), Unavailable, "UNAVAILABLE"),
        (errors.StillWriting("lost", retry_after=2.0), Unavailable, "UNAVAILABLE"),
        (errors.EngineFault("broken"), ServerFault, "INTERNAL"),
        (ValueError(NAME), ServerFault, "INTERNAL"),
        (errors.NotFound("gone"), NotFound, "NOT_FOUND"),
    ],
)
async def test_failures_by_code(
    client: AsyncClient, stage: Stage, failure: Exception, seen: type[MediRoundError], code: str
) -> None:
    async with client.open(picture()) as session:
        stage.language.script.fail_next("complete", failure)
        with pytest.raises(seen) as caught:
            await session.ask("Segment the liver.")
    if isinstance(caught.value, ResourceExhausted | Unavailable):
        assert caught.value.retry_after == failure.retry_after
    assert rounds(stage) == {(code, "unknown"): 1}
    assert value(stage, "mediround_calls_total", method="AskRound", code=code) == 1
    assert value(stage, "mediround_shed_total", reason="engine") == (code == "RESOURCE_EXHAUSTED")


async def test_deadlines_and_cancellations(client: AsyncClient, stage: Stage) -> None:
    script = stage.language.script
    async with client.open(picture()) as session:
        script.hold("complete")
        with pytest.raises(DeadlineExceeded):
            await session.ask("Segment the liver.", timeout=0.3)
        asked = asyncio.create_task(session.ask("Segment the liver.", timeout=20))
        await script.reached("complete", 2)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        async with asyncio.timeout(10):
            while value(stage, "mediround_calls_total", code="CANCELLED") < 1:  # noqa: ASYNC110  # as seen from outside
                await asyncio.sleep(0.01)
        script.let_go("complete")
    assert rounds(stage) == {("DEADLINE_EXCEEDED", "unknown"): 1, ("CANCELLED", "unknown"): 1}


async def test_questions_without_number_are_not_looked_at(
    stub: SegmentationServiceStub, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.api.service.masks_in", lambda _: pytest.fail("each was looked at"))
    request = pb.SegmentDialogueRequest(session_id="s", questions=[pb.Question()] * 10_000)
    with pytest.raises(grpc.aio.AioRpcError, match="must hold 1 to 6 questions"):
        await stub.SegmentDialogue(request, timeout=20).read()
    assert value(stage, "mediround_calls_total", code="INVALID_ARGUMENT") == 1
    assert rounds(stage) == {("INVALID_ARGUMENT", "unknown"): 6}, "no more than a session may hold"


async def test_bytes_that_are_not_a_message_are_a_call(client: AsyncClient, stage: Stage) -> None:
    call = client._connection._connected().unary_unary(
        f"/{pb.DESCRIPTOR.package}.SegmentationService/AskRound", None, None
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await call(b"\xff\xff", timeout=20)
    unknown = client._connection._connected().unary_unary(
        f"/{pb.DESCRIPTOR.package}.SegmentationService/{NAME[:3]}", None, None
    )
    with pytest.raises(grpc.aio.AioRpcError):
        await unknown(b"", timeout=20)
    assert value(stage, "mediround_calls_total", method="AskRound", code="INVALID_ARGUMENT") == 1
    assert value(stage, "mediround_calls_total") == 1


async def test_stages_are_those_that_took_place(client: AsyncClient, stage: Stage) -> None:
    async with client.open(picture()) as session:
        first = await session.ask("Segment the liver.")
        await session.ask("Segment the tumor.", refer_to=first)
        await session.ask("can you hear me", mode="free")
    counts = {
        name: value(stage, "mediround_stage_seconds_count", stage=name)
        for name in telemetry.STAGE_SECONDS.labels["stage"]
    }
    expected = {
        "pixels": 1,
        "preprocess": 1,
        "encode_ahead": 0,
        "queue": 3,
        "prepare": 3,
        "language": 3,
        "encode": 1,
    }
    assert counts == expected | {"decode": 2, "postprocess": 2}
    spent = value(stage, "mediround_stage_seconds_sum", stage="encode")
    assert spent == pytest.approx(first.timings.encode, rel=1e-6)  # the very value that the caller was told
    assert spent > 0
    assert value(stage, "mediround_round_seconds_count", index="2", priority="interactive") == 1
    assert value(stage, "mediround_round_seconds_count", priority="batch") == 0


async def test_masks_by_what_they_are(executor: Executor) -> None:
    """Scores, corrections, empty masks and the size of batches."""
    stage = build_stage(executor)
    scores = iter([0.595, 0.605, 0.585, 0.615, 0.9, 0.2])  # of six rays; the threshold is 0.6
    drawn = stage.vision._logits
    blank = iter([False, True, False, False, True, False])
    stage.vision._logits = lambda *asked: -abs(drawn(*asked)) if next(blank) else drawn(*asked)
    stage.vision._judge = lambda _: next(scores)
    async with (
        serving(stage.service, observer=stage.observer) as server,
        AsyncClient(server.address, retries=0) as client,
    ):
        results = [
            r async for r in client.segment(picture(), [Round(f"ray {i}") for i in range(6)], correction="always")
        ]
    corrected = sum(result.corrected for result in results)
    assert corrected == value(stage, "mediround_corrected_masks_total") == 3
    assert value(stage, "mediround_correctable_masks_total") == 6
    assert value(stage, "mediround_near_threshold_masks_total") == 2
    assert value(stage, "mediround_judge_score_sum") == pytest.approx(3.5)
    assert value(stage, "mediround_judge_score_bucket", le="0.6") == 3
    assert value(stage, "mediround_decode_batch_masks_sum") == 6
    assert value(stage, "mediround_decode_batch_masks_count") == 1
    assert [result.index for result in results if not result.area] == [1, 4]
    assert value(stage, "mediround_empty_masks_total") == 2


async def test_masks_that_a_policy_leaves_alone_are_not_correctable(client: AsyncClient, stage: Stage) -> None:
    asked = [Round("a"), Round("b", refer_to=0), Round("c", refer_to=0)]
    async with client.open(picture()) as session:
        [_ async for _ in session.segment(asked, correction="referenced", priority="batch")]
        await session.ask("d", correction="off")
    assert value(stage, "mediround_correctable_masks_total") == 1
    assert value(stage, "mediround_round_seconds_count", priority="batch") == 3


async def test_prompt_tokens(client: AsyncClient, stage: Stage) -> None:
    async with client.open(picture()) as session:
        results = [await session.ask("Segment the liver."), await session.ask("Segment the spleen.")]
    cached = sum(result.cache.cached_tokens for result in results)
    assert value(stage, "mediround_prompt_tokens_total", source="cached") == cached
    computed = sum(result.cache.prompt_tokens for result in results) - cached
    assert value(stage, "mediround_prompt_tokens_total", source="computed") == computed > 0


async def test_what_is_refused_for_a_limit(executor: Executor) -> None:
    stage = build_stage(executor, max_concurrent_rounds=1, max_sessions=2)
    async with (
        serving(stage.service, observer=stage.observer) as server,
        AsyncClient(server.address, retries=0) as client,
    ):
        sessions = [await client.open(picture(seed=seed)) for seed in range(2)]
        with pytest.raises(ResourceExhausted):
            await client.open(picture(seed=2))
        stage.language.script.hold("complete")
        asked = asyncio.create_task(sessions[0].ask("Segment the liver."))
        await stage.language.script.reached("complete")
        with pytest.raises(ResourceExhausted):
            await sessions[1].ask("Segment the liver.")
        stage.language.script.let_go("complete")
        await asked
    assert value(stage, "mediround_shed_total", reason="sessions") == 1
    assert value(stage, "mediround_shed_total", reason="requests") == 1
    assert value(stage, "mediround_shed_total") == 2


async def test_no_room_for_another_embedding(client: AsyncClient, stage: Stage) -> None:
    stage.embeddings._budget = stage.embeddings._size
    sessions = [await client.open(picture(seed=seed)) for seed in range(2)]
    stage.language.script.hold("complete")
    asked = asyncio.create_task(sessions[0].ask("Segment the liver."))
    await stage.language.script.reached("complete")
    other = asyncio.create_task(sessions[1].ask("Segment the liver."))
    await stage.language.script.reached("complete", 2)
    stage.language.script.let_go("complete")
    with pytest.raises(ResourceExhausted):
        await other
    await asked
    assert value(stage, "mediround_shed_total", reason="embeddings") == 1
    assert value(stage, "mediround_shed_total") == 1


HOSTILE = [
    Round(NAME),
    Round("x" * 64, answer=f"{NAME[:20]} [SEG]."),
    Round(f"{NAME} [SEG]"),
    Round("{code}\x00"),
    Round('"} 1\n# HELP mediround_stolen_total', mode="free"),
    Round("a", refer_to=7),
    Round("ü" * 60),
]


async def test_nothing_of_what_was_asked_is_told(
    client: AsyncClient,
    stub: SegmentationServiceStub,
    stage: Stage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Label sets are those declared, whatever anybody sends; text, names and ids are nowhere."""
    caplog.set_level(logging.DEBUG, "serving")
    before = series(stage.registry)
    async with client.open(picture()) as session:
        ids = [session.session_id]
        for asked in HOSTILE:
            try:
                await session.ask(asked.question, mode=asked.mode, answer=asked.answer, refer_to=asked.refer_to)
            except MediRoundError:
                continue
        metadata = [("x-request-id", NAME), ("x-patient", NAME), ("user-agent", NAME)]
        request = pb.AskRoundRequest(session_id=session.session_id, question=pb.Question(text=NAME), priority=0)
        await stub.AskRound(request, metadata=metadata, timeout=20)
        for refused in (
            pb.AskRoundRequest(session_id=NAME, question=pb.Question(text=NAME)),
            pb.AskRoundRequest(session_id=session.session_id, question=pb.Question(text=NAME), priority=99),
            pb.SegmentDialogueRequest(session_id=NAME, questions=[pb.Question(text=NAME)] * 40),
        ):
            call = stub.AskRound if isinstance(refused, pb.AskRoundRequest) else stub.SegmentDialogue
            with pytest.raises(grpc.aio.AioRpcError):
                answer = call(refused, metadata=metadata, timeout=20)
                await answer if isinstance(refused, pb.AskRoundRequest) else await answer.read()
        stage.language.script.fail_next("complete", ValueError(NAME))
        with pytest.raises(ServerFault):
            await session.ask(NAME)
    assert series(stage.registry) == before  # not one series more than before the first request
    told = caplog.text + "".join(map(repr, before)) + "".join(json.dumps(fields_of(r)) for r in caplog.records)
    assert value(stage, "mediround_rounds_total", code="OK") > 1
    for word in (NAME, "Doe", "PID4711", "stolen", *ids):
        assert word not in told
    declared = {metric.name: metric for metric in telemetry.CATALOGUE}
    for family in stage.registry.collect():
        for sample in family.samples:
            for label, found in sample.labels.items():
                assert label == "le" or found in declared[family.name].labels[label]


def series(registry: CollectorRegistry) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {(s.name, frozenset(s.labels.items())) for family in registry.collect() for s in family.samples}


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    return getattr(record, "fields", {})


Lines = Callable[[], list[logging.LogRecord]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """What the log says of rounds, so far."""
    caplog.set_level(logging.INFO, "serving.rounds")
    return lambda: [record for record in caplog.records if record.name == "serving.rounds"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (UUID, True),
        (UUID.upper(), True),
        ("4bf92f3577b34da6a3ce929d0e0e4736", False),
        ("4711", False),
        ("19700101", False),
        ("Doe-Jane", False),
        (f"{UUID} {NAME}", False),
    ],
)
async def test_a_request_is_named_by_an_id_that_says_nothing(
    stub: SegmentationServiceStub, client: AsyncClient, lines: Lines, sent: str, kept: bool
) -> None:
    async with client.open(picture()) as session:
        request = pb.AskRoundRequest(session_id=session.session_id, question=pb.Question(text="Segment it."))
        await stub.AskRound(request, metadata=[("x-request-id", sent)], timeout=20)
    [line] = lines()
    found = fields_of(line)["request"]
    assert (found == sent.lower()) is kept
    assert re.fullmatch(r"[0-9a-f-]{32,36}", found)


async def test_one_line_a_round(client: AsyncClient, lines: Lines) -> None:
    async with client.open(picture()) as session:
        results = [r async for r in session.segment([Round("a"), Round("b", refer_to=0)], priority="batch")]
        with pytest.raises(InvalidArgument):
            await session.ask("", priority="interactive")
    first, second, failed = [fields_of(line) for line in lines()]
    assert first["request"] == second["request"] != failed["request"]
    assert [(line["round"], line["wave"], line["priority"]) for line in (first, second)] == [
        (0, 0, "batch"),
        (1, 1, "batch"),
    ]
    for line, result in zip((first, second), results, strict=True):
        for stage in ("queue", "prepare", "language", "encode", "decode", "postprocess", "total"):
            assert line[stage] == pytest.approx(getattr(result.timings, stage), abs=1e-6)
        assert line["score"] == pytest.approx(result.score, abs=1e-4)
        assert line["code"] == "OK"
    assert (failed["code"], failed["rounds"]) == ("INVALID_ARGUMENT", 1)


async def test_both_forms_of_a_line(client: AsyncClient, lines: Lines) -> None:
    async with client.open(picture()) as session:
        await session.ask("Segment the liver.")
    [record] = lines()
    read = json.loads(JsonFormatter().format(record))
    assert read.keys() >= {"time", "level", "logger", "message", "request", "total"}
    assert (read["level"], read["logger"], read["round"], read["mask"]) == ("INFO", "serving.rounds", 0, True)
    line = TextFormatter().format(record)
    assert line.endswith((" corrected=false", " corrected=true"))
    assert " round request=" in line
    pairs = dict(pair.split("=", 1) for pair in line.split(" round ", 1)[1].split(" "))
    assert pairs.keys() == fields_of(record).keys()


def test_a_traceback_stays_one_line_in_json() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("serving", logging.ERROR, __file__, 1, "bad %s", ("thing\n",), info)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "bad thing\n"
    assert "two\nlines" in json.loads(line)["traceback"]
