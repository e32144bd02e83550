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
from mediround.errors import InvalidArgument, NotFound
from mediround.testing._images import ReceivedImage, receive
from mediround.testing._rounds import RoundsRequest, ScriptedRounds
from mediround.testing._rules import check_dialogue, check_round, invalid, priority_of
from mediround.testing._sessions import ScriptedSessions
from mediround.testing.script import Script
from mediround.v1 import segmentation_pb2 as pb

_NONE: frozenset[int] = frozenset()


class ScriptedService:
    """Answers calls. One event loop's."""

    def __init__(self, script: Script) -> None:
        self.sessions = ScriptedSessions(script.description.limits)
        self.rounds = ScriptedRounds(script, self.sessions)
        self._served = script.description
        self._openings = list(script.openings)
        self._held: dict[tuple[bytes, tuple[int, int, int] | None], tuple[int, int]] = {}

    async def OpenSession(
        self, messages: AsyncIterator[pb.OpenSessionRequest], accepted: Callable[[], Awaitable[None]]
    ) -> pb.OpenSessionResponse:
        received = await receive(messages, self._served.limits, accepted)
        if self._openings:
            raise self._openings.pop(0)
        height, width = self._size(received)
        session = self.sessions.open(received.digest + repr(received.raw).encode(), (height, width))
        return pb.OpenSessionResponse(
            session_id=session.session_id,
            height=height,
            width=width,
            upload_skipped=received.size is None,
            content_sha256=received.digest,
            model_digest=self._served.model_digest,
        )

    async def AskRound(self, request: pb.AskRoundRequest) -> pb.AskRoundResponse:
        check_round(request, self._served)
        priority_of(request.priority)
        judged = _NONE if request.correction.policy == pb.CORRECTION_POLICY_OFF else None
        try:
            [result] = [each async for each in self._answers(request, [request.question], judged)]
        except InvalidArgument as error:
            raise _of_one_question(error) from None
        return pb.AskRoundResponse(result=result)

    async def SegmentDialogue(
        self, request: pb.SegmentDialogueRequest
    ) -> AsyncGenerator[pb.SegmentDialogueResponse]:
        check_dialogue(request, self._served)
        priority_of(request.priority)
        async for result in self._answers(request, list(request.questions), _judged(request)):
            yield pb.SegmentDialogueResponse(result=result)

    async def CloseSession(self, request: pb.CloseSessionRequest) -> pb.CloseSessionResponse:
        self.sessions.close(request.session_id)
        return pb.CloseSessionResponse()

    async def DescribeServer(self, request: pb.DescribeServerRequest) -> pb.DescribeServerResponse:  # noqa: ARG002  # gRPC's signature
        return _description(self._served)

    def _answers(
        self,
        request: pb.AskRoundRequest | pb.SegmentDialogueRequest,
        questions: list[pb.Question],
        judged: frozenset[int] | None,
    ) -> AsyncGenerator[pb.RoundResult]:
        correction = request.correction
        threshold = correction.threshold if correction.HasField("threshold") else self._served.threshold
        return self.rounds.answers(
            RoundsRequest(
                request.session_id, questions, judged, threshold, request.mask_encoding, request.priority
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


def _of_one_question(error: InvalidArgument) -> InvalidArgument:
    """The refusal of a dialogue of one question, as a refusal of that question."""
    path, _, part = error.violations[0].field.partition(".") if error.violations else ("", "", "")
    if path not in {"questions", "questions[0]"}:
        return error
    return invalid(f"question.{part}" if part else "question", error.violations[0].description)


def _description(served: ServerDescription) -> pb.DescribeServerResponse:
    limits = served.limits
    idle = Duration()
    idle.FromNanoseconds(round(limits.session_idle_timeout * 1e9))
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
            session_idle_timeout=idle,
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
    )
