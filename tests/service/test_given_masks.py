"""Masks that a person gives: with a question, as a seed round, in place of a round's; and those not taken."""

from __future__ import annotations

import asyncio
import io
import logging
import zlib
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from PIL import Image

from mediround import masks
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api.server import Server
from serving.domain import NO_CORRECTION
from serving.ports import Prompt
from tests.service.harness import CharacterTokenizer, Stage
from tests.service.sessions import (
    HEIGHT,
    WIDTH,
    Caller,
    asks,
    bits_of,
    essence,
    given,
    mask,
    refers_to,
    refused,
    square,
)

BITS = square()
ENCODINGS = [pb.MASK_ENCODING_COCO_RLE, pb.MASK_ENCODING_PACKED_BITS, pb.MASK_ENCODING_PNG]


@pytest.fixture
async def caller(stub: SegmentationServiceStub) -> Caller:
    made = Caller(stub)
    await made.open()
    return made


@pytest.fixture
async def fresh(stub: SegmentationServiceStub) -> Caller:
    """Another session on the same image."""
    made = Caller(stub)
    await made.open()
    return made


def seed(bits: np.ndarray = BITS, text: str = "Segment the liver.", **more: object) -> pb.Question:
    return asks(text, answer="It is [SEG].", seed_mask=mask(bits), **more)


def shown(prompt: Prompt, stage: Stage) -> str:
    """A prompt as text, its inserted tokens by name."""
    names = {number: f"<{name}>" for name, number in stage.manifest.tokens.model_dump().items()}
    return "".join(names.get(t) or CharacterTokenizer().decode((t,)) for t in prompt.token_ids)


# ---- with a question


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_given_mask_is_seen_as_the_rounds_own(caller: Caller, fresh: Caller, encoding: int) -> None:
    first = await caller.ask(asks("Segment the liver."))
    referred = await caller.ask(refers_to(first))
    await fresh.ask(asks("Segment the liver."))
    made = pb.GivenMask(mask=mask(bits_of(first.mask), encoding), origin="slice 41")
    told = await fresh.ask(asks(given_mask=made))
    assert essence([told]) == essence([referred])
    assert (told.reference.crop, told.reference.box) == (referred.reference.crop, referred.reference.box)
    assert told.reference.mask_digest == referred.reference.mask_digest == first.mask_digest
    assert first.mask_digest == masks.digest(bits_of(first.mask))
    assert told.reference.source == pb.REFERENCE_SOURCE_GIVEN
    assert (told.reference.origin, told.reference.round_id, told.reference.round) == ("slice 41", "", 0)
    assert referred.reference.source == pb.REFERENCE_SOURCE_ROUND
    assert referred.reference.round_id == first.round_id


async def test_a_first_question_about_a_given_mask(caller: Caller, stage: Stage) -> None:
    await caller.ask(asks("Segment it.", given_mask=given(BITS)))
    [prompt] = stage.language.script.asked("complete")
    assert shown(prompt, stage) == "<bos>[INST] <image>\n <crop><bbox> Segment it. [/INST] It is "
    assert len(prompt.references) == 1


async def test_a_mask_that_the_session_holds_is_named_by_its_digest(caller: Caller, stage: Stage) -> None:
    first = await caller.ask(asks())
    by_round = await caller.ask(refers_to(first))
    await caller.call("RewindSession", rounds=1)
    by_digest = await caller.ask(asks(given_mask=pb.GivenMask(mask_digest=first.mask_digest)))
    assert essence([by_digest]) == essence([by_round])
    sent, named = given(BITS, "hand"), pb.GivenMask(mask_digest=masks.digest(BITS))
    results = await caller.dialogue([asks(given_mask=sent), asks(given_mask=named)])
    assert [each.cache.wave for each in results] == [0, 0], "a given mask is known from the first pass"
    assert [each.reference.mask_digest for each in results] == [masks.digest(BITS)] * 2
    unknown = pb.GivenMask(mask_digest=bytes(32))
    assert (await refused(caller.ask(asks(given_mask=unknown)))).reason == "MASK_NOT_HELD"


# ---- seeds


async def test_a_seed_asks_no_engine_and_is_referred_to_as_any(
    caller: Caller, fresh: Caller, stage: Stage
) -> None:
    own = await caller.ask(asks("Segment the liver.", answer="It is [SEG]."))
    expected = await caller.ask(refers_to(own))
    passes, decodes = len(stage.language.script.calls), len(stage.vision.script.calls)
    seeded = await fresh.ask(seed(bits_of(own.mask)))
    assert (len(stage.language.script.calls), len(stage.vision.script.calls)) == (passes, decodes)
    assert (seeded.seeded, seeded.answer, seeded.mask) == (True, "It is [SEG].", own.mask)
    assert not any(seeded.HasField(name) for name in ("score", "seg_probability"))
    assert not seeded.corrected
    assert essence([await fresh.ask(refers_to(seeded))]) == essence([expected])


async def test_seeds_in_a_dialogue_are_there_from_the_first_wave(caller: Caller, stage: Stage) -> None:
    asked = [
        seed(),
        asks("Segment the tumor.", 0),
        seed(square(20, 20), "Segment the vessel.", refer_to=None),
        asks("Segment the branch.", 2),
        asks("Segment the tip.", 3),
        seed(square(2, 2), "Segment the rest.", refer_to=4),
    ]
    results = await caller.dialogue(asked, correction=pb.Correction(threshold=1.0))
    assert [each.cache.wave for each in results] == [0, 0, 0, 0, 1, 2]
    assert [each.seeded for each in results] == [True, False, True, False, False, True]
    assert len(stage.language.script.asked("complete")) == 2
    assert stage.vision.script.asked("decode") == [2, 1]
    assert [each.corrected for each in results] == [False, False, False, True, True, False]
    assert results[5].reference.round == 4
    assert results[1].reference.round_id == results[0].round_id
    assert results[1].reference.mask_digest == results[0].mask_digest == masks.digest(BITS)


async def test_a_policy_judges_no_seed_and_no_given_mask(
    caller: Caller, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds: list[list[float]] = []
    decode = stage.vision.decode

    async def seen(lease: object, features: np.ndarray, limits: np.ndarray) -> object:
        thresholds.append(limits.tolist())
        return await decode(lease, features, limits)

    monkeypatch.setattr(stage.vision, "decode", seen)
    await caller.dialogue([seed(), asks("Segment it.", given_mask=given(BITS)), asks("Segment that.", 0)])
    assert thresholds == [[NO_CORRECTION, NO_CORRECTION]]


async def test_seeds_that_are_not_given(caller: Caller) -> None:
    no_answer = pb.Question(text="Segment it.", seed_mask=mask(BITS))
    free = seed(answer_mode=pb.ANSWER_MODE_FREE)
    for question, field in [(no_answer, "question.answer"), (free, "question.answer")]:
        found = await refused(caller.ask(question))
        assert (found.code, found.fields) == ("INVALID_ARGUMENT", (field,))
    assert await caller.rounds() == []


# ---- in place of a round's


async def test_an_amended_mask_is_what_later_questions_are_about(
    caller: Caller, fresh: Caller, stage: Stage
) -> None:
    first = await caller.ask(asks("Segment the liver."))
    before = await caller.ask(refers_to(first, "Segment the tumor."))
    amended = await caller.call(
        "AmendRound", round_id=first.round_id, given_mask=given(BITS, "Dr. A"), expected_rounds=2
    )
    changed = amended.round
    assert (changed.amended, changed.round, changed.round_id) == (True, 0, first.round_id)
    assert (changed.mask.mask_digest, changed.mask.area) == (masks.digest(BITS), BITS.sum())
    assert changed.original.mask_digest == first.mask_digest
    assert (await refused(caller.ask(refers_to(first)))).reason == "STALE"
    after = await caller.ask(refers_to(first, "Segment the vessel.", mask_digest=changed.mask.mask_digest))
    assert after.reference.source == pb.REFERENCE_SOURCE_AMENDED
    assert (after.reference.origin, after.reference.mask_digest) == ("Dr. A", masks.digest(BITS))
    rounds = await caller.rounds()
    assert rounds[1].reference.mask_digest == first.mask_digest, "what was used stays used"
    # Another session that is given the same masks at the same places has the same answer.
    await fresh.ask(asks("Segment the liver."))
    await fresh.ask(asks("Segment the tumor.", 0))
    assert essence([await fresh.ask(asks("Segment the vessel.", given_mask=given(BITS)))]) == essence([after])
    assert before.reference.mask_digest == first.mask_digest
    now = await caller.call("GetMask", round_id=first.round_id)
    own = await caller.call("GetMask", round_id=first.round_id, original=True)
    assert (bits_of(now.mask).tolist(), own.mask) == (BITS.tolist(), first.mask)
    taken_back = pb.GivenMask(mask_digest=first.mask_digest)
    back = await caller.call("AmendRound", round_id=first.round_id, given_mask=taken_back)
    assert (back.round.amended, back.round.mask.mask_digest) == (False, first.mask_digest)
    assert (await caller.call("GetMask", mask_digest=masks.digest(BITS))).mask.area == BITS.sum(), "it was used"


async def test_rounds_that_are_not_amended(caller: Caller) -> None:
    spoken = await caller.ask(asks("Can you hear me?", answer_mode=pb.ANSWER_MODE_FREE))
    first = await caller.ask(asks())
    by = {"given_mask": given(BITS)}
    found = [
        await refused(caller.call("AmendRound", round_id=spoken.round_id, **by)),
        await refused(caller.call("AmendRound", round_id="another", **by)),
        await refused(
            caller.call("AmendRound", round_id=first.round_id, given_mask=pb.GivenMask(mask_digest=bytes(32)))
        ),
        await refused(caller.call("AmendRound", round_id=first.round_id, expected_rounds=1, **by)),
        await refused(caller.call("AmendRound", round_id=first.round_id)),
    ]
    assert [(each.code, each.reason) for each in found] == [
        ("FAILED_PRECONDITION", "NO_MASK"),
        ("FAILED_PRECONDITION", "STALE"),
        ("FAILED_PRECONDITION", "MASK_NOT_HELD"),
        ("ABORTED", "MOVED_ON"),
        ("INVALID_ARGUMENT", ""),
    ]
    assert found[-1].fields == ("given_mask",)
    assert [each.amended for each in await caller.rounds()] == [False, False]


# ---- masks that are refused


def png(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def bomb() -> bytes:
    """Small, and says of itself that it has a thousand million pixels."""
    made = bytearray(png(np.zeros((HEIGHT, WIDTH), np.uint8)))
    made[16:24] = (32768).to_bytes(4) * 2
    made[29:33] = zlib.crc32(made[12:29]).to_bytes(4)
    return bytes(made)


def changed(encoding: int, change: Callable[[bytes], bytes]) -> pb.Mask:
    made = mask(BITS, encoding)
    return pb.Mask(height=HEIGHT, width=WIDTH, encoding=encoding, data=change(made.data))


RLE, PACKED, PNG = ENCODINGS
GREY = np.full((HEIGHT, WIDTH), 128, np.uint8)
BAD: dict[str, tuple[pb.Mask, str]] = {
    "nothing": (pb.Mask(), ""),
    "wrong size": (mask(np.ones((WIDTH, HEIGHT), np.bool_)), ""),
    "a bomb's size": (pb.Mask(height=2**31, width=2**31, data=b"0"), ""),
    "empty": (mask(np.zeros((HEIGHT, WIDTH), np.bool_)), ""),
    "no data": (pb.Mask(height=HEIGHT, width=WIDTH), "data"),
    "unknown encoding": (pb.Mask(height=HEIGHT, width=WIDTH, encoding=99, data=b"0"), "encoding"),
    "truncated run lengths": (changed(RLE, lambda data: data[:-1]), "data"),
    "run lengths that do not end": (changed(RLE, lambda data: data[:-1] + b"o"), "data"),
    "run lengths of a larger mask": (
        changed(RLE, lambda data: masks.encode(np.ones((99, 99), np.bool_), RLE)),
        "data",
    ),
    "run lengths without end": (changed(RLE, lambda data: b"1" * (7 * HEIGHT * WIDTH + 8)), "data"),
    "too few bits": (changed(PACKED, lambda data: data[:-1]), "data"),
    "too many bits": (changed(PACKED, lambda data: data + b"\0"), "data"),
    "no PNG": (changed(PNG, lambda data: b"GIF89a" + data), "data"),
    "truncated PNG": (changed(PNG, lambda data: data[:-20]), "data"),
    "damaged PNG": (changed(PNG, lambda data: data[:45] + b"\0\0" + data[47:]), "data"),
    "PNG of another size": (changed(PNG, lambda data: png(np.ones((WIDTH, HEIGHT), np.uint8))), "data"),
    "grey PNG": (changed(PNG, lambda data: png(GREY)), "data"),
    "PNG of colours": (changed(PNG, lambda data: png(np.stack([GREY] * 3, axis=2))), "data"),
    "PNG of a bomb": (changed(PNG, lambda data: bomb()), "data"),
    "more than may be sent": (changed(RLE, lambda data: b"0" * (2**21 + 1)), "data"),
}


@pytest.mark.parametrize("name", BAD)
async def test_masks_that_are_not_taken(caller: Caller, name: str) -> None:
    bad, part = BAD[name]
    first = await caller.ask(asks())
    tail = f".{part}" if part else ""
    with_question = await refused(caller.ask(asks(given_mask=pb.GivenMask(mask=bad))))
    as_seed = await refused(caller.dialogue([asks(), asks(answer="[SEG]", seed_mask=bad)]))
    in_place = await refused(caller.call("AmendRound", round_id=first.round_id, given_mask=pb.GivenMask(mask=bad)))
    assert [(each.code, each.fields) for each in (with_question, as_seed, in_place)] == [
        ("INVALID_ARGUMENT", (f"question.given_mask.mask{tail}",)),
        ("INVALID_ARGUMENT", (f"questions[1].seed_mask{tail}",)),
        ("INVALID_ARGUMENT", (f"given_mask.mask{tail}",)),
    ]
    assert len(await caller.rounds()) == 1


async def test_a_question_is_about_one_mask(caller: Caller) -> None:
    first = await caller.ask(asks())
    both = refers_to(first)
    both.given_mask.CopyFrom(given(BITS))
    found = [
        await refused(caller.ask(both)),
        await refused(caller.ask(asks(given_mask=pb.GivenMask(origin="hand")))),
        await refused(caller.ask(asks(given_mask=pb.GivenMask(mask_digest=b"short")))),
        await refused(caller.ask(asks(given_mask=given(BITS, "ü" * 33)))),
        await refused(caller.ask(asks(given_mask=given(BITS, "a\nb")))),
    ]
    assert [each.fields for each in found] == [
        ("question.given_mask",),
        ("question.given_mask",),
        ("question.given_mask.mask_digest",),
        ("question.given_mask.origin",),
        ("question.given_mask.origin",),
    ]


async def test_an_origin_is_in_no_log(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    first = await caller.ask(asks(given_mask=given(BITS, "John Doe 1970")))
    await caller.call("AmendRound", round_id=first.round_id, given_mask=given(square(1, 1), "John Doe 1970"))
    await refused(caller.ask(asks(given_mask=given(BITS, "John Doe 1970" * 6))))
    assert "round" in caplog.text
    assert "John" not in caplog.text


async def test_masks_on_their_way_have_a_memory_of_their_own(caller: Caller, stage: Stage) -> None:
    stage.service._mask_bytes._max_bytes = 4 * HEIGHT * WIDTH // 8
    await caller.dialogue([asks(given_mask=given(BITS))] * 2)
    found = await refused(caller.dialogue([asks(given_mask=given(BITS))] * 3))
    assert found.code == "RESOURCE_EXHAUSTED"
    assert stage.service._mask_bytes.nbytes == 0


async def test_masks_of_one_connection_leave_room_for_anothers(
    caller: Caller, fresh: Caller, stage: Stage, server: Server
) -> None:
    memory, one = stage.service._mask_bytes, HEIGHT * WIDTH // 8
    memory._max_bytes = 8 * one
    by_itself = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.address, by_itself) as channel:
        another = Caller(SegmentationServiceStub(channel))
        await another.open()
        async with stage.sessions.exclusive(caller.session_id, "anonymous"):
            waiting = asyncio.create_task(caller.dialogue([asks(given_mask=given(BITS))] * 4))
            async with asyncio.timeout(10):
                while memory.nbytes < 4 * one:  # noqa: ASYNC110  # as seen from outside
                    await asyncio.sleep(0.01)
            assert (await refused(fresh.ask(asks(given_mask=given(BITS))))).code == "RESOURCE_EXHAUSTED"
            assert len(await another.dialogue([seed(), asks(given_mask=given(BITS))])) == 2
        assert len(await waiting) == 4
