"""How images reach the server: chunks, digests, what is held and for whom."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Event

import grpc
import numpy as np
import pytest
from PIL import Image

from mediround import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MediRoundError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from mediround.failures import from_failure
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceServicer, SegmentationServiceStub
from serving.api import openings
from serving.api.images import rgb_of_file
from serving.api.limits import Limits
from serving.api.server import Server, serving
from serving.domain import U8
from tests.service.either import Make
from tests.service.harness import Stage, picture
from tests.service.harness import stage as build_stage

MIB = 1 << 20
DIGEST = hashlib.sha256(b"abc").digest()
ENCODED = pb.ImageHeader(encoded=pb.EncodedImage())


def header(message: pb.ImageHeader = ENCODED) -> pb.OpenSessionRequest:
    return pb.OpenSessionRequest(header=message)


def chunk(data: bytes = b"abc") -> pb.OpenSessionRequest:
    return pb.OpenSessionRequest(chunk=data)


def raw(
    height: int = 2, width: int = 2, channels: int = 1, kind: int = pb.PIXEL_TYPE_UINT8
) -> pb.OpenSessionRequest:
    shape = pb.RawPixels(height=height, width=width, channels=channels, pixel_type=kind)
    return header(pb.ImageHeader(raw=shape))


def png(seed: int) -> bytes:
    """A file."""
    stream = io.BytesIO()
    Image.fromarray(picture(seed=seed)).save(stream, "PNG")
    return stream.getvalue()


async def refused(stub: SegmentationServiceStub, messages: Iterable[pb.OpenSessionRequest]) -> MediRoundError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.OpenSession(iter(messages), timeout=20)
    return from_failure(caught.value)


@pytest.mark.parametrize(
    ("messages", "field", "words"),
    [
        ([], "header", "first"),
        ([chunk()], "header", "first"),
        ([chunk(), header()], "header", "first"),
        ([header(), header(), chunk()], "header", "once"),
        ([header(), pb.OpenSessionRequest()], "header", "once"),
        ([header(pb.ImageHeader())], "header.encoding", "must be set"),
        ([header()], "chunk", "must be sent"),
        ([header(), chunk(b"")], "chunk", "must be sent"),
        ([header(), chunk(bytes(MIB + 1))], "chunk", "at most 1048576"),
        ([header(), *[chunk(bytes(MIB))] * 4], "chunk", "3145728"),
        ([header(), chunk(b"not an image")], "image", "PNG, JPEG or TIFF"),
        (
            [header(pb.ImageHeader(encoded=pb.EncodedImage(), content_sha256=b"short"))],
            "header.content_sha256",
            "32",
        ),
        (
            [header(pb.ImageHeader(encoded=pb.EncodedImage(), content_sha256=DIGEST)), chunk(b"abd")],
            "header.content_sha256",
            "must be the SHA-256",
        ),
        ([raw(0, 4), chunk()], "image", "must have pixels"),
        ([raw(4, 0), chunk()], "image", "must have pixels"),
        ([raw(2**32 - 1, 2**32 - 1), chunk()], "image", "at most 1048576 pixels"),
        ([raw(1024, 1024, 3), *[chunk(bytes(MIB))] * 4], "chunk", "at most 3145728"),
        ([raw(1, 11), chunk(bytes(11))], "image", "longer side"),
        ([raw(2, 2, 2), chunk(bytes(8))], "header.raw.channels", "1 (grey) or 3"),
        ([raw(2, 2, 1), chunk(bytes(3))], "chunk", "3 were sent"),
        ([raw(2, 2, 1), chunk(bytes(5))], "chunk", "at most 4 bytes"),
        ([raw(2, 2, 1, pb.PIXEL_TYPE_UINT16), chunk(bytes(8))], "header.raw.window", "VOI LUT"),
        ([raw(2, 2, 1, pb.PIXEL_TYPE_UNSPECIFIED), chunk(bytes(4))], "header.raw.pixel_type", "UINT8"),
    ],
)
async def test_a_call_out_of_order_is_refused(
    stub: SegmentationServiceStub, messages: list[pb.OpenSessionRequest], field: str, words: str
) -> None:
    error = await refused(stub, messages)
    assert isinstance(error, InvalidArgument)
    assert [violation.field for violation in error.violations] == [field]
    assert words in error.violations[0].description


async def test_a_refused_image_leaves_nothing_behind(stage: Stage, stub: SegmentationServiceStub) -> None:
    for _ in range(2 * 4):  # more than there are permits
        await refused(stub, [header(), chunk(b"not an image")])
    assert stage.sessions.count == 0
    assert stage.uploads.nbytes == 0
    opened = await stub.OpenSession(iter([raw(), chunk(bytes(4))]))
    assert (opened.height, opened.width) == (2, 2)


async def test_the_second_time_only_the_digest_is_sent(client: AsyncClient) -> None:
    first = await client.open(picture())
    second = await client.open(picture())
    other = await client.open(picture(seed=1))
    assert [session.opening.upload_skipped for session in (first, second, other)] == [False, True, False]
    results = [await session.ask("Segment the liver.") for session in (first, second, other)]
    np.testing.assert_array_equal(results[0].mask, results[1].mask)
    assert results[1].cache.embedding_hit
    assert not results[2].cache.embedding_hit


async def test_a_client_sends_again_what_the_server_has_let_go(client: AsyncClient) -> None:
    """Uploads hold 4 MiB: one image of 1024x1024 pixels."""
    large = [picture(1024, 1024, seed) for seed in (0, 1)]
    skipped = [(await client.open(large[i])).opening.upload_skipped for i in (0, 1, 0, 0)]
    assert skipped == [False, False, False, True]


async def test_a_digest_of_bytes_that_are_not_held(stub: SegmentationServiceStub) -> None:
    asked = header(pb.ImageHeader(encoded=pb.EncodedImage(), content_sha256=DIGEST))
    assert isinstance(await refused(stub, [asked]), NotFound)


async def test_equal_bytes_of_another_shape_are_another_image(stub: SegmentationServiceStub) -> None:
    data = bytes(range(16))
    await stub.OpenSession(iter([raw(4, 4), chunk(data)]))
    digest = hashlib.sha256(data).digest()
    other = pb.RawPixels(height=2, width=8, channels=1, pixel_type=pb.PIXEL_TYPE_UINT8)
    asked = [header(pb.ImageHeader(raw=other, content_sha256=digest))]
    assert isinstance(await refused(stub, asked), NotFound)
    same = pb.RawPixels(height=4, width=4, channels=1, pixel_type=pb.PIXEL_TYPE_UINT8)
    opened = await stub.OpenSession(iter([header(pb.ImageHeader(raw=same, content_sha256=digest))]))
    assert opened.upload_skipped


async def test_equal_bytes_in_another_window_are_another_image(
    client: AsyncClient, stub: SegmentationServiceStub
) -> None:
    values = np.arange(-128, 128, dtype=np.int16).reshape(16, 16)
    sessions = [await client.open(values, window=(0.1, width), keep=True) for width in (100, 200, 100)]
    stored = [await stub.GetSession(pb.GetSessionRequest(session_id=each.session_id)) for each in sessions]
    results = [await each.ask("Segment the liver.") for each in sessions]
    with pytest.raises(FailedPrecondition) as caught:
        await client.resume(sessions[0].session_id, values, window=(0.1, 200))

    assert caught.value.reason == "OTHER_IMAGE"
    assert await client.resume(sessions[0].session_id, values, window=(0.1, 100))
    assert [each.opening.upload_skipped for each in sessions] == [False, False, True]
    assert [each.session.window for each in stored] == [
        f"LINEAR center 0.1 width {width} (request), slope 1 intercept 0, 16 bits of i2"
        for width in (100, 200, 100)
    ]
    assert [each.pixels.window for each in results] == [
        f"LINEAR center 0.1 width {width} (request), slope 1 intercept 0" for width in (100, 200, 100)
    ]
    assert results[0].to_dict()["pixels"]["window"] == results[0].pixels.window
    assert results[0].overlay().shape == (16, 16, 3)


async def test_chunks_of_any_size_make_the_same_image(stub: SegmentationServiceStub) -> None:
    encoded = io.BytesIO()
    Image.fromarray(picture()).save(encoded, "PNG")
    data = encoded.getvalue()
    digests = set()
    for size in (1000, len(data)):
        chunks = [chunk(data[start : start + size]) for start in range(0, len(data), size)]
        opened = await stub.OpenSession(iter([header(), *chunks]))
        assert (opened.height, opened.width) == (48, 64)
        digests.add(opened.content_sha256)
    assert digests == {hashlib.sha256(data).digest()}


async def test_an_image_that_never_arrives(executor: Executor) -> None:
    patient = build_stage(executor, upload_timeout=0.1, max_concurrent_uploads=1)

    async def stalled() -> AsyncIterator[pb.OpenSessionRequest]:
        yield header()
        yield chunk()
        await client_gone.wait()

    client_gone = asyncio.Event()
    async with (
        serving(patient.service, observer=patient.observer) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = SegmentationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.OpenSession(stalled(), timeout=20)
        assert isinstance(from_failure(caught.value), ResourceExhausted)
        opened = await stub.OpenSession(iter([raw(), chunk(bytes(4))]))
        assert opened.session_id
        client_gone.set()
    assert patient.shed == {"slow_caller": 1}


async def test_a_large_upload_that_is_refused_at_once(
    make: Make, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal must not be lost, and neither side waits for the other."""
    monkeypatch.setattr("serving.rpc.interceptor._DISCARDED_SECONDS", 3600)
    for kind in ("_blocking", "_asynchronous"):
        monkeypatch.setattr(f"mediround.{kind}.VERDICT_SECONDS", 3600)
    client = make(server.address, timeout=20, retries=0)
    for _ in range(10):
        with pytest.raises(InvalidArgument, match="at most 1048576 pixels"):
            await client.open(picture(2048, 2048))


class SlowDecoder:
    """Decodes files when it is let."""

    def __init__(self) -> None:
        self.let, self.begun = Event(), 0

    def __call__(self, payload: bytes, limits: Limits) -> U8:
        self.begun += 1
        assert self.let.wait(30)
        return rgb_of_file(payload, limits)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDecoder]:
    decoder = SlowDecoder()
    monkeypatch.setattr(openings, "rgb_of_file", decoder)
    yield decoder
    decoder.let.set()


@pytest.fixture
def crowded(executor: Executor, slow: SlowDecoder) -> Iterator[Stage]:
    """Four may open at once; two images are decoded at the same time."""
    with ThreadPoolExecutor(2) as openings:
        yield build_stage(executor, openings=openings, max_concurrent_uploads=4)
        slow.let.set()


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not so():  # noqa: ASYNC110  # as seen from outside
            await asyncio.sleep(0.01)


async def test_images_that_are_decoded_are_few_and_rounds_do_not_wait_for_them(
    crowded: Stage, slow: SlowDecoder
) -> None:
    async with (
        serving(crowded.service, observer=crowded.observer) as server,
        AsyncClient(server.address, retries=0) as client,
    ):
        session = await client.open(picture())  # raw: nothing to decode
        opening = [asyncio.ensure_future(client.open(png(seed))) for seed in range(4)]
        await until(lambda: crowded.service._openings._turns.in_use == 4 and slow.begun == 2)
        assert (await session.ask("Segment the liver.", timeout=10)).index == 0
        opening.append(asyncio.ensure_future(client.open(png(4))))
        await until(lambda: crowded.service._openings._turns.waiting == 1)
        await client.open(picture(), timeout=10)  # held: it waits for nobody
        assert slow.begun == 2
        slow.let.set()
        assert len({opened.session_id for opened in await asyncio.gather(*opening)}) == 5


async def test_an_image_that_is_decoded_for_nobody_keeps_its_permit(crowded: Stage, slow: SlowDecoder) -> None:
    async with serving(crowded.service) as server, AsyncClient(server.address, retries=0) as client:
        opening = [asyncio.ensure_future(client.open(png(seed))) for seed in range(4)]
        await until(lambda: crowded.service._openings._turns.in_use == 4 and slow.begun == 2)
        for call in opening:
            call.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        await until(lambda: crowded.service._openings._turns.in_use <= 2)
        await asyncio.sleep(0.1)
        assert crowded.service._openings._turns.in_use == 2
        slow.let.set()
        await until(lambda: crowded.service._openings._turns.in_use == 0)
        assert slow.begun == 2  # those that waited never began
        assert crowded.sessions.count == 0


class NeverReads(SegmentationServiceServicer):
    """A server that is stuck."""

    async def OpenSession(self, request_iterator, context):  # noqa: N802  # gRPC's spelling
        await asyncio.sleep(30)
        return pb.OpenSessionResponse()

    AskRound = SegmentDialogue = CloseSession = DescribeServer = None


@pytest.fixture
async def stuck() -> AsyncIterator[Server]:
    async with serving(NeverReads(), drain_seconds=0) as server:
        yield server


async def test_a_half_close_that_meets_the_calls_end_leaves_the_reason_to_its_status(
    stuck: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC raises an error of its own there, now and then."""

    async def fails(_: object) -> None:
        raise grpc.aio.InternalError

    monkeypatch.setattr(grpc.aio._call.StreamUnaryCall, "done_writing", fails)
    async with AsyncClient(stuck.address) as client:
        with pytest.raises(DeadlineExceeded):
            await client.open(picture(2048, 2048), timeout=0.3)


async def test_a_deadline_within_an_upload(stuck: Server) -> None:
    large = picture(4096, 4096)
    async with AsyncClient(stuck.address) as client:
        for _ in range(5):
            with pytest.raises(DeadlineExceeded):
                await client.open(large, timeout=0.2)

    def blocking() -> None:
        with Client(stuck.address) as client:
            client.open(large, timeout=0.2)

    with pytest.raises(DeadlineExceeded):
        await asyncio.to_thread(blocking)


async def test_a_connection_lost_within_an_upload(executor: Executor) -> None:
    async with serving(NeverReads(), drain_seconds=0) as server:
        client = AsyncClient(server.address)
        opening = asyncio.ensure_future(client.open(picture(4096, 4096)))
        await asyncio.sleep(0.2)
    with pytest.raises(Unavailable):
        await opening
    await client.close()
