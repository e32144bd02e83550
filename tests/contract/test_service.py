"""The public contract, on each server that implements it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from mediround import (
    AsyncClient,
    Box,
    Cancelled,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Limits,
    NotFound,
    ResourceExhausted,
    Round,
    masks,
)
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api.server import SERVICE
from tests.contract.services import IMPLEMENTATIONS, Implementation, Start, ask, encoded, header
from tests.service.harness import LIMITS, MODEL_DIGEST, picture


@pytest.fixture(params=IMPLEMENTATIONS)
async def implementation(request: pytest.FixtureRequest) -> AsyncIterator[Implementation]:
    async with IMPLEMENTATIONS[request.param]() as running:
        yield running


@pytest.fixture
async def client(implementation: Implementation) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(implementation.address, timeout=20) as connected:
        yield connected


@pytest.fixture
async def stub(implementation: Implementation) -> AsyncIterator[SegmentationServiceStub]:
    async with grpc.aio.insecure_channel(implementation.address) as channel:
        yield SegmentationServiceStub(channel)


# ---- opening


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("TIFF", {}), ("TIFF", {"big_tiff": False})],
)
async def test_a_file_of_each_kind_is_opened(client: AsyncClient, kind: str, options: dict[str, object]) -> None:
    async with client.open(encoded(kind, **options)) as session:
        assert (session.opening.height, session.opening.width) == (48, 64)
        assert session.opening.model_digest == MODEL_DIGEST
        result = await session.ask("Segment the liver.")
    assert result.mask is not None
    assert result.mask.shape == (48, 64)


async def test_a_path_bytes_and_an_array_are_opened(client: AsyncClient, tmp_path: Path) -> None:
    path = tmp_path / "slice.png"
    path.write_bytes(encoded("PNG"))
    for image in (path, str(path), path.read_bytes(), picture(), picture()[..., 0]):
        async with client.open(image) as session:
            assert (session.opening.height, session.opening.width) == (48, 64)


async def test_an_image_that_is_held_is_opened_by_its_digest(client: AsyncClient, stub) -> None:
    sessions = [await client.open(image) for image in (picture(), picture(), picture(seed=1), encoded("PNG"))]
    assert [session.opening.upload_skipped for session in sessions] == [False, True, False, False]
    assert len({session.session_id for session in sessions}) == 4
    digest = hashlib.sha256(encoded("PNG")).digest()
    opened = await stub.OpenSession(
        iter([header(pb.ImageHeader(encoded=pb.EncodedImage(), content_sha256=digest))])
    )
    assert (opened.upload_skipped, opened.content_sha256) == (True, digest)


# ---- rounds


async def test_rounds_refer_to_earlier_ones(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        first = await session.ask("Segment the liver.")
        second = await session.ask("Segment the tumor in it.", refer_to=first)
        third = await session.ask("And the vessel.", refer_to=0)
    assert [first.index, second.index, third.index] == [0, 1, 2]
    assert first.answer == "It is [SEG]."
    assert first.reference is None
    assert second.reference is not None
    assert third.reference is not None
    assert second.reference.index == third.reference.index == 0
    assert second.reference.box == first.box
    assert not second.reference.whole_image
    assert [result.cache.embedding_hit for result in (first, second)] == [False, True]
    assert second.cache.prompt_tokens > second.cache.cached_tokens > 0


async def test_a_result_is_whole(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        result = await session.ask("Segment the liver.")
    assert result.mask is not None
    assert result.score is not None
    assert result.seg_probability is not None
    assert result.area == np.count_nonzero(result.mask) > 0
    rows, columns = np.nonzero(result.mask)
    assert result.box == Box(columns.min(), rows.min(), columns.max(), rows.max())
    assert 0 < result.score < 1
    assert 0 < result.seg_probability <= 1
    assert result.timings.total >= result.timings.language >= 0
    assert result.model_digest == MODEL_DIGEST
    [record] = (await client.describe()).engine_records
    assert (result.engine_digest, record.model_digest) == (record.digest, MODEL_DIGEST)
    assert record.language.engine == record.image_encoder.engine == record.mask_decoder.engine == "scripted"


async def test_an_answer_without_a_mask_cannot_be_referred_to(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        spoken = await session.ask("Can you hear me?", mode="free")
        with pytest.raises(FailedPrecondition, match="round 0 has no mask to refer to"):
            await session.ask("Segment it.", refer_to=spoken)
        after = await session.ask("Segment the liver.", mode="free")
        always = await session.ask("Can you hear me?", mode="grammar")
    assert (spoken.answer, spoken.mask, spoken.area, spoken.box) == ("Yes.", None, 0, None)
    assert (spoken.score, spoken.seg_probability, spoken.corrected) == (None, None, False)
    assert (after.index, after.answer) == (1, "Here [SEG].")
    assert always.mask is not None
    assert "[SEG]" in always.answer


async def test_words_that_are_given_are_the_answer(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        assert (await session.ask("Segment it.", answer="Sure, [SEG].")).answer == "Sure, [SEG]."


async def test_a_threshold_of_the_callers_own(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        judged = await session.ask("Segment the liver.", threshold=1.0)
        kept = await session.ask("Segment the liver.", threshold=0.0)
        off = await session.ask("Segment the liver.", correction="off", threshold=1.0)
        chain = [Round("Segment the liver."), Round("Segment the tumor.", refer_to=3)]
        referred = [result async for result in session.segment(chain, threshold=1.0)]
    assert [result.corrected for result in (judged, kept, off, *referred)] == [True, False, False, True, False]


async def test_pixels_next_to_zero_are_told_where_that_is_asked(implementation: Implementation, stub) -> None:
    """By each way to ask; all else of a round is as it is without."""
    known = [Round("Segment the liver."), Round("Can you hear me?", mode="free"), Round("It.", refer_to=0)]
    async with AsyncClient(implementation.address) as client, client.open(picture()) as session:
        plain = [each async for each in session.segment(known)]
        await session.seed("The same.", "[SEG].", plain[0].mask)
    async with AsyncClient(implementation.address) as client, client.open(picture()) as session:
        near = [each async for each in session.segment(known, near_zero=0.5)]
        watched = await session.ask("Segment the liver.", near_zero=0.5, progress=lambda _: None)
        message = pb.Question(text="Segment the liver.")
        packed = pb.MASK_ENCODING_PACKED_BITS
        request = pb.AskRoundRequest(
            session_id=session.session_id, question=message, near_zero=0.5, mask_encoding=packed
        )
        told = (await stub.AskRound(request)).result.near_zero
    assert [each.near_zero for each in plain] == [None] * 3
    assert near[1].near_zero is None, "it has no mask"
    for each in (near[0], near[2], watched):
        assert (each.near_zero.dtype, each.near_zero.shape) == (np.bool_, (48, 64))
    for one, other in zip(plain, near, strict=True):
        assert (one.answer, one.mask_digest, one.score) == (other.answer, other.mask_digest, other.score)
    assert (told.encoding, told.height, told.width) == (packed, 48, 64)
    assert near[0].to_dict()["near_zero"]["size"] == [48, 64]


async def test_a_dialogue_in_advance_is_read_in_waves(client: AsyncClient) -> None:
    known = [
        Round("Segment the liver."),
        Round("Segment the tumor in it.", refer_to=0),
        Round("Segment the kidney.", answer="Sure, [SEG]."),
        Round("Segment the other one.", refer_to=2),
        Round("Segment the spleen.", mode="free"),
        Round("Segment the stomach."),
    ]
    results = [result async for result in client.segment(picture(), known)]
    assert [result.index for result in results] == list(range(6))
    assert [result.cache.wave for result in results] == [0, 1, 1, 2, 2, 3]
    digests = {record.digest for record in (await client.describe()).engine_records}
    assert {result.engine_digest for result in results} == digests
    assert [result.reference.index if result.reference else None for result in results[:4]] == [None, 0, None, 2]


async def test_a_wave_that_fails_keeps_what_was_before_it(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        known = [Round("Can you hear me?", mode="free"), Round("Segment the liver."), Round("Of it.", refer_to=0)]
        results = []
        with pytest.raises(FailedPrecondition):
            async for result in session.segment(known):
                results.append(result)  # noqa: PERF401  # the stream ends in an error
        assert [result.index for result in results] == [0]
        assert (await session.ask("Segment the liver.")).index == 1


@pytest.mark.parametrize(
    "encoding",
    [pb.MASK_ENCODING_UNSPECIFIED, pb.MASK_ENCODING_COCO_RLE, pb.MASK_ENCODING_PACKED_BITS, pb.MASK_ENCODING_PNG],
)
async def test_each_encoding_is_the_same_mask(
    client: AsyncClient, stub: SegmentationServiceStub, encoding: pb.MaskEncoding.ValueType
) -> None:
    async with client.open(picture()) as session:
        expected = (await session.ask("Segment the liver.")).mask
    async with client.open(picture()) as session:
        mask = (await stub.AskRound(ask(session.session_id, mask_encoding=encoding))).result.mask
    assert expected is not None
    assert mask.encoding == (encoding or pb.MASK_ENCODING_COCO_RLE)
    if mask.encoding == pb.MASK_ENCODING_PNG:
        bits = np.asarray(Image.open(io.BytesIO(mask.data)))
    else:
        bits = masks.decode(mask.data, mask.encoding, mask.height, mask.width)
    np.testing.assert_array_equal(bits, expected)


async def test_rounds_that_do_not_exist_or_are_too_many(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        for rounds in (0, 7):
            with pytest.raises(InvalidArgument, match="1 to 6 questions"):
                [_ async for _ in session.segment([Round("Segment the liver.")] * rounds)]
        with pytest.raises(InvalidArgument) as live:
            await session.ask("Segment the liver.", refer_to=5)
        with pytest.raises(InvalidArgument) as known:
            [_ async for _ in session.segment([Round("Segment it."), Round("Segment that.", refer_to=1)])]
        for _ in range(6):
            await session.ask("Segment the liver.")
        with pytest.raises(InvalidArgument, match="at most 6 rounds") as full:
            await session.ask("Segment the liver.")
    fields = [caught.value.violations[0].field for caught in (live, known, full)]
    assert fields == ["question.refer_to", "questions[1].refer_to", "question"]


async def test_sessions_that_are_closed_or_another_callers(client: AsyncClient) -> None:
    session = await client.open(picture())
    await session.close()
    await session.close()
    with pytest.raises(FailedPrecondition):
        await session.ask("Segment the liver.")
    with pytest.raises(FailedPrecondition):
        [_ async for _ in session.segment([Round("Segment the liver.")])]
    guessed = client.session("a guess")
    with pytest.raises(NotFound):
        await guessed.ask("Segment the liver.")
    with pytest.raises(NotFound):
        await guessed.close()


async def test_more_sessions_than_are_held(client: AsyncClient) -> None:
    sessions = [await client.open(picture()) for _ in range(8)]
    for session in sessions:
        await session.ask("Segment the liver.")
    with pytest.raises(ResourceExhausted, match="8 sessions are open") as caught:
        await client.open(picture(), retries=0)
    assert 30 < caught.value.retry_after <= 60
    await sessions[0].close()
    unasked = await client.open(picture(), retries=0)
    with pytest.raises(ResourceExhausted) as caught:
        await client.open(picture(), retries=0)
    assert 0 < caught.value.retry_after <= 1
    await client.open(picture())  # sent again when the one that nobody asked may give way
    with pytest.raises(NotFound):
        await unasked.ask("Segment the liver.")


# ---- calls that meet, and calls that end early


async def test_rounds_asked_at_once_are_answered_in_order(
    client: AsyncClient, implementation: Implementation
) -> None:
    implementation.take(0.05)
    async with client.open(picture()) as session:
        waiting = []
        for number in range(4):
            waiting.append(asyncio.create_task(session.ask(f"Segment {number}.")))
            await asyncio.sleep(0.01)
        results = await asyncio.gather(*waiting)
    assert [result.index for result in results] == [0, 1, 2, 3]
    assert results[3].timings.queue > 0


async def test_a_deadline_and_a_cancel_leave_the_session_as_it_was(
    client: AsyncClient, implementation: Implementation
) -> None:
    async with client.open(picture()) as session:
        first = await session.ask("Segment the liver.")
        implementation.take(30.0)
        with pytest.raises(DeadlineExceeded):
            await session.ask("Segment the tumor in it.", refer_to=first, timeout=0.2)
        asked = asyncio.create_task(session.ask("Segment the tumor in it.", refer_to=first))
        await asyncio.sleep(0.2)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        implementation.take(0.0)
        assert (await session.ask("Segment the tumor in it.", refer_to=first)).index == 1


async def test_the_blocking_client_gets_the_same(implementation: Implementation) -> None:
    def blocking() -> list[int]:
        with Client(implementation.address, timeout=20) as client, client.open(picture()) as session:
            first = session.ask("Segment the liver.")
            second = session.ask("Segment the tumor in it.", refer_to=first)
            known = list(client.segment(picture(), [Round("Segment the liver."), Round("Of it.", refer_to=0)]))
            digest = client.describe().engine_records[0].digest
            assert {result.engine_digest for result in (first, second, *known)} == {digest}
            return [result.index for result in (first, second, *known)]

    assert await asyncio.to_thread(blocking) == [0, 1, 0, 1]


async def test_closing_a_blocking_client_ends_its_calls(implementation: Implementation) -> None:
    def blocking() -> None:
        client = Client(implementation.address)
        session = client.open(picture())
        implementation.take(30.0)
        closing = threading.Timer(0.3, client.close)
        closing.start()
        with pytest.raises(Cancelled):
            session.ask("Segment the liver.")
        closing.join()

    await asyncio.to_thread(blocking)


@pytest.mark.parametrize("start", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
async def test_forced_rounds_of_a_model_without_a_trained_template(start: Start) -> None:
    async with start(template_trained=False) as server, AsyncClient(server.address, timeout=20) as client:
        described = await client.describe()
        assert (described.answer_template_trained, described.default_answer_mode) == (False, "free")
        async with client.open(picture()) as session:
            with pytest.raises(InvalidArgument, match="FREE or GRAMMAR") as caught:
                await session.ask("Segment the liver.", mode="forced")
            assert [violation.field for violation in caught.value.violations] == ["question.answer"]
            rounds = [Round("Segment the liver."), Round("Segment it.", refer_to=0, mode="forced")]
            with pytest.raises(InvalidArgument) as caught:
                [_ async for _ in session.segment(rounds)]
            assert [violation.field for violation in caught.value.violations] == ["questions[1].answer"]
            spoken = await session.ask("Segment the liver.", answer="It is the liver [SEG].")
            own = await session.ask("Segment the liver.")
    assert (spoken.index, spoken.answer) == (0, "It is the liver [SEG].")  # nothing of the dialogue was answered
    assert own.answer == "Here [SEG]."


# ---- what a server says of itself


async def test_a_description_names_limits_and_modes(client: AsyncClient) -> None:
    described = await client.describe()
    assert described.model_digest == MODEL_DIGEST
    assert described.answer_modes == ("forced", "grammar", "free")
    assert described.default_answer_mode == "forced"
    assert described.correction_policies == ("always", "referenced", "off")
    assert described.mask_encodings == ("coco_rle", "packed_bits", "png")
    assert (described.has_judge, described.threshold) == (True, pytest.approx(0.6))
    assert (described.answer_template, described.answer_template_trained) == ("It is [SEG].", True)
    limits = {name: getattr(described.limits, name) for name in Limits.__slots__}
    assert {name: value for name, value in limits.items() if name in LIMITS} == {
        name: value for name, value in LIMITS.items() if name in limits
    }


async def test_a_client_finds_it_ready(client: AsyncClient, implementation: Implementation) -> None:
    await client.wait_until_ready(timeout=20)
    assert await client.ping() < 20

    def blocking() -> float:
        with Client(implementation.address, timeout=20) as other:
            return other.ping()

    assert await asyncio.to_thread(blocking) < 20


async def test_failures_and_results_carry_the_id_that_the_client_made(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        result = await session.ask("Segment the liver.")
        with pytest.raises(InvalidArgument) as caught:
            await session.ask(" ")
    ids = [result.request_id, caught.value.request_id or ""]
    assert [str(uuid.UUID(each)) for each in ids] == ids
    assert len(set(ids)) == 2


async def test_a_session_is_taken_up_by_its_id(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        await session.ask("Segment the liver.")
        again = client.session(session.session_id)
        result = await again.ask("Segment the tumor in it.", refer_to=0)
    assert (result.index, result.mask.shape) == (1, (48, 64))


async def test_health_is_told_of_the_server_and_of_the_service(implementation: Implementation) -> None:
    async with grpc.aio.insecure_channel(implementation.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)).status == 1
            async for seen in stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=20):
                assert seen.status == health_pb2.HealthCheckResponse.SERVING
                break
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
