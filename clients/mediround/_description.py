"""What is served: the model, its modes and the server's limits, as the server says them.

Knows the public values and how they are read from messages. Does not know calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mediround._records import EngineRecord, engine_record
from mediround.v1 import segmentation_pb2 as pb


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may hold; beyond it, ``InvalidArgument`` or ``ResourceExhausted`` follows.

    Attributes:
        max_image_bytes: of an image as sent.
        max_image_pixels: height times width.
        max_aspect_ratio: longer side over shorter side.
        max_rounds: of one session.
        max_question_bytes: UTF-8, of a question and of a given answer.
        max_tokens: of a whole dialogue, image tokens included.
        max_sessions: open at once on the server, of all callers.
        session_idle_timeout: seconds without a request, after which a session is closed.
        session_lifetime: seconds from a session's opening, after which it is closed however much it is used; 0: an
            older server does not say.
        max_given_mask_bytes: of a mask that is given, as sent; 0: an older server takes none.
        max_requests_remembered: of one session: as many requests are answered as before when they come again; 0:
            an older server remembers none.
    """

    max_image_bytes: int
    max_image_pixels: int
    max_aspect_ratio: int
    max_rounds: int
    max_question_bytes: int
    max_tokens: int
    max_sessions: int
    session_idle_timeout: float
    session_lifetime: float = 0.0
    max_given_mask_bytes: int = 0
    max_requests_remembered: int = 0


@dataclass(frozen=True, slots=True)
class ServerDescription:
    """Which model is served, with which limits and modes.

    Attributes:
        model_name: the bundle's name.
        model_version: the bundle's version.
        model_digest: SHA-256 of the bundle's manifest, hex; it is in every result.
        server_version: of the serving software.
        intended_use: what the model is for, in its makers' words.
        limits: what a request may hold.
        answer_modes: those that a question may name: ``forced``, ``grammar``, ``free``.
        default_answer_mode: that of a question that names none and gives no answer.
        correction_policies: those that a request may name.
        mask_encodings: those that the server can send; this client asks for COCO's run lengths.
        has_judge: False: scores are absent and nothing is corrected.
        threshold: a round whose score is at most this is corrected, unless the caller names another threshold.
        answer_template: the answer of a forced round that gives none.
        answer_template_trained: False: a forced round must give its answer, or is refused, since the model was not
            trained on the template.
        language_engine: what runs the language half, for example ``onnxruntime/CPUExecutionProvider``.
        vision_engine: what runs the vision half.
        engine_records: what computes rounds now, whole: one, or several where language servers differ; none while
            no language server serves. ``RoundResult.engine_digest`` is the digest of one of them, or of an
            earlier one where a part was exchanged meanwhile.
        pixel_types: those of raw pixels: ``uint8``, ``uint16``, ``int16``; an older server does not say, and takes
            ``uint8``.
    """

    model_name: str
    model_version: str
    model_digest: str
    server_version: str
    intended_use: str
    limits: Limits
    answer_modes: tuple[str, ...]
    default_answer_mode: str
    correction_policies: tuple[str, ...]
    mask_encodings: tuple[str, ...]
    has_judge: bool
    threshold: float
    answer_template: str
    answer_template_trained: bool
    language_engine: str
    vision_engine: str
    engine_records: tuple[EngineRecord, ...] = ()
    pixel_types: tuple[str, ...] = ("uint8",)


def server_description(message: pb.DescribeServerResponse) -> ServerDescription:
    return ServerDescription(
        model_name=message.model_name,
        model_version=message.model_version,
        model_digest=message.model_digest,
        server_version=message.server_version,
        intended_use=message.intended_use,
        limits=_limits(message.limits),
        answer_modes=_words(pb.AnswerMode, "ANSWER_MODE_", message.answer_modes),
        default_answer_mode="".join(_words(pb.AnswerMode, "ANSWER_MODE_", [message.default_answer_mode])),
        correction_policies=_words(pb.CorrectionPolicy, "CORRECTION_POLICY_", message.correction_policies),
        mask_encodings=_words(pb.MaskEncoding, "MASK_ENCODING_", message.mask_encodings),
        has_judge=message.has_judge,
        threshold=message.threshold,
        answer_template=message.answer_template,
        answer_template_trained=message.answer_template_trained,
        language_engine=message.language_engine,
        vision_engine=message.vision_engine,
        engine_records=tuple(map(engine_record, message.engine_records)),
        pixel_types=_words(pb.PixelType, "PIXEL_TYPE_", message.pixel_types) or ("uint8",),
    )


def _limits(message: pb.Limits) -> Limits:
    return Limits(
        max_image_bytes=message.max_image_bytes,
        max_image_pixels=message.max_image_pixels,
        max_aspect_ratio=message.max_aspect_ratio,
        max_rounds=message.max_rounds,
        max_question_bytes=message.max_question_bytes,
        max_tokens=message.max_tokens,
        max_sessions=message.max_sessions,
        session_idle_timeout=message.session_idle_timeout.ToNanoseconds() / 1e9,
        session_lifetime=message.session_lifetime.ToNanoseconds() / 1e9,
        max_given_mask_bytes=message.max_given_mask_bytes,
        max_requests_remembered=message.max_requests_remembered,
    )


class _Enum(Protocol):
    def items(self) -> Iterable[tuple[str, int]]: ...


def _words(enum: _Enum, prefix: str, numbers: Sequence[int]) -> tuple[str, ...]:
    """``ANSWER_MODE_FORCED`` as callers write it: ``forced``. A newer server's unknown words are left out."""
    names = {number: name.removeprefix(prefix).lower() for name, number in enum.items()}
    return tuple(names[number] for number in numbers if number in names)
