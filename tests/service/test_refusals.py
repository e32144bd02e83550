"""Bad input: each gets a typed error, the server stays up, and the session is as it was."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mediround import (
    AsyncClient,
    Client,
    FailedPrecondition,
    InvalidArgument,
    MediRoundError,
    NotFound,
    ResourceExhausted,
    Round,
    ServerFault,
    Unavailable,
)
from mediround.failures import from_failure
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api.server import Server, serving
from serving.errors import EngineFault, Exhausted, InvalidInput
from serving.errors import Unavailable as EngineDown
from tests.service.harness import Stage, picture
from tests.service.harness import stage as build_stage

NAME = "John Doe 1970"


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("", "empty"),
        (" \u3000 ", "empty"),
        ("x" * 65, "at most 64 bytes of UTF-8; it holds 65"),
        ("ü" * 33, "it holds 66"),
        ("a\x00b", "U+0000"),
        ("a\nb", "U+000A"),
        ("a\x1b[31m", "U+001B"),
        ("a\x85b", "U+0085"),
        ("Segment it [SEG]", "[SEG]"),
        ("[CROPPEDIMAGE] it", "[CROPPEDIMAGE]"),
        ("[BBOXINPUT] it", "[BBOXINPUT]"),
        ("<image> it", "<image>"),
        ("<s>it", "<s>"),
        ("it</s>", "</s>"),
        ("it [INST] more", "[INST]"),
        ("it [/INST] more", "[/INST]"),
        ("\uff3b\uff33\uff25\uff27\uff3d", "[SEG]"),  # full-width
        ("\uff1cimage\uff1e", "<image>"),
    ],
)
async def test_words_that_are_not_asked(client: AsyncClient, question: str, words: str) -> None:
    async with client.open(picture()) as session:
        with pytest.raises(InvalidArgument) as caught:
            await session.ask(question)
        with pytest.raises(InvalidArgument) as in_dialogue:
            [_ async for _ in session.segment([Round("Segment the liver."), Round(question)])]
        after = await session.ask("Segment the liver.")
    assert caught.value.violations[0].field == "question.text"
    assert words in caught.value.violations[0].description
    assert in_dialogue.value.violations[0].field == "questions[1].text"
    assert after.index == 0


@pytest.mark.parametrize(
    "question", ["Segment [seg].", "where is x < y > z?", "Wo ist die Leber? 肝臓", "a/s>", "😀"]
)
async def test_words_that_are_words(client: AsyncClient, question: str) -> None:
    async with client.open(picture()) as session:
        assert (await session.ask(question)).mask is not None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("It is here.", "exactly once"),
        ("[SEG] and [SEG].", "exactly once"),
        ("\uff3bSEG\uff3d is it.", "exactly once"),
        ("It is [SEG] [INST].", "[INST]"),
        ("It</s> is [SEG].", "</s>"),
        ("It is\t[SEG].", "U+0009"),
        ("It is [SEG]" + "." * 64, "at most 64 bytes"),
    ],
)
async def test_answers_that_are_not_given(client: AsyncClient, answer: str, words: str) -> None:
    async with client.open(picture()) as session:
        with pytest.raises(InvalidArgument) as caught:
            await session.ask("Segment the liver.", answer=answer)
    assert caught.value.violations[0].field == "question.answer"
    assert words in caught.value.violations[0].description


def ask(session_id: str = "s", **changes: object) -> pb.AskRoundRequest:
    question = pb.Question(text="Segment the liver.")
    return pb.AskRoundRequest(**({"session_id": session_id, "question": question} | changes))


def question(**changes: object) -> pb.Question:
    return pb.Question(**({"text": "Segment the liver."} | changes))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ask(""), "session_id"),
        (pb.AskRoundRequest(session_id="s"), "question.text"),
        (ask(mask_encoding=99), "mask_encoding"),
        (ask(question=question(answer_mode=99)), "question.answer_mode"),
        (ask(question=question(answer_mode=pb.ANSWER_MODE_FREE, answer="It is [SEG].")), "question.answer"),
        (
            ask(question=question(refer_to=pb.RoundReference(round=0, session_id="another"))),
            "question.refer_to.session_id",
        ),
        (ask(correction=pb.Correction(policy=99)), "correction.policy"),
        (ask(correction=pb.Correction(policy=pb.CORRECTION_POLICY_REFERENCED)), "correction.policy"),
        (ask(correction=pb.Correction(threshold=-0.5)), "correction.threshold"),
        (ask(correction=pb.Correction(threshold=1.5)), "correction.threshold"),
        (ask(correction=pb.Correction(threshold=float("nan"))), "correction.threshold"),
        (ask(correction=pb.Correction(threshold=float("inf"))), "correction.threshold"),
    ],
)
async def test_a_request_that_cannot_be_asked(
    stub: SegmentationServiceStub, request_: pb.AskRoundRequest, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.AskRound(request_, timeout=20)
    error = from_failure(caught.value)
    assert isinstance(error, InvalidArgument)
    assert error.violations[0].field == field


async def test_the_details_are_read_by_the_standard_tools(stub: SegmentationServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.AskRound(ask(""), timeout=20)
    status = await rpc_status.aio.from_call(_Awaited(caught.value))
    found = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(found)
    assert found.field_violations[0].field == "session_id"
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


class _Awaited:
    """A finished call, as the standard tool expects it, of the error that the call raised."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    async def code(self) -> grpc.StatusCode:
        return self._error.code()

    async def details(self) -> str:
        return self._error.details()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return self._error.trailing_metadata()


@pytest.mark.parametrize("rounds", [0, 7])
async def test_too_few_or_too_many_questions(client: AsyncClient, rounds: int) -> None:
    with pytest.raises(InvalidArgument, match="1 to 6 questions"):
        [_ async for _ in client.segment(picture(), [Round("Segment the liver.")] * rounds)]


async def test_too_many_rounds_in_a_session(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        for _ in range(6):
            await session.ask("Segment the liver.")
        with pytest.raises(InvalidArgument, match="at most 6 rounds") as caught:
            await session.ask("Segment the liver.")
        assert caught.value.violations[0].field == "question"
        with pytest.raises(InvalidArgument, match="at most 6 rounds") as caught:
            [_ async for _ in session.segment([Round("Segment the liver.")])]
        assert caught.value.violations[0].field == "questions"


@pytest.mark.parametrize("mebibytes", [5, 15])
async def test_messages_of_many_bytes_are_refused_by_field(stub: SegmentationServiceStub, mebibytes: int) -> None:
    many = mebibytes << 20
    header = pb.OpenSessionRequest(header=pb.ImageHeader(encoded=pb.EncodedImage()))
    question = pb.AskRoundRequest(session_id="s", question=pb.Question(text="x" * many))
    for call in (
        lambda: stub.OpenSession(iter([header, pb.OpenSessionRequest(chunk=bytes(many))])),
        lambda: stub.AskRound(question),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call()
        refused = from_failure(caught.value)
        assert isinstance(refused, InvalidArgument)
        assert refused.violations[0].field in {"chunk", "question.text"}


async def test_too_many_tokens(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        chain = [Round("x" * 64, refer_to=index - 1 if index else None) for index in range(6)]
        with pytest.raises(InvalidArgument, match="must fit 400 tokens") as caught:
            [_ async for _ in session.segment(chain)]
        assert caught.value.violations[0].field == "questions"
        assert (await session.ask("Segment the liver.")).index == 0  # not one of its waves was read


async def test_what_an_engine_refuses_is_said_of_the_question(client: AsyncClient, stage: Stage) -> None:
    """Its own field is a part of the prompt, of which the caller knows nothing."""
    async with client.open(picture()) as session:
        stage.language.script.fail_next("complete", InvalidInput("prompt.token_ids", "are too many"))
        with pytest.raises(InvalidArgument) as caught:
            await session.ask("Segment the liver.")
    assert [(v.field, v.description) for v in caught.value.violations] == [("question", "are too many")]


@pytest.mark.parametrize("refer_to", [0, 5, 2**32 - 1])
async def test_a_round_that_does_not_exist(client: AsyncClient, refer_to: int) -> None:
    async with client.open(picture()) as session:
        with pytest.raises(InvalidArgument) as caught:
            await session.ask("Segment the liver.", refer_to=refer_to)
        assert [violation.field for violation in caught.value.violations] == ["question.refer_to"]
        rounds = [Round("Segment the liver."), Round("Segment the tumor in it.", refer_to=refer_to or 1)]
        with pytest.raises(InvalidArgument) as caught:
            [_ async for _ in session.segment(rounds)]
        assert [violation.field for violation in caught.value.violations] == ["questions[1].refer_to"]


async def test_sessions_that_are_not_there(client: AsyncClient, stub: SegmentationServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.AskRound(ask("unknown"), timeout=20)
    assert isinstance(from_failure(caught.value), NotFound)
    session = await client.open(picture())
    await session.close()
    await session.close()
    with pytest.raises(FailedPrecondition):
        await session.ask("Segment the liver.")
    with pytest.raises(FailedPrecondition):
        [_ async for _ in session.segment([Round("Segment the liver.")])]


async def test_bytes_that_are_not_a_message(server: Server, client: AsyncClient) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        for raw in (b"\xff\xff\xff", b"\x12\x03\x0a\x01\xff", b"\x0a\x02\xc3\x28"):
            call = channel.unary_unary(f"/{pb.DESCRIPTOR.package}.SegmentationService/AskRound", None, None)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(raw, timeout=20)
            error = from_failure(caught.value)
            assert isinstance(error, InvalidArgument), raw
            assert error.violations[0].field == "request"
    assert (await client.describe()).model_name == "made-up"


async def test_a_chunk_beyond_the_transports_limit(stub: SegmentationServiceStub, client: AsyncClient) -> None:
    header = pb.OpenSessionRequest(header=pb.ImageHeader(encoded=pb.EncodedImage()))
    messages = [header, pb.OpenSessionRequest(chunk=bytes(5 << 20))]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.OpenSession(iter(messages), timeout=20)
    assert isinstance(from_failure(caught.value), MediRoundError)
    assert (await client.describe()).model_name == "made-up"


async def test_a_fault_says_nothing_but_its_id(
    client: AsyncClient, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.open(picture()) as session:
        for fault in (ValueError(NAME), EngineFault("two features, one asked")):
            stage.language.script.fail_next("complete", fault)
            with caplog.at_level(logging.ERROR), pytest.raises(ServerFault) as caught:
                await session.ask(f"Segment {NAME}.")
            assert caught.value.incident
            assert caught.value.incident in caplog.text
            assert str(fault) not in str(caught.value)
            assert NAME not in caplog.text
        assert "two features, one asked" in caplog.text
        assert (await session.ask("Segment the liver.")).index == 0


async def test_refusals_are_not_logged(client: AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="serving"):
        async with client.open(picture()) as session:
            with pytest.raises(InvalidArgument):
                await session.ask(f"{NAME} [SEG]")
            await session.ask(NAME)
    assert NAME not in caplog.text


async def test_try_again_later(client: AsyncClient, stage: Stage) -> None:
    async with client.open(picture()) as session:
        stage.language.script.fail_next("complete", Exhausted("full", retry_after=2.5))
        with pytest.raises(ResourceExhausted) as exhausted:
            await session.ask("Segment the liver.")
        stage.language.script.fail_next("complete", EngineDown("down", retry_after=0.25))
        with pytest.raises(Unavailable) as unavailable:
            await session.ask("Segment the liver.")
        assert (await session.ask("Segment the liver.")).index == 0
    assert exhausted.value.retry_after == 2.5
    assert unavailable.value.retry_after == 0.25


async def test_more_sessions_than_are_held(client: AsyncClient) -> None:
    for _ in range(8):
        await client.open(picture())
    with pytest.raises(ResourceExhausted):
        await client.open(picture())


async def test_no_server(free_port: int) -> None:
    async with AsyncClient(f"127.0.0.1:{free_port}") as client:
        with pytest.raises(Unavailable) as caught:
            await client.open(picture())
    assert caught.value.retry_after > 0

    def blocking() -> None:
        with Client(f"127.0.0.1:{free_port}") as client:
            client.describe()

    with pytest.raises(Unavailable):
        await asyncio.to_thread(blocking)


async def test_a_model_without_a_judge(executor) -> None:
    unjudged = build_stage(executor, judge=False)
    async with serving(unjudged.service) as server, AsyncClient(server.address) as client:
        described = await client.describe()
        async with client.open(picture()) as session:
            result = await session.ask("Segment the liver.")
    assert not described.has_judge
    assert described.correction_policies == ("off",)
    assert result.mask is not None
    assert (result.score, result.corrected) == (None, False)
