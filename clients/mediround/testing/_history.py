"""The contract's methods on sessions beside their rounds, as a scripted server answers them.

Knows requests and sessions. Does not know scripts or transports.
"""

# ruff: noqa: N802  # gRPC spells its methods so

from __future__ import annotations

from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp

from mediround import masks
from mediround._description import ServerDescription
from mediround.testing._given import because, given_mask, named_mask
from mediround.testing._past import mask_message
from mediround.testing._rules import check_digest, invalid
from mediround.testing._sessions import Changing, ScriptedSession, ScriptedSessions, check_session_id
from mediround.testing.script import Bits
from mediround.v1 import segmentation_pb2 as pb


class SessionMethods:
    """Serves one server's sessions."""

    def __init__(self, sessions: ScriptedSessions, served: ServerDescription) -> None:
        self.sessions, self._served = sessions, served

    async def GetSession(self, request: pb.GetSessionRequest) -> pb.GetSessionResponse:
        session = self.sessions.find(request.session_id)
        rounds = [each.summary(index) for index, each in enumerate(session.rounds)]
        return pb.GetSessionResponse(session=self._summary(session), rounds=rounds)

    async def GetMask(self, request: pb.GetMaskRequest) -> pb.GetMaskResponse:
        session = self.sessions.find(request.session_id)
        if request.mask_encoding not in pb.MaskEncoding.values():
            raise invalid("mask_encoding", "must be COCO_RLE, PACKED_BITS or PNG")
        mask = _mask(session, request)
        message = mask_message(mask, request.mask_encoding)
        return pb.GetMaskResponse(mask=message, mask_digest=masks.digest(mask), expires_at=self.sessions.ends())

    async def ListSessions(self, request: pb.ListSessionsRequest) -> pb.ListSessionsResponse:  # noqa: ARG002  # gRPC's signature
        raise because(
            "NOT_AUTHENTICATED",
            "callers without a certificate are one: they have no list, and find a session by its id alone",
        )

    async def KeepAlive(self, request: pb.KeepAliveRequest) -> pb.KeepAliveResponse:
        rounds = len(self.sessions.find(request.session_id).rounds)
        return pb.KeepAliveResponse(expires_at=self.sessions.ends(), rounds=rounds)

    async def RewindSession(self, request: pb.RewindSessionRequest) -> pb.RewindSessionResponse:
        self.sessions.find(request.session_id)
        if not request.HasField("rounds"):
            raise invalid("rounds", "must be set: how many rounds are kept, 0 for none")
        key = _key("RewindSession", request)
        async with self.sessions.exclusive(request.session_id, key) as session:
            if (before := session.repetition(key)) and isinstance(before.response, pb.RewindSessionResponse):
                return before.response
            session.check_expected(request)
            _check_count(session, request.rounds)
            del session.rounds[request.rounds :]
            response = pb.RewindSessionResponse(rounds=request.rounds, expires_at=self.sessions.ends())
            session.remember(key).response = response
            return response

    async def ForkSession(self, request: pb.ForkSessionRequest) -> pb.ForkSessionResponse:
        self.sessions.find(request.session_id)
        check_session_id(request.new_session_id, "new_session_id")
        key = _key("ForkSession", request)
        async with self.sessions.exclusive(request.session_id, key) as session:
            branch = self.sessions.opened_before(request.new_session_id, key)
            if branch is None:
                session.check_expected(request)
                count = request.rounds if request.HasField("rounds") else len(session.rounds)
                _check_count(session, count)
                branch = self.sessions.open(session.image, session.size, request.new_session_id, keep=request.keep)
                branch.rounds = [replace(each) for each in session.rounds[:count]]
                branch.remember(key)
        ends, rounds = self.sessions.ends(), len(branch.rounds)
        return pb.ForkSessionResponse(session_id=branch.session_id, rounds=rounds, expires_at=ends)

    async def AmendRound(self, request: pb.AmendRoundRequest) -> pb.AmendRoundResponse:
        key = _key("AmendRound", request)
        async with self.sessions.exclusive(request.session_id, key) as session:
            if (before := session.repetition(key)) and isinstance(before.response, pb.AmendRoundResponse):
                return before.response
            session.check_expected(request)
            index = session.index_of(request.round_id)
            of = session.rounds[index]
            if of.original is None:
                raise because("NO_MASK", f"round {index} has no mask to amend")
            given = request.given_mask
            sent = given_mask(given, "given_mask", session.size, self._served.limits)
            mask = named_mask(given.mask_digest, session.held) if sent is None else sent
            own = masks.digest(mask) == masks.digest(of.original)
            of.amended, of.origin = (None, "") if own else (mask, request.given_mask.origin)
            response = pb.AmendRoundResponse(round=of.summary(index), expires_at=self.sessions.ends())
            session.remember(key).response = response
            return response

    async def CloseSession(self, request: pb.CloseSessionRequest) -> pb.CloseSessionResponse:
        self.sessions.close(request.session_id)
        return pb.CloseSessionResponse()

    def _summary(self, session: ScriptedSession) -> pb.SessionSummary:
        opened = Timestamp()
        opened.FromNanoseconds(int(session.opened_at * 1e9))
        return pb.SessionSummary(
            session_id=session.session_id,
            height=session.size[0],
            width=session.size[1],
            rounds=len(session.rounds),
            keep=session.keep,
            state=pb.SESSION_STATE_PARKED if session.parked else pb.SESSION_STATE_OPEN,
            opened_at=opened,
            expires_at=self.sessions.ends(),
            content_sha256=session.image[:32],
            model_digest=self._served.model_digest,
            window=session.window,
        )


def _key(method: str, request: Changing) -> bytes:
    return method.encode() + request.SerializeToString(deterministic=True)


def _check_count(session: ScriptedSession, count: int) -> None:
    if count > len(session.rounds):
        raise invalid("rounds", f"must be at most the {len(session.rounds)} that the session has")


def _mask(session: ScriptedSession, request: pb.GetMaskRequest) -> Bits:
    match request.WhichOneof("which"):
        case "round_id":
            of = session.rounds[session.index_of(request.round_id)]
            mask = of.original if request.original else of.mask
            if mask is None:
                raise because("NO_MASK", "the round has no mask")
            return mask
        case "mask_digest" if not request.original:
            check_digest(request.mask_digest, "mask_digest")
            return named_mask(request.mask_digest, session.held)
        case "mask_digest":
            raise invalid("original", "must be left out with mask_digest, which names one mask")
        case _:
            raise invalid("which", "must be set: round_id or mask_digest")
