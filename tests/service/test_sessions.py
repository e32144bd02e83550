"""Sessions through the contract: opened by the caller's id, read, undone, branched, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import time
from concurrent.futures import Executor
from dataclasses import replace

import grpc
import pytest

from mediround import channels
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api import service as rounds_api
from serving.api import sessions as sessions_api
from serving.api.server import serving
from serving.sessions.keeper import NewSession
from serving.stores.room import Budget
from serving.stores.sessions import MemorySessions
from tests.service.harness import MODEL_DIGEST, Stage, picture
from tests.service.harness import stage as build_stage
from tests.service.sessions import (
    HEIGHT,
    WIDTH,
    Caller,
    Parking,
    asks,
    essence,
    given,
    new_id,
    refers_to,
    refused,
    request_id,
    square,
)

EVERY: dict[str, dict[str, object]] = {
    "AskRound": {"question": asks()},
    "GetSession": {},
    "GetMask": {"round_id": "r"},
    "KeepAlive": {},
    "RewindSession": {"rounds": 0},
    "ForkSession": {"new_session_id": new_id()},
    "AmendRound": {"round_id": "r", "given_mask": pb.GivenMask(mask_digest=bytes(32))},
    "CloseSession": {},
}
"""Every method that names a session, but for those that stream."""


@pytest.fixture
async def caller(stub: SegmentationServiceStub) -> Caller:
    made = Caller(stub)
    await made.open()
    return made


# ---- opening


async def test_the_caller_names_the_session(stub: SegmentationServiceStub) -> None:
    caller = Caller(stub)
    opened = await caller.open(metadata=[("x-mediround-session", caller.session_id)])
    assert (opened.session_id, opened.rounds, opened.model_digest) == (caller.session_id, 0, MODEL_DIGEST)
    assert opened.content_sha256 == hashlib.sha256(picture(HEIGHT, WIDTH).tobytes()).digest()
    used = await refused(caller.open())
    assert (used.code, used.reason) == ("FAILED_PRECONDITION", "SESSION_ID_USED")
    await caller.call("CloseSession")
    assert (await refused(caller.open())).reason == "SESSION_ID_USED"


@pytest.mark.parametrize(
    "session_id", ["a guess", "x" * 21, "ab" * 12, "0" * 31 + "1", "x" * 65, "ü" * 22, "a/b" * 9]
)
async def test_names_that_others_could_guess_or_no_proxy_takes(
    stub: SegmentationServiceStub, session_id: str
) -> None:
    found = await refused(Caller(stub, session_id).open())
    assert (found.code, found.fields) == ("INVALID_ARGUMENT", ("header.session_id",))
    fork = Caller(stub).call("ForkSession", new_session_id=session_id)
    assert (await refused(fork)).fields == ("new_session_id",)


async def test_a_server_names_the_session_of_a_caller_that_does_not(stub: SegmentationServiceStub) -> None:
    opened = await Caller(stub, "").open()
    assert len(opened.session_id) == 22


async def test_opening_again_by_the_same_request(stub: SegmentationServiceStub, stage: Stage) -> None:
    caller, same = Caller(stub), request_id()
    first, again = await caller.open(metadata=same), await caller.open(metadata=same)
    assert first.session_id == again.session_id
    assert stage.sessions.count == 1
    assert (await refused(caller.open(seed=1, metadata=same))).reason == "IDEMPOTENCY_MISMATCH"
    assert (await refused(caller.open(metadata=request_id()))).reason == "SESSION_ID_USED"
    other = Caller(stub)
    at_once = [other.open(metadata=same), other.open(metadata=same)]
    assert len({each.session_id for each in await asyncio.gather(*at_once)}) == 1
    assert stage.sessions.count == 2


async def test_connections_without_a_name_have_budgets_of_their_own(executor: Executor) -> None:
    full = MemorySessions(8, 1 << 30, 600.0, time.monotonic, each=Budget(2, 1 << 30))
    apart = ("grpc.use_local_subchannel_pool", 1)  # else gRPC would lend the connection that is there
    async with (
        serving(build_stage(executor, sessions=full).service) as server,
        channels.asynchronous(server.address, None) as one,
        grpc.aio.insecure_channel(server.address, options=[apart]) as two,
    ):
        first = Caller(SegmentationServiceStub(one))
        await first.open()
        await first.call("ForkSession", new_session_id=new_id())
        for opening in (Caller(first.stub).open(), first.call("ForkSession", new_session_id=new_id())):
            told = await refused(opening)
            assert told.code == "RESOURCE_EXHAUSTED"
            assert "you have 2 open sessions" in told.words
        await Caller(SegmentationServiceStub(two)).open()


async def test_a_session_that_has_its_image_is_resumed_at_once(caller: Caller) -> None:
    await caller.ask(asks())
    resumed = await caller.open(resume=True)
    assert (resumed.session_id, resumed.rounds) == (caller.session_id, 1)
    assert (await refused(caller.open(seed=1, resume=True))).reason == "OTHER_IMAGE"
    unnamed = await refused(Caller(caller.stub, "").open(resume=True))
    assert unnamed.fields == ("header.session_id",)
    assert (await refused(Caller(caller.stub).open(resume=True))).code == "NOT_FOUND"


async def test_metadata_must_name_the_session_of_the_request(caller: Caller) -> None:
    other = [("x-mediround-session", new_id())]
    found = [await refused(caller.call(name, metadata=other, **fields)) for name, fields in EVERY.items()]
    found += [
        await refused(caller.dialogue([asks()], metadata=other)),
        await refused(Caller(caller.stub).open(metadata=other)),
    ]
    assert {(each.code, each.fields) for each in found} == {("INVALID_ARGUMENT", ("x-mediround-session",))}
    await caller.ask(asks(), metadata=[("x-mediround-session", caller.session_id)])


# ---- sessions that cannot be had


async def test_what_is_told_of_a_session_that_cannot_be_had(caller: Caller, stage: Stage) -> None:
    """Closed and expired: its owner alone. Another caller's is like one that never was."""
    foreign, unknown = Caller(caller.stub), Caller(caller.stub)
    await stage.service._keeper.open(NewSession("another", foreign.session_id), picture())
    closed = Caller(caller.stub)
    await closed.open()
    await closed.call("CloseSession")
    stage.sessions._idle_timeout = 0.0  # all others end now
    told = {}
    for name, each in {"foreign": foreign, "unknown": unknown, "closed": closed, "expired": caller}.items():
        calls = {method: each.call(method, **fields) for method, fields in EVERY.items()}
        calls["SegmentDialogue"] = each.dialogue([asks()])
        calls["AskRound with a mask"] = each.ask(asks(given_mask=given(square())))
        if name == "closed":
            calls.pop("CloseSession").close()  # succeeds
        told[name] = {(found.code, found.reason) for found in [await refused(call) for call in calls.values()]}
    assert told == {
        "foreign": {("NOT_FOUND", "")},
        "unknown": {("NOT_FOUND", "")},
        "closed": {("FAILED_PRECONDITION", "SESSION_CLOSED")},
        "expired": {("NOT_FOUND", "SESSION_EXPIRED")},
    }


async def test_use_and_keep_alive_put_the_end_off(caller: Caller, stage: Stage) -> None:
    now = [stage.sessions._clock()]
    stage.sessions._clock = lambda: now[0]
    ends = [(await caller.call("KeepAlive")).expires_at.seconds]
    for _ in range(3):
        now[0] += 50.0  # of 60
        ends += [
            (await caller.call("KeepAlive")).expires_at.seconds,
            (await caller.ask(asks())).expires_at.seconds,
        ]
    assert (await caller.call("KeepAlive")).rounds == 3
    assert all(end >= ends[0] for end in ends)
    now[0] += 60.0
    assert (await refused(caller.call("KeepAlive"))).reason == "SESSION_EXPIRED"


async def test_a_parked_session_is_read_and_gets_its_image_again(caller: Caller, stage: Stage) -> None:
    first = await caller.ask(asks())
    stage.sessions.__class__ = Parking
    stage.sessions.parked = {caller.session_id}
    read = await caller.call("GetSession")
    assert (read.session.state, len(read.rounds)) == (pb.SESSION_STATE_PARKED, 1)
    assert (await caller.call("GetMask", round_id=first.round_id)).mask == first.mask
    needs = await refused(caller.ask(refers_to(first)))
    assert (needs.code, needs.reason) == ("FAILED_PRECONDITION", "NEEDS_IMAGE")
    assert (await refused(caller.open(seed=1, resume=True))).reason == "OTHER_IMAGE"
    other_shape = pb.RawPixels(height=WIDTH, width=HEIGHT, channels=3, pixel_type=pb.PIXEL_TYPE_UINT8)
    assert (await refused(caller.open(resume=True, raw=other_shape))).reason == "OTHER_IMAGE"
    resumed = await caller.open(resume=True)
    assert (resumed.session_id, resumed.rounds, resumed.height) == (caller.session_id, 1, HEIGHT)
    assert (await caller.ask(refers_to(first))).round == 1


async def test_a_session_of_another_model_is_read_alone(caller: Caller, stage: Stage) -> None:
    first = await caller.ask(asks())
    entry = stage.sessions._entries["anonymous", caller.session_id]
    entry.session = replace(entry.session, record=replace(entry.session.record, model_digest="another"))
    read = await caller.call("GetSession")
    assert (read.session.model_digest, read.rounds[0].round_id) == ("another", first.round_id)
    assert (await caller.call("GetMask", round_id=first.round_id)).mask == first.mask
    changes = {
        "AskRound": {"question": asks()},
        "RewindSession": {"rounds": 0},
        "ForkSession": {"new_session_id": new_id()},
        "AmendRound": {"round_id": first.round_id, "given_mask": given(square())},
    }
    found = [await refused(caller.call(method, **fields)) for method, fields in changes.items()]
    assert {(each.code, each.reason) for each in found} == {("FAILED_PRECONDITION", "OTHER_MODEL")}


# ---- reading


async def test_a_session_says_what_it_holds(caller: Caller) -> None:
    first = await caller.ask(asks("Segment the liver."))
    spoken = await caller.ask(asks("Can you hear me?", answer_mode=pb.ANSWER_MODE_FREE))
    second = await caller.ask(refers_to(first))
    read = await caller.call("GetSession")
    session, rounds = read.session, read.rounds
    assert (session.session_id, session.height, session.width, session.rounds) == (
        caller.session_id,
        HEIGHT,
        WIDTH,
        3,
    )
    assert (session.state, session.keep, session.model_digest) == (pb.SESSION_STATE_OPEN, False, MODEL_DIGEST)
    assert session.opened_at.seconds <= session.expires_at.seconds
    assert [each.round_id for each in rounds] == [first.round_id, spoken.round_id, second.round_id]
    assert [each.question for each in rounds] == ["Segment the liver.", "Can you hear me?", "Segment it."]
    assert (rounds[0].answer, rounds[0].score) == (first.answer, first.score)
    assert (rounds[0].mask.mask_digest, rounds[0].mask.area) == (first.mask_digest, first.mask.area)
    assert not rounds[1].HasField("mask")
    assert rounds[2].reference == second.reference
    assert rounds[2].reference.mask_digest == first.mask_digest
    assert rounds[2].reference.source == pb.REFERENCE_SOURCE_ROUND


async def test_masks_are_read_by_round_or_digest(caller: Caller) -> None:
    first = await caller.ask(asks())
    spoken = await caller.ask(asks("Can you hear me?", answer_mode=pb.ANSWER_MODE_FREE))
    by_round = await caller.call("GetMask", round_id=first.round_id)
    by_digest = await caller.call("GetMask", mask_digest=first.mask_digest)
    assert by_round.mask == by_digest.mask == first.mask
    assert by_round.mask_digest == first.mask_digest
    packed = await caller.call("GetMask", round_id=first.round_id, mask_encoding=pb.MASK_ENCODING_PACKED_BITS)
    assert len(packed.mask.data) == HEIGHT * WIDTH // 8
    asked = {
        "which": {},
        "mask_digest": {"mask_digest": b"short"},
        "original": {"mask_digest": first.mask_digest, "original": True},
        "mask_encoding": {"round_id": first.round_id, "mask_encoding": 99},
    }
    assert [(await refused(caller.call("GetMask", **fields))).fields for fields in asked.values()] == [
        (name,) for name in asked
    ]
    assert (await refused(caller.call("GetMask", round_id=spoken.round_id))).reason == "NO_MASK"
    assert (await refused(caller.call("GetMask", round_id="another"))).reason == "STALE"
    assert (await refused(caller.call("GetMask", mask_digest=bytes(32)))).reason == "MASK_NOT_HELD"


async def test_sessions_are_listed_for_callers_with_a_name(
    stub: SegmentationServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    anonymous = await refused(stub.ListSessions(pb.ListSessionsRequest()))
    assert (anonymous.code, anonymous.reason) == ("FAILED_PRECONDITION", "NOT_AUTHENTICATED")
    for module in (sessions_api, rounds_api):
        monkeypatch.setattr(module, "caller_of", lambda _: "x509_subject:anna")
    callers = [Caller(stub) for _ in range(5)]
    for each in callers:
        await each.open(keep=True)
    pages, token = [], ""
    for _ in range(3):
        page = await stub.ListSessions(pb.ListSessionsRequest(page_size=2, page_token=token))
        pages.append([each.session_id for each in page.sessions])
        assert all(each.keep for each in page.sessions)
        token = page.next_page_token
    assert [len(page) for page in pages] == [2, 2, 1]
    assert token == ""
    assert [name for page in pages for name in page] == [each.session_id for each in reversed(callers)]
    for token in ("?", "bm9ib2R5", "eCB5"):
        assert (await refused(stub.ListSessions(pb.ListSessionsRequest(page_token=token)))).fields == (
            "page_token",
        )
    assert (await refused(stub.ListSessions(pb.ListSessionsRequest(page_size=1001)))).fields == ("page_size",)


# ---- undo and branches


async def test_an_undone_round_leaves_no_trace_in_what_is_asked_next(caller: Caller) -> None:
    await caller.ask(asks("Segment the liver."))
    undone = await caller.ask(asks("Segment the tumor.", 0))
    assert (await caller.call("RewindSession", rounds=1, expected_rounds=2)).rounds == 1
    after = await caller.ask(asks("Segment the vessel.", 0))
    assert (after.round, after.round_id != undone.round_id) == (1, True)
    fresh = Caller(caller.stub)
    await fresh.open()
    both = [await fresh.ask(asks("Segment the liver.")), await fresh.ask(asks("Segment the vessel.", 0))]
    assert essence([after]) == essence(both[1:])


async def test_a_reference_to_what_is_no_longer_so_is_refused(caller: Caller) -> None:
    first, second = await caller.ask(asks()), await caller.ask(asks("Segment the tumor."))
    await caller.call("RewindSession", rounds=1)
    stale = [
        refers_to(second),
        refers_to(first, round_id=second.round_id),
        refers_to(first, mask_digest=bytes(32)),
    ]
    gone = [await refused(caller.ask(each)) for each in stale]
    await caller.ask(asks("Segment the tumor instead."))
    gone += [await refused(caller.ask(refers_to(second))), await refused(caller.dialogue([refers_to(second)]))]
    assert {(each.code, each.reason) for each in gone} == {("FAILED_PRECONDITION", "STALE")}
    ahead = [asks(), refers_to(first, round=2)]  # of a round of the same request nothing is known yet
    assert (await refused(caller.dialogue(ahead))).reason == "STALE"
    assert (await refused(caller.ask(refers_to(first, mask_digest=b"short")))).fields == (
        "question.refer_to.mask_digest",
    )
    assert (await caller.ask(refers_to(first))).round == 2


async def test_rounds_that_cannot_be_kept(caller: Caller) -> None:
    await caller.ask(asks())
    beyond = [
        await refused(caller.call("RewindSession", rounds=2)),
        await refused(caller.call("RewindSession")),
        await refused(caller.call("ForkSession", new_session_id=new_id(), rounds=2)),
    ]
    assert {(each.code, each.fields) for each in beyond} == {("INVALID_ARGUMENT", ("rounds",))}
    moved = [
        await refused(caller.call("RewindSession", rounds=0, expected_rounds=2)),
        await refused(caller.call("ForkSession", new_session_id=new_id(), expected_rounds=0)),
    ]
    assert {(each.code, each.reason) for each in moved} == {("ABORTED", "MOVED_ON")}
    assert len(await caller.rounds()) == 1


async def test_a_branch_of_a_branch_goes_its_own_way(caller: Caller, stage: Stage) -> None:
    texts = ["Segment the liver.", "Segment the tumor.", "Segment the vessel.", "Segment the rest."]
    for text in texts[:2]:
        await caller.ask(asks(text))
    branch, twig = Caller(caller.stub), Caller(caller.stub)
    forked = await caller.call("ForkSession", new_session_id=branch.session_id, rounds=1)
    assert (forked.session_id, forked.rounds) == (branch.session_id, 1)
    asked = await branch.ask(asks(texts[2], 0))
    assert asked.cache.embedding_hit
    assert asked.cache.cached_tokens > stage.manifest.tower.tokens, (
        "what the two have in common is not computed again"
    )
    await branch.call("ForkSession", new_session_id=twig.session_id)
    await twig.ask(asks(texts[3], 1))
    assert (
        await refused(branch.call("ForkSession", new_session_id=caller.session_id))
    ).reason == "SESSION_ID_USED"
    assert [[each.question for each in await one.rounds()] for one in (caller, branch, twig)] == [
        [texts[0], texts[1]],
        [texts[0], texts[2]],
        [texts[0], texts[2], texts[3]],
    ]
    ids = [each.round_id for each in await twig.rounds()]
    assert ids[:2] == [each.round_id for each in await branch.rounds()]
    assert len(stage.vision.script.asked("encode")) == 1
    fresh = Caller(caller.stub)
    await fresh.open()
    expected = [await fresh.ask(question) for question in (asks(texts[0]), asks(texts[2], 0), asks(texts[3], 1))]
    again = await twig.ask(asks("Segment all.", 2)), await fresh.ask(asks("Segment all.", 2))
    assert essence([again[0]]) == essence([again[1]])
    assert [each.mask_digest for each in expected] == [each.mask.mask_digest for each in (await twig.rounds())[:3]]
