"""The contract's methods on sessions beside their rounds: read, kept alive, undone, branched, corrected.

Knows how requests name sessions, rounds and pages. Does not know how a session is kept
(``serving.sessions.keeper``).
"""

# ruff: noqa: N802  # gRPC spells its methods so

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceServicer
from serving import request_context
from serving.admission.permits import ByteBudget
from serving.api import responses
from serving.api.given_masks import MaskReader, check_digest, given_mask
from serving.api.identity import ANONYMOUS, account_of, caller_of, check_session, check_session_id
from serving.api.limits import Limits
from serving.api.repetition import request_key
from serving.domain import GivenMask
from serving.errors import InvalidInput, PreconditionFailed, Reason, Shed
from serving.history.record import RequestKey
from serving.runtime.tasks import run_in_executor
from serving.sessions.keeper import NewSession, SessionKeeper

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs alone
T = TypeVar("T")

_PAGE, _LARGEST_PAGE = 100, 1000
_MASK_BYTES = 256 << 20
"""Of all masks that callers are giving, decoded; or what two of the largest requests bring, where that is more."""
_TOKEN = re.compile(r"([^ ]+) ([^ ]+)")


class SessionMethods(SegmentationServiceServicer):
    """Serves one keeper of sessions."""

    def __init__(self, keeper: SessionKeeper, limits: Limits, executor: Executor) -> None:
        """``executor`` encodes and decodes masks."""
        self._keeper, self._limits, self._executor = keeper, limits, executor
        largest = 2 * limits.max_rounds * limits.max_image_pixels // 8  # each with a seed and a given mask
        most = max(_MASK_BYTES, 2 * largest)
        self._mask_bytes = ByteBudget(most, "masks that are being given", Shed.REQUESTS)

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        snapshot = await self._keeper.read(request.session_id, self._caller(context, request.session_id))
        return responses.session(snapshot, self._keeper.clock() + snapshot.seconds_left)

    async def GetMask(self, request: pb.GetMaskRequest, context: Context) -> pb.GetMaskResponse:
        session_id, caller = request.session_id, self._caller(context, request.session_id)
        if request.mask_encoding not in pb.MaskEncoding.values():
            raise InvalidInput("mask_encoding", "must be COCO_RLE, PACKED_BITS or PNG")
        match request.WhichOneof("which"):
            case "round_id":
                mask = await self._keeper.mask_of_round(
                    session_id, caller, request.round_id, original=request.original
                )
            case "mask_digest" if not request.original:
                check_digest(request.mask_digest, "mask_digest")
                mask = await self._keeper.mask(session_id, caller, request.mask_digest)
            case "mask_digest":
                raise InvalidInput("original", "must be left out with mask_digest, which names one mask")
            case _:
                raise InvalidInput("which", "must be set: round_id or mask_digest")
        encode = partial(responses.mask, mask, request.mask_encoding)
        encoded = await asyncio.get_running_loop().run_in_executor(self._executor, encode)
        ends = self._ends(session_id, caller)
        return pb.GetMaskResponse(mask=encoded, mask_digest=mask.digest, expires_at=ends)

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        caller = caller_of(context.auth_context())
        if caller == ANONYMOUS:
            raise PreconditionFailed(
                "callers without a certificate are one: they have no list, and find a session by its id alone",
                Reason.NOT_AUTHENTICATED,
            )
        if request.page_size > _LARGEST_PAGE:
            raise InvalidInput("page_size", f"must be at most {_LARGEST_PAGE}")
        size, after = request.page_size or _PAGE, _after(request.page_token)
        summaries = await self._keeper.page(caller, after, size + 1)
        token = (
            _token(summaries[size - 1].opened_at, summaries[size - 1].session_id) if len(summaries) > size else ""
        )
        now = self._keeper.clock()
        page = [responses.summary(each, now + each.seconds_left) for each in summaries[:size]]
        return pb.ListSessionsResponse(sessions=page, next_page_token=token)

    async def KeepAlive(self, request: pb.KeepAliveRequest, context: Context) -> pb.KeepAliveResponse:
        snapshot = await self._keeper.read(request.session_id, self._caller(context, request.session_id))
        ends = responses.timestamp(self._keeper.clock() + snapshot.seconds_left)
        return pb.KeepAliveResponse(expires_at=ends, rounds=len(snapshot.record.rounds))

    async def RewindSession(self, request: pb.RewindSessionRequest, context: Context) -> pb.RewindSessionResponse:
        session_id, caller = request.session_id, self._caller(context, request.session_id)
        if not request.HasField("rounds"):
            raise InvalidInput("rounds", "must be set: how many rounds are kept, 0 for none")
        key, expected = _key("RewindSession", caller, request), _expected(request)
        left = await self._keeper.rewind(session_id, caller, request.rounds, expected, key)
        ends = self._ends(session_id, caller)
        return pb.RewindSessionResponse(rounds=left, expires_at=ends)

    async def ForkSession(self, request: pb.ForkSessionRequest, context: Context) -> pb.ForkSessionResponse:
        session_id, caller = request.session_id, self._caller(context, request.session_id)
        check_session_id(request.new_session_id, "new_session_id")
        key, expected = _key("ForkSession", caller, request), _expected(request)
        account = account_of(caller, context.peer())
        new = NewSession(caller, request.new_session_id, keep=request.keep, request=key, account=account)
        count = request.rounds if request.HasField("rounds") else None
        rounds = await self._keeper.fork(session_id, new, count, expected)
        ends = self._ends(new.session_id, caller)
        return pb.ForkSessionResponse(session_id=new.session_id, rounds=rounds, expires_at=ends)

    async def AmendRound(self, request: pb.AmendRoundRequest, context: Context) -> pb.AmendRoundResponse:
        session_id, caller = request.session_id, self._caller(context, request.session_id)

        def read(masks: MaskReader | None) -> GivenMask:
            try:
                return given_mask(request.given_mask, masks)
            except InvalidInput as error:
                raise error.inside("given_mask") from None

        count = int(request.given_mask.HasField("mask"))
        async with self._masks(context, session_id, caller, count) as masks:
            given = await self._read(read, masks)
            key = _key("AmendRound", caller, request)
            amended = await self._keeper.amend(
                session_id, caller, request.round_id, given, expected=_expected(request), key=key
            )
        ends = self._ends(session_id, caller)
        changed = responses.round_summary(amended.index, amended.round)
        return pb.AmendRoundResponse(round=changed, expires_at=ends)

    def _caller(self, context: Context, session_id: str) -> str:
        """Whose call it is. Raises InvalidInput where its metadata names another session."""
        check_session(context.invocation_metadata(), session_id)
        return caller_of(context.auth_context())

    def _ends(self, session_id: str, caller: str) -> Timestamp:
        return responses.timestamp(self._keeper.expires_at(session_id, caller))

    @asynccontextmanager
    async def _masks(
        self, context: Context, session_id: str, caller: str, count: int
    ) -> AsyncIterator[MaskReader | None]:
        """What reads the masks that come with a request, with memory for them until it ends; None where none does.

        Raises:
            Exhausted: all that callers give at once, or this one does, take too much memory.
        """
        if not count or not session_id:
            yield None
            return
        record = (await self._keeper.read(session_id, caller)).record
        reader = MaskReader(record.size, self._limits.max_given_mask_bytes)
        with self._mask_bytes.share((caller, account_of(caller, context.peer()))) as take:
            take(count * reader.mask_bytes)
            yield reader

    async def _read(self, read: Callable[[MaskReader | None], T], masks: MaskReader | None) -> T:
        """A request, read in a thread where it brings masks."""
        return read(None) if masks is None else await run_in_executor(self._executor, partial(read, masks))


_Change: TypeAlias = "pb.RewindSessionRequest | pb.ForkSessionRequest | pb.AmendRoundRequest"


def _key(method: str, caller: str, change: _Change) -> RequestKey | None:
    return request_key(
        request_context.repeatable_id(), method, caller, change.SerializeToString(deterministic=True)
    )


def _expected(request: _Change) -> int | None:
    return request.expected_rounds if request.HasField("expected_rounds") else None


def _token(opened_at: float, session_id: str) -> str:
    return base64.urlsafe_b64encode(f"{opened_at.hex()} {session_id}".encode()).decode()


def _after(token: str) -> tuple[float, str] | None:
    """Behind which session a page begins."""
    if not token:
        return None
    try:
        match = _TOKEN.fullmatch(base64.urlsafe_b64decode(token).decode())
        if match is not None:
            return float.fromhex(match[1]), match[2]
    except ValueError:
        pass
    raise InvalidInput("page_token", "must be the next_page_token of the answer before")
