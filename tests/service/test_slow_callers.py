"""Callers that are waited for hold nothing that others need: slow readers, uploads that stand still."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import Executor

import grpc
import pytest

from mediround import AsyncClient, InvalidArgument, ResourceExhausted
from mediround.failures import from_failure
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api.server import serving
from tests.service.harness import picture
from tests.service.harness import stage as build_stage

ROUNDS = 6
MIB = 1 << 20
TOO_LARGE = "header.content_bytes: must be at most the 3145728"


def dialogue(session_id: str) -> pb.SegmentDialogueRequest:
    """Results of 96 KiB each: more than a connection takes for a caller that does not read."""
    question = pb.Question(text="Segment the liver.", answer_mode=pb.ANSWER_MODE_FORCED)
    request = pb.SegmentDialogueRequest(session_id=session_id, questions=[question] * ROUNDS)
    request.mask_encoding = pb.MASK_ENCODING_PACKED_BITS
    return request


async def test_a_caller_that_does_not_read_holds_neither_place_nor_session_nor_permit(executor: Executor) -> None:
    stage = build_stage(executor, concurrency=1, max_wait=0.5, max_concurrent_rounds=1, max_rounds=8)
    async with (
        serving(stage.service, observer=stage.observer) as server,
        AsyncClient(server.address) as client,
        grpc.aio.insecure_channel(server.address, [("grpc.http2.bdp_probe", 0)]) as channel,
    ):
        session = await client.open(picture(1024, 768))
        reading = SegmentationServiceStub(channel).SegmentDialogue(dialogue(session.session_id))
        first = await reading.read()
        assert first.result.round == 0
        async with asyncio.timeout(10):
            while len(stage.sessions._entries["anonymous", session.session_id].session.rounds) < ROUNDS:  # noqa: ASYNC110  # as seen from outside
                await asyncio.sleep(0.01)
        live = await session.ask("Segment the spleen.", timeout=10)  # the same session, the only place and permit
        assert live.index == ROUNDS
        later = [(await reading.read()).result.round for _ in range(1, ROUNDS)]
        assert later == list(range(1, ROUNDS)), "nothing is lost"


async def test_uploads_that_stand_still_keep_nobody_from_opening(executor: Executor) -> None:
    stage = build_stage(executor, max_concurrent_uploads=2)
    gone = asyncio.Event()

    async def stalled() -> AsyncIterator[pb.OpenSessionRequest]:
        yield pb.OpenSessionRequest(header=pb.ImageHeader(encoded=pb.EncodedImage()))
        yield pb.OpenSessionRequest(chunk=b"\x89PNG")
        await gone.wait()

    async with (
        serving(stage.service, observer=stage.observer) as server,
        AsyncClient(server.address) as client,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = SegmentationServiceStub(channel)
        calls = [stub.OpenSession(stalled()) for _ in range(8)]
        async with asyncio.timeout(10):
            while stage.service._openings._bytes.nbytes < 8 * 4:  # noqa: ASYNC110  # as seen from outside
                await asyncio.sleep(0.01)
        for seed in range(3):
            await client.open(picture(seed=seed))
        await client.open(picture(seed=0))  # held
        for call in calls:
            call.cancel()
        gone.set()
        async with asyncio.timeout(10):
            while stage.service._openings._bytes.nbytes:  # noqa: ASYNC110  # as seen from outside
                await asyncio.sleep(0.01)


async def test_uploads_of_one_connection_leave_room_for_anothers(executor: Executor) -> None:
    stage = build_stage(executor, max_concurrent_uploads=1, upload_timeout=60.0)
    gone = asyncio.Event()

    async def stalled(chunks: int) -> AsyncIterator[pb.OpenSessionRequest]:
        yield pb.OpenSessionRequest(header=pb.ImageHeader(encoded=pb.EncodedImage()))
        for _ in range(chunks):
            yield pb.OpenSessionRequest(chunk=bytes(MIB))
        await gone.wait()

    by_itself = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        serving(stage.service, observer=stage.observer) as server,
        AsyncClient(server.address) as client,
        grpc.aio.insecure_channel(server.address, by_itself) as channel,
    ):
        stub, held = SegmentationServiceStub(channel), stage.service._openings._bytes
        calls = [stub.OpenSession(stalled(2)), stub.OpenSession(stalled(1))]
        async with asyncio.timeout(10):
            while held.nbytes < 3 * MIB:  # noqa: ASYNC110  # as seen from outside
                await asyncio.sleep(0.01)
        with pytest.raises(grpc.aio.AioRpcError, match="your images that are being sent"):
            await stub.OpenSession(stalled(1))
        await client.open(picture())
        gone.set()
        for call in calls:
            call.cancel()


async def test_an_upload_slower_than_the_floor_is_ended(executor: Executor) -> None:
    stage = build_stage(executor, upload_timeout=600.0, min_upload_rate=MIB)

    async def trickle() -> AsyncIterator[pb.OpenSessionRequest]:
        yield pb.OpenSessionRequest(header=pb.ImageHeader(encoded=pb.EncodedImage()))
        while True:
            yield pb.OpenSessionRequest(chunk=b"x")
            await asyncio.sleep(0.05)

    async with (
        serving(stage.service, observer=stage.observer) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await SegmentationServiceStub(channel).OpenSession(trickle(), timeout=60)
        assert isinstance(from_failure(caught.value), ResourceExhausted)
        assert "1048576 bytes a second" in str(caught.value.details())
    assert stage.shed == {"slow_caller": 1}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (pb.ImageHeader(content_bytes=1 << 40), TOO_LARGE),
        (
            pb.ImageHeader(content_bytes=1 << 40, content_sha256=bytes(32)),
            TOO_LARGE,
        ),
        (pb.ImageHeader(content_sha256=hashlib.sha256().digest()), "image: must not be empty"),
        (pb.ImageHeader(), "chunk: must be sent"),
        (pb.ImageHeader(priority=9, content_sha256=bytes(32)), "header.priority: must be"),  # type: ignore[arg-type]
    ],
)
async def test_a_header_alone_gets_its_verdict(
    stub: SegmentationServiceStub, header: pb.ImageHeader, words: str
) -> None:
    header.encoded.SetInParent()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.OpenSession(iter([pb.OpenSessionRequest(header=header)]))
    assert isinstance(from_failure(caught.value), InvalidArgument)
    assert words in str(caught.value.details())


async def test_a_size_that_is_not_the_chunks(stub: SegmentationServiceStub) -> None:
    header = pb.ImageHeader(content_bytes=5, encoded=pb.EncodedImage())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.OpenSession(iter([pb.OpenSessionRequest(header=header), pb.OpenSessionRequest(chunk=b"four")]))
    assert "header.content_bytes: must be the number of bytes that come: 4 did" in str(caught.value.details())
