"""The contract's methods, answered as a script says.

Knows requests and the server's description as messages. Does not know transports (``mediround.testing._edge``) or
how a reply becomes a round (``mediround.testing._rounds``).
"""

# ruff: noqa: N802  # gRPC spells its methods so

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from google.protobuf.duration_pb2 import Duration

from mediround._description import ServerDescription
from mediround._records import engine_record_message
from mediround.errors import InvalidArgument, MediRoundError, NotFound
from mediround.testing._given import because, of_one_question
from mediround.testing._history import SessionMethods
from mediround.testing._images import RawShape, ReceivedImage, receive
from mediround.testing._metadata import check_session
from mediround.testing._rounds import RoundsRequest, ScriptedRounds
from mediround.testing._rules import check_dialogue, check_round, invalid, near_zero_of, priority_of
from mediround.testing._sessions import ScriptedSession, ScriptedSessions, check_session_id
from mediround.testing.script import Script
from mediround.v1 import segmentation_pb2 as pb

_NONE: frozenset[int] = frozenset()


class ScriptedService(SessionMethods):
    """Answers calls. One event loop's."""

    def __init__(self, script: Script) -> None:
        super().__init__(ScriptedSessions(script.description.limits), script.description)
        self.rounds = ScriptedRounds(script, self.sessions)
        self._failures = {method: list(errors) for method, errors in script.failures.items()}
        self._openings = list(script.openings)
        self._held: dict[tuple[bytes, RawShape | None], tuple[int, int]] = {}

    async def OpenSession(
        self, messages: AsyncIterator[pb.OpenSessionRequest], accepted: Callable[[], Awaitable[None]]
    ) -> pb.OpenSessionResponse:
        received = await receive(messages, self._served.limits, accepted)
        if self._openings:
            raise self._openings.pop(0)
        header = received.header
        check_session(header.session_id)
        session = self._resumed(received) if header.resume else self._opened(received)
        return pb.OpenSessionResponse(
            session_id=session.session_id,
            height=session.size[0],
            width=session.size[1],
            upload_skipped=received.size is None,
            content_sha256=received.digest,
            model_digest=self._served.model_digest,
            expires_at=self.sessions.ends(),
            rounds=len(session.rounds),
        )

    def _opened(self, received: ReceivedImage) -> ScriptedSession:
        header, key = received.header, _sameness(received)
        if header.session_id:
            check_session_id(header.session_id, "header.session_id")
            if before := self.sessions.opened_before(header.session_id, key):
                return before
        size = self._size(received)
        session = self.sessions.open(_image(received), size, header.session_id, keep=header.keep)
        session.window = _window(received)
        session.remember(key)
        return session

    def _resumed(self, received: ReceivedImage) -> ScriptedSession:
        if not received.header.session_id:
            raise invalid("header.session_id", "must be the session that is resumed")
        session = self.sessions.find(received.header.session_id)
        if session.image != _image(received):
            raise because("OTHER_IMAGE", "the session is on another image")
        self._size(received)
        session.parked = False
        return session

    async def AskRound(self, request: pb.AskRoundRequest) -> pb.AskRoundResponse:
        [result] = [each async for each in self._round(request) if isinstance(each, pb.RoundResult)]
        return pb.AskRoundResponse(result=result)

    async def AskRoundWithProgress(
        self, request: pb.AskRoundWithProgressRequest
    ) -> AsyncGenerator[pb.AskRoundWithProgressResponse]:
        async for event in self._round(pb.AskRoundRequest.FromString(request.SerializeToString())):
            if isinstance(event, pb.RoundResult):
                yield pb.AskRoundWithProgressResponse(result=event)
            else:
                yield pb.AskRoundWithProgressResponse(progress=event)

    async def SegmentDialogue(
        self, request: pb.SegmentDialogueRequest
    ) -> AsyncGenerator[pb.SegmentDialogueResponse]:
        check_dialogue(request, self._served)
        priority_of(request.priority)
        async for event in self._answers(request, list(request.questions), _judged(request)):
            if isinstance(event, pb.RoundResult):
                yield pb.SegmentDialogueResponse(result=event)
            elif request.progress:
                yield pb.SegmentDialogueResponse(progress=event)

    def fail(self, method: str) -> None:
        """Raises what the script says of this call's turn."""
        failures: list[MediRoundError] = self._failures.get(method, [])
        if failures:
            raise failures.pop(0)

    async def DescribeServer(self, request: pb.DescribeServerRequest) -> pb.DescribeServerResponse:  # noqa: ARG002  # gRPC's signature
        return _description(self._served)

    async def _round(self, request: pb.AskRoundRequest) -> AsyncGenerator[pb.RoundResult | pb.Progress]:
        check_round(request, self._served)
        priority_of(request.priority)
        judged = _NONE if request.correction.policy == pb.CORRECTION_POLICY_OFF else None
        try:
            async for event in self._answers(request, [request.question], judged):
                yield event
        except InvalidArgument as error:
            raise of_one_question(error) from None

    def _answers(
        self,
        request: pb.AskRoundRequest | pb.SegmentDialogueRequest,
        questions: list[pb.Question],
        judged: frozenset[int] | None,
    ) -> AsyncGenerator[pb.RoundResult | pb.Progress]:
        correction = request.correction
        threshold = correction.threshold if correction.HasField("threshold") else self._served.threshold
        return self.rounds.answers(
            RoundsRequest(
                session_id=request.session_id,
                questions=questions,
                judged=judged,
                threshold=threshold,
                encoding=request.mask_encoding,
                priority=request.priority,
                near_zero=near_zero_of(request),
                key=type(request).__name__.encode() + request.SerializeToString(deterministic=True),
            )
        )

    def _size(self, received: ReceivedImage) -> tuple[int, int]:
        """Of an image that came, or that came before. Raises NotFound."""
        key = received.digest, received.raw
        if received.size is not None:
            self._held[key] = received.size
        if key not in self._held:
            raise NotFound("no image of this content_sha256 is held: its bytes must be sent")
        return self._held[key]


def _judged(request: pb.SegmentDialogueRequest) -> frozenset[int] | None:
    match request.correction.policy:
        case pb.CORRECTION_POLICY_ALWAYS:
            return None
        case pb.CORRECTION_POLICY_OFF:
            return _NONE
        case _:
            return frozenset(q.refer_to.round for q in request.questions if q.HasField("refer_to"))


def _image(received: ReceivedImage) -> bytes:
    """Equal for equal images."""
    return received.digest + repr(received.raw).encode()


def _window(received: ReceivedImage) -> str:
    """What makes 8 bits of its 16, as the server's own summary says it."""
    return "" if received.raw is None or received.raw.deep is None else str(received.raw.deep)


def _sameness(received: ReceivedImage) -> bytes:
    """What a repeated header has in common, also where one of the two names its bytes and the other sends them."""
    same = pb.ImageHeader()
    same.CopyFrom(received.header)
    same.content_sha256 = received.digest
    same.ClearField("content_bytes")
    return same.SerializeToString(deterministic=True)


def _description(served: ServerDescription) -> pb.DescribeServerResponse:
    limits = served.limits
    return pb.DescribeServerResponse(
        model_name=served.model_name,
        model_version=served.model_version,
        model_digest=served.model_digest,
        server_version=served.server_version,
        intended_use=served.intended_use,
        limits=pb.Limits(
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
            max_aspect_ratio=limits.max_aspect_ratio,
            max_rounds=limits.max_rounds,
            max_question_bytes=limits.max_question_bytes,
            max_tokens=limits.max_tokens,
            max_sessions=limits.max_sessions,
            session_idle_timeout=_duration(limits.session_idle_timeout),
            session_lifetime=_duration(limits.session_lifetime),
            max_given_mask_bytes=limits.max_given_mask_bytes,
            max_requests_remembered=limits.max_requests_remembered,
        ),
        answer_modes=[pb.AnswerMode.Value(f"ANSWER_MODE_{mode.upper()}") for mode in served.answer_modes],
        default_answer_mode=pb.AnswerMode.Value(f"ANSWER_MODE_{served.default_answer_mode.upper()}"),
        correction_policies=[
            pb.CorrectionPolicy.Value(f"CORRECTION_POLICY_{policy.upper()}")
            for policy in served.correction_policies
        ],
        mask_encodings=[pb.MaskEncoding.Value(f"MASK_ENCODING_{name.upper()}") for name in served.mask_encodings],
        has_judge=served.has_judge,
        threshold=served.threshold,
        answer_template=served.answer_template,
        answer_template_trained=served.answer_template_trained,
        language_engine=served.language_engine,
        vision_engine=served.vision_engine,
        engine_records=[engine_record_message(record) for record in served.engine_records],
        pixel_types=[pb.PixelType.Value(f"PIXEL_TYPE_{name.upper()}") for name in served.pixel_types],
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
