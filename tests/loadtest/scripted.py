"""A server of the public contract whose latencies are known: it sleeps, stalls and refuses as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration

from mediround import rle
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceServicer
from serving.errors import Exhausted

SIDE = 16
MASK = rle.encode(np.ones((SIDE, SIDE), np.bool_))


@dataclass
class ScriptedServer(SegmentationServiceServicer):
    delay: float = 0.0
    """Of every round, seconds."""
    open_delay: float = 0.0
    """Of every opening."""
    stall_at: int = -1
    """Number of the round, counted over all sessions, at whose arrival everything stands still ..."""
    stall: float = 0.0
    """... for so many seconds."""
    refuse: int = 0
    """The next rounds to be refused with a retry delay ..."""
    retry_after: float = 0.05
    """... of so many seconds."""
    slots: int = 1000
    """Rounds that are worked on at once; others wait."""
    capacity: int = 1000
    """Rounds that may be there at once; others are refused."""
    enough_at: int = 0
    """Rounds after which ``enough`` is set."""
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: int = 0
    here: int = 0
    opened: int = 0
    closed: int = 0
    asked: list[pb.AskRoundRequest] = field(default_factory=list)
    known: list[pb.SegmentDialogueRequest] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    _until: float = 0.0
    _rounds: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.slots)

    async def OpenSession(  # noqa: N802  # gRPC's name
        self, request_iterator: AsyncIterator[pb.OpenSessionRequest], context: grpc.aio.ServicerContext
    ) -> pb.OpenSessionResponse:
        async for request in request_iterator:
            if request.WhichOneof("part") == "header":
                self.headers.append(request.header.content_sha256)
        await asyncio.sleep(self.open_delay)
        self.opened += 1
        self._rounds[str(self.opened)] = 0
        return pb.OpenSessionResponse(session_id=str(self.opened), height=SIDE, width=SIDE)

    async def AskRound(  # noqa: N802
        self, request: pb.AskRoundRequest, context: grpc.aio.ServicerContext
    ) -> pb.AskRoundResponse:
        self.asked.append(request)
        return pb.AskRoundResponse(result=await self._round(request.session_id))

    async def SegmentDialogue(  # noqa: N802
        self, request: pb.SegmentDialogueRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.SegmentDialogueResponse]:
        self.known.append(request)
        for _ in request.questions:
            yield pb.SegmentDialogueResponse(result=await self._round(request.session_id))

    async def CloseSession(  # noqa: N802
        self, request: pb.CloseSessionRequest, context: grpc.aio.ServicerContext
    ) -> pb.CloseSessionResponse:
        self.closed += 1
        return pb.CloseSessionResponse()

    async def DescribeServer(  # noqa: N802
        self, request: pb.DescribeServerRequest, context: grpc.aio.ServicerContext
    ) -> pb.DescribeServerResponse:
        return pb.DescribeServerResponse(
            model_name="scripted",
            model_digest="d" * 64,
            limits=pb.Limits(max_rounds=32, session_idle_timeout=Duration(seconds=60)),
            answer_modes=[pb.ANSWER_MODE_FORCED, pb.ANSWER_MODE_FREE],
        )

    async def _round(self, session: str) -> pb.RoundResult:
        loop = asyncio.get_running_loop()
        if self.arrived == self.stall_at:
            self._until = loop.time() + self.stall
        self.arrived += 1
        if self.arrived >= self.enough_at:
            self.enough.set()
        if self.refuse or self.here >= self.capacity:
            self.refuse = max(0, self.refuse - 1)
            raise Exhausted("full", retry_after=self.retry_after)
        self.here += 1
        try:
            await asyncio.sleep(max(0.0, self._until - loop.time()))
            async with self._slots:
                await asyncio.sleep(self.delay)
        finally:
            self.here -= 1
        index = self._rounds[session]
        self._rounds[session] += 1
        mask = pb.Mask(height=SIDE, width=SIDE, encoding=pb.MASK_ENCODING_COCO_RLE, data=MASK, area=SIDE * SIDE)
        cache = pb.CacheUse(embedding_hit=index > 0, cached_tokens=10 * index, prompt_tokens=10 * index + 10)
        return pb.RoundResult(round=index, answer="[SEG]", mask=mask, cache=cache)
