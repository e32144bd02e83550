"""Sessions over the bare stub: messages, masks and refusals that a client of today would not make."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mediround import masks
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.domain import SourceImage
from serving.errors import PreconditionFailed, Reason
from serving.history.record import Session, Snapshot
from serving.stores.sessions import MemorySessions
from tests.service.harness import picture

HEIGHT, WIDTH = 48, 64
RAW = pb.RawPixels(height=HEIGHT, width=WIDTH, channels=3, pixel_type=pb.PIXEL_TYPE_UINT8)


def new_id() -> str:
    return secrets.token_urlsafe(16)


def request_id(name: str | None = None) -> tuple[tuple[str, str], ...]:
    """Metadata; the same for the same name."""
    made = uuid.uuid4() if name is None else uuid.uuid5(uuid.NAMESPACE_URL, name)
    return (("x-request-id", str(made)),)


def square(top: int = 8, left: int = 8, side: int = 16) -> np.ndarray:
    """bool (H, W)."""
    bits = np.zeros((HEIGHT, WIDTH), np.bool_)
    bits[top : top + side, left : left + side] = True
    return bits


def mask(bits: np.ndarray, encoding: int = pb.MASK_ENCODING_COCO_RLE) -> pb.Mask:
    height, width = bits.shape
    return pb.Mask(height=height, width=width, encoding=encoding, data=masks.encode(bits, encoding))


def given(bits: np.ndarray, origin: str = "") -> pb.GivenMask:
    return pb.GivenMask(mask=mask(bits), origin=origin)


def bits_of(message: pb.Mask) -> np.ndarray:
    return masks.decode(message.data, message.encoding, message.height, message.width)


def asks(text: str = "Segment it.", refer_to: int | None = None, **more: Any) -> pb.Question:
    reference = None if refer_to is None else pb.RoundReference(round=refer_to)
    return pb.Question(text=text, refer_to=reference, **more)


def refers_to(result: pb.RoundResult, text: str = "Segment it.", **changes: Any) -> pb.Question:
    """As a client that knows what it refers to."""
    known = {"round": result.round, "round_id": result.round_id, "mask_digest": result.mask_digest}
    return pb.Question(text=text, refer_to=pb.RoundReference(**(known | changes)))


def essence(results: list[pb.RoundResult]) -> list[tuple[Any, ...]]:
    """What must be equal, however it was asked."""
    return [(r.round, r.answer, r.mask.data, r.score, r.seg_probability, r.corrected) for r in results]


@dataclass
class Caller:
    """One session's."""

    stub: SegmentationServiceStub
    session_id: str = field(default_factory=new_id)

    async def open(self, seed: int = 0, metadata: Any = (), **header: Any) -> pb.OpenSessionResponse:
        first = pb.ImageHeader(**({"raw": RAW, "session_id": self.session_id} | header))
        pixels = picture(HEIGHT, WIDTH, seed).tobytes()
        messages = [pb.OpenSessionRequest(header=first), pb.OpenSessionRequest(chunk=pixels)]
        return await self.stub.OpenSession(iter(messages), metadata=metadata, timeout=20)

    async def ask(self, question: pb.Question, metadata: Any = (), **more: Any) -> pb.RoundResult:
        request = pb.AskRoundRequest(session_id=self.session_id, question=question, **more)
        return (await self.stub.AskRound(request, metadata=metadata, timeout=20)).result

    async def dialogue(
        self, questions: list[pb.Question], metadata: Any = (), **more: Any
    ) -> list[pb.RoundResult]:
        request = pb.SegmentDialogueRequest(session_id=self.session_id, questions=questions, **more)
        return [each.result async for each in self.stub.SegmentDialogue(request, metadata=metadata, timeout=20)]

    async def call(self, method: str, metadata: Any = (), **fields: Any) -> Any:
        """Any method with one request and one answer."""
        request = getattr(pb, f"{method}Request")(session_id=self.session_id, **fields)
        return await getattr(self.stub, method)(request, metadata=metadata, timeout=20)

    async def rounds(self) -> list[pb.RoundSummary]:
        return list((await self.call("GetSession")).rounds)


@dataclass(frozen=True)
class Refused:
    code: str
    reason: str
    fields: tuple[str, ...]
    words: str


async def refused(call: Awaitable[Any]) -> Refused:
    """How a call is refused."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        reason, fields = "", ()
        for detail in rpc_status.from_call(error).details:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                assert info.domain == "mediround"
                reason = info.reason
            if detail.Unpack(bad):
                fields = tuple(violation.field for violation in bad.field_violations)
        return Refused(error.code().name, reason, fields, error.details() or "")
    raise AssertionError("the call was answered")


class Parking(MemorySessions):
    """Stands in for a store that parks sessions without their images."""

    parked: set[str]

    async def read(self, session_id: str, caller: str) -> Snapshot:
        return replace(await super().read(session_id, caller), parked=session_id in self.parked)

    def exclusive(self, session_id: str, caller: str) -> AbstractAsyncContextManager[Session]:
        if session_id in self.parked:
            raise PreconditionFailed("its image must be sent again", Reason.NEEDS_IMAGE)
        return super().exclusive(session_id, caller)

    async def resume(self, session_id: str, caller: str, image: SourceImage) -> None:
        self.parked.discard(session_id)
