"""Sessions beside their rounds, on each server that implements the public contract."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import numpy as np
import pytest

from mediround import (
    AsyncClient,
    FailedPrecondition,
    IdempotencyMismatch,
    InvalidArgument,
    MediRoundError,
    MovedOn,
    NotFound,
    Progress,
    Round,
    SessionClosed,
    StaleReference,
    masks,
)
from mediround.failures import from_failure
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from tests.contract.services import IMPLEMENTATIONS, Implementation
from tests.service.harness import picture
from tests.service.sessions import Caller, asks, given, mask, square

QUESTION, MASK = "Segment the liver.", square()


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


async def refusal(call: Awaitable[object]) -> MediRoundError:
    try:
        await call
    except grpc.aio.AioRpcError as failure:
        return from_failure(failure)
    raise AssertionError("the call was answered")


async def test_references_know_their_rounds_and_masks(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        first, second = await session.ask(QUESTION), await session.ask(QUESTION)
        assert first.mask_digest == masks.digest(first.mask).hex()
        assert await session.undo() == 1
        with pytest.raises(StaleReference, match="round 1 is not the one referred to, which was undone"):
            await session.ask(QUESTION, refer_to=second)
        amended = await session.amend(first, MASK, origin="by hand")
        with pytest.raises(StaleReference, match="the mask of round 0 is not the one referred to any more"):
            await session.ask(QUESTION, refer_to=first)
        about = await session.ask(QUESTION, refer_to=amended)
        used = about.reference
        assert (used.source, used.origin, used.index, used.round_id) == ("amended", "by hand", 0, first.round_id)
        np.testing.assert_array_equal(await session.mask(first), MASK)
        np.testing.assert_array_equal(await session.mask(first, original=True), first.mask)
        past = await session.history()
        assert [each.round_id for each in past] == [first.round_id, about.round_id]
        assert past[0] == amended
        assert (past[0].original_digest, past[0].score) == (first.mask_digest, first.score)
        assert past[1].reference == used
        assert not (await session.amend(past[0], None)).amended
        assert (await session.ask(QUESTION, refer_to=first)).reference.source == "round"
        with pytest.raises(StaleReference, match="no round of this round_id"):
            await session.mask(second)


async def test_masks_of_the_callers_own(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        told = await session.ask(QUESTION, refer_to=MASK, origin="slice 41")
        assert (told.reference.source, told.reference.origin, told.reference.index) == ("given", "slice 41", None)
        assert told.reference.mask_digest == masks.digest(MASK).hex()
        seeded = await session.seed(QUESTION, "It is [SEG].", MASK, origin="slice 42")
        assert (seeded.seeded, seeded.score, seeded.seg_probability) == (True, None, None)
        rounds = [
            Round("A", answer="It is [SEG].", origin="slice 43", seed=MASK),
            Round("B", refer_to=2),
            Round("C", refer_to=1),
            Round("D", refer_to=3),
        ]
        results = [each async for each in session.segment(rounds)]
        assert [each.cache.wave for each in results] == [0, 0, 0, 1]
        used = [each.reference for each in results[1:]]
        assert [(each.source, each.origin) for each in used] == [
            ("round", "slice 43"),
            ("round", "slice 42"),
            ("round", ""),
        ]
        assert used[0].round_id == results[0].round_id
        past = await session.history()
        assert [each.origin for each in past] == ["", "slice 42", "slice 43", "", "", ""]
        assert [each.engine_digest for each in past[:3]] == [told.engine_digest, "", ""]
        assert past[3].engine_digest == results[1].engine_digest == told.engine_digest != ""
        assert (await session.amend(past[1], square(2, 2), origin="Dr. A")).origin == "Dr. A"
        assert (await session.amend(past[1], None)).origin == "slice 42"


async def test_masks_that_are_not_taken(client: AsyncClient, stub: SegmentationServiceStub) -> None:
    caller = Caller(stub)
    await caller.open()
    await caller.ask(asks())
    small, wrong = mask(np.ones((2, 3), np.bool_)), mask(MASK)
    wrong.data = wrong.data[:3]
    refused = {
        "question.given_mask": [asks("It.", 0, given_mask=given(MASK)), asks(given_mask=pb.GivenMask())],
        "question.given_mask.mask": [
            asks(given_mask=pb.GivenMask(mask=small)),
            asks(given_mask=given(np.zeros_like(MASK))),
        ],
        "question.given_mask.mask.data": [
            asks(given_mask=pb.GivenMask(mask=wrong)),
            asks(given_mask=pb.GivenMask(mask=pb.Mask(height=48, width=64))),
        ],
        "question.given_mask.mask_digest": [asks(given_mask=pb.GivenMask(mask_digest=b"short"))],
        "question.given_mask.origin": [
            asks(given_mask=given(MASK, "x" * 65)),
            asks(given_mask=given(MASK, "a\nb")),
        ],
        "question.refer_to.mask_digest": [
            pb.Question(text="It.", refer_to=pb.RoundReference(round=0, mask_digest=b"short"))
        ],
        "question.answer": [asks(seed_mask=mask(MASK))],
        "question.seed_mask": [asks(answer="It is [SEG].", seed_mask=small)],
        "question.seed_origin": [
            asks(seed_origin="slice 41"),
            asks(answer="It is [SEG].", seed_mask=mask(MASK), seed_origin="x" * 65),
        ],
    }
    for path, questions in refused.items():
        for question in questions:
            error = await refusal(caller.ask(question))
            assert isinstance(error, InvalidArgument), path
            assert [each.field for each in error.violations] == [path]
    unknown = await refusal(caller.ask(asks(given_mask=pb.GivenMask(mask_digest=bytes(32)))))
    assert (type(unknown), unknown.reason) == (FailedPrecondition, "MASK_NOT_HELD")
    # Nobody must send a mask for what is refused with it, too.
    for others in ([asks()] * 5, [asks("It.", 4)]):
        asked = [asks(given_mask=pb.GivenMask(mask_digest=bytes(32))), *others]
        assert isinstance(await refusal(caller.dialogue(asked)), InvalidArgument)


async def test_undone_and_branched(client: AsyncClient) -> None:
    async with client.open(picture()) as session:
        first, second = await session.ask(QUESTION), await session.ask(QUESTION)
        other = client.session(session.session_id)
        async with session.fork(after=first) as branch:
            assert branch.opening.rounds == 1
            assert (await branch.ask(QUESTION, refer_to=0)).index == 1
        assert await other.undo() == 1
        with pytest.raises(MovedOn, match="the session has 1 rounds, not 2"):
            await session.undo()
        with pytest.raises(StaleReference):
            await session.fork(after=second)
        with pytest.raises(InvalidArgument, match="at most the 1"):
            await session.fork(after=1)


async def test_kept_taken_up_and_closed(client: AsyncClient) -> None:
    async with client.open(picture(), keep=True) as session:
        first = await session.ask(QUESTION)
    async with client.resume(session.session_id, image=picture()) as again:
        assert (await again.ask(QUESTION, refer_to=first)).index == 1
        assert again.expires_at is not None
        assert await again.keep_alive() >= again.opening.rounds
    with pytest.raises(FailedPrecondition) as caught:
        await client.resume(session.session_id, image=picture(seed=1))
    assert caught.value.reason == "OTHER_IMAGE"
    await again.close()
    with pytest.raises(SessionClosed):
        await client.resume(session.session_id)
    with pytest.raises(NotFound):
        await client.resume(secrets.token_urlsafe(16))
    with pytest.raises(FailedPrecondition) as caught:
        [_ async for _ in client.sessions()]
    assert caught.value.reason == "NOT_AUTHENTICATED"


async def test_progress_ends_with_the_result(client: AsyncClient) -> None:
    told: list[Progress] = []
    async with client.open(picture()) as session:
        await session.ask(QUESTION, progress=told.append)
        rounds = [Round(QUESTION), Round(QUESTION, refer_to=1)]
        assert len([each async for each in session.segment(rounds, progress=told.append)]) == 2
    assert {(each.wave, each.waves) for each in told if each.stage == "decode"} == {(0, 1), (0, 2), (1, 2)}


async def test_a_request_that_comes_again_is_answered_as_before(stub: SegmentationServiceStub) -> None:
    caller, branch = Caller(stub), Caller(stub)
    same = {
        name: [("x-request-id", str(uuid.uuid4()))] for name in ("open", "ask", "rewind", "fork", "amend", "all")
    }
    assert (await caller.open(metadata=same["open"])).rounds == (await caller.open(metadata=same["open"])).rounds
    first, again = [await caller.ask(asks(), same["ask"]) for _ in range(2)]
    assert first.round_id == again.round_id
    chain = [asks("Segment the tumor.", 0), asks("Segment the vessel.", 1)]
    both, twice = [await caller.dialogue(chain, same["all"]) for _ in range(2)]
    assert [each.round_id for each in both] == [each.round_id for each in twice]
    made = {"round_id": first.round_id, "given_mask": given(MASK)}
    for _ in range(2):
        assert (await caller.call("AmendRound", same["amend"], **made)).round.amended
    told = await caller.ask(asks(), same["ask"])
    assert (told.amended, again.amended) == (True, False)
    assert (told.mask, told.mask_digest) == (first.mask, first.mask_digest), "the model's own stays readable"
    for _ in range(2):
        assert (await caller.call("AmendRound", same["amend"], **made)).round.amended
        fork = {"new_session_id": branch.session_id, "rounds": 1}
        assert (await caller.call("ForkSession", same["fork"], **fork)).rounds == 1
        assert (await caller.call("RewindSession", same["rewind"], rounds=0, expected_rounds=3)).rounds == 0
    mismatches: list[Callable[[], Awaitable[object]]] = [
        lambda: caller.ask(asks("Another."), same["ask"]),
        lambda: caller.dialogue([asks()], same["rewind"]),
        lambda: caller.open(seed=1, metadata=same["open"]),
    ]
    for call in mismatches:
        assert isinstance(await refusal(call()), IdempotencyMismatch)
    used = await refusal(caller.open(metadata=[("x-request-id", str(uuid.uuid4()))]))
    assert used.reason == "SESSION_ID_USED"
    other = await refusal(caller.ask(asks(), [("x-mediround-session", branch.session_id)]))
    assert [each.field for each in other.violations] == ["x-mediround-session"]
    for guessable in ("x" * 21, "ab" * 12, "a/b" * 9):
        error = await refusal(Caller(stub, guessable).open())
        assert [each.field for each in error.violations] == ["header.session_id"]
