"""What one server of the contract refuses, the other refuses: with the same status, fields and words."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from mediround import InvalidArgument
from mediround.failures import from_failure
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.api.server import SERVICE
from tests.contract.services import DIGEST, IMPLEMENTATIONS, Start, ask, chunk, encoded, header, question, raw


def announced(size: int) -> pb.OpenSessionRequest:
    return header(pb.ImageHeader(encoded=pb.EncodedImage(), content_bytes=size))


def deep(height: int = 2, width: int = 2, channels: int = 1, **meaning: Any) -> pb.OpenSessionRequest:
    """Raw pixels of 16 bits with a window."""
    meaning = {"window": pb.Window(center=40, width=400)} | meaning
    return raw(height, width, channels, pb.PIXEL_TYPE_INT16, **meaning)


OPENINGS = {
    "nothing": [],
    "a chunk first": [chunk()],
    "two headers": [header(), header(), chunk()],
    "no part": [header(), pb.OpenSessionRequest()],
    "no encoding": [header(pb.ImageHeader())],
    "no bytes": [header()],
    "an empty chunk": [header(), chunk(b"")],
    "a large chunk": [header(), chunk(bytes((1 << 20) + 1))],
    "a large image": [header(), *[chunk(bytes(1 << 20))] * 4],
    "no image": [header(), chunk(b"not an image")],
    "a short digest": [header(pb.ImageHeader(encoded=pb.EncodedImage(), content_sha256=b"short"))],
    "another digest": [header(pb.ImageHeader(encoded=pb.EncodedImage(), content_sha256=DIGEST)), chunk(b"abd")],
    "an unknown digest": [header(pb.ImageHeader(encoded=pb.EncodedImage(), content_sha256=DIGEST))],
    "more bytes than are allowed": [announced(4 << 20), chunk()],
    "other bytes than were announced": [announced(4), chunk()],
    "an image of an unknown priority": [
        header(pb.ImageHeader(encoded=pb.EncodedImage(), priority=99)),  # type: ignore[arg-type]  # of no enum
        chunk(encoded("PNG", 4, 4)),
    ],
    "no rows": [raw(0, 4), chunk()],
    "no columns": [raw(4, 0), chunk()],
    "many raw pixels": [raw(2**32 - 1, 2**32 - 1), chunk()],
    "more bytes than the shape": [raw(2, 2, 1), chunk(bytes(5))],
    "fewer bytes than the shape": [raw(2, 2, 1), chunk(bytes(3))],
    "a long raw image": [raw(1, 11), chunk(bytes(11))],
    "two channels": [raw(2, 2, 2), chunk(bytes(8))],
    "16 bits": [raw(2, 2, 1, pb.PIXEL_TYPE_UINT16), chunk(bytes(8))],
    "16 bits in colour": [deep(channels=3), chunk(bytes(24))],
    "16 bits with 17 stored": [deep(bits_stored=17), chunk(bytes(8))],
    "16 bits with padding upside down": [deep(padding=pb.PixelPadding(first=2, last=1)), chunk(bytes(8))],
    "16 bits of another photometric": [deep(photometric=9), chunk(bytes(8))],
    "16 bits in half the bytes": [deep(), chunk(bytes(4))],
    "many 16-bit pixels": [deep(2000, 2000), chunk()],
    "no width": [deep(window=pb.Window(center=1)), chunk(bytes(8))],
    "a narrow LINEAR window": [deep(window=pb.Window(width=0.5)), chunk(bytes(8))],
    "an infinite center": [deep(window=pb.Window(center=math.inf, width=9)), chunk(bytes(8))],
    "another window function": [deep(window=pb.Window(width=9, function=9)), chunk(bytes(8))],  # type: ignore[arg-type]
    "a slope of 0": [deep(window=pb.Window(width=9, slope=0)), chunk(bytes(8))],
    "an intercept that is no number": [deep(window=pb.Window(width=9, intercept=math.nan)), chunk(bytes(8))],
    "8 bits with a window": [raw(2, 2, window=pb.Window(width=9)), chunk(bytes(4))],
    "8 bits with bits stored": [raw(2, 2, bits_stored=8), chunk(bytes(4))],
    "no pixel type": [raw(2, 2, 1, pb.PIXEL_TYPE_UNSPECIFIED), chunk(bytes(4))],
    "a long file": [header(), chunk(encoded("PNG", 4, 44))],
    "many pixels in a file": [header(), chunk(encoded("JPEG", 1025, 1024, quality=1))],
}
ROUNDS = {
    "no session": ask(""),
    "no question": pb.AskRoundRequest(session_id="s"),
    "a blank question": ask(question=question(text=" \u3000 ")),
    "a long question": ask(question=question(text="ü" * 33)),
    "a control character": ask(question=question(text="a\x00b")),
    "a marker": ask(question=question(text="Segment it [SEG]")),
    "a full-width marker": ask(question=question(text="\uff1cimage\uff1e")),
    "an unknown encoding": ask(mask_encoding=99),
    "an unknown mode": ask(question=question(answer_mode=99)),
    "an unknown priority": ask(priority=99),
    "a free answer": ask(question=question(answer_mode=pb.ANSWER_MODE_FREE, answer="It is [SEG].")),
    "an answer without a mask": ask(question=question(answer="It is here.")),
    "an answer with two": ask(question=question(answer="[SEG] and [SEG].")),
    "a marker in an answer": ask(question=question(answer="It is [SEG] [INST].")),
    "a long answer": ask(question=question(answer="It is [SEG]" + "." * 64)),
    "another session's round": ask(question=question(refer_to=pb.RoundReference(session_id="another"))),
    "an unknown policy": ask(correction=pb.Correction(policy=99)),
    "a policy for dialogues": ask(correction=pb.Correction(policy=pb.CORRECTION_POLICY_REFERENCED)),
    "a negative threshold": ask(correction=pb.Correction(threshold=-0.5)),
    "a large threshold": ask(correction=pb.Correction(threshold=1.5)),
    "no number": ask(correction=pb.Correction(threshold=float("nan"))),
    "a margin of 0": ask(near_zero=0),
    "a large margin": ask(near_zero=1.01),
    "a margin that is no number": ask(near_zero=float("nan")),
    "an unknown session": ask("unknown"),
}


async def refusal(call: Callable[[], AsyncIterator[object]]) -> tuple[grpc.StatusCode, str, tuple[object, ...]]:
    """The status that a call ends with, its words, and the fields that must change."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call():
            pass
    error = from_failure(caught.value)
    fields = error.violations if isinstance(error, InvalidArgument) else ()
    return caught.value.code(), caught.value.details() or "", fields


async def refusals(stub: SegmentationServiceStub) -> dict[str, object]:
    """What each wrong call ends with."""

    async def one(call: grpc.aio.Call) -> AsyncIterator[object]:
        yield await call

    seen: dict[str, object] = {}
    for name, messages in OPENINGS.items():
        seen[name] = await refusal(lambda messages=messages: one(stub.OpenSession(iter(messages), timeout=20)))
    for name, request in ROUNDS.items():
        seen[name] = await refusal(lambda request=request: one(stub.AskRound(request, timeout=20)))
        asked = pb.SegmentDialogueRequest(
            session_id=request.session_id,
            questions=[question(), request.question],
            correction=request.correction,
            mask_encoding=request.mask_encoding,
            priority=request.priority,
            near_zero=request.near_zero if request.HasField("near_zero") else None,
        )
        if name != "a policy for dialogues":
            seen[f"{name}, in advance"] = await refusal(
                lambda asked=asked: stub.SegmentDialogue(asked, timeout=20)
            )
    return seen


async def test_what_one_refuses_the_other_refuses_in_the_same_words() -> None:
    seen = []
    for start in IMPLEMENTATIONS.values():
        async with start() as running, grpc.aio.insecure_channel(running.address) as channel:
            seen.append(await refusals(SegmentationServiceStub(channel)))
    theirs, ours = seen
    assert len(ours) == len(OPENINGS) + 2 * len(ROUNDS) - 1
    assert ours == theirs
    codes = {code for code, _, _ in ours.values()}
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@pytest.mark.parametrize("start", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
async def test_bytes_that_are_no_message(start: Start) -> None:
    async with start() as running, grpc.aio.insecure_channel(running.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/AskRound", None, None)
        code, _, fields = await refusal(lambda: _awaited(call(b"\xff\xff\xff", timeout=20)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in fields] == ["request"]


async def _awaited(call: grpc.aio.UnaryUnaryCall) -> AsyncIterator[object]:
    yield await call
