"""What comes back: the result of a round, a session's opening, the server's description.

Knows the public values and how they are read from messages. Does not know calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from google.protobuf.duration_pb2 import Duration

from mediround import masks
from mediround.errors import FieldViolation, InvalidArgument, ProtocolMismatch
from mediround.v1 import segmentation_pb2 as pb

_MOST_PIXELS = 1 << 28
"""Of a mask where the image's size is not known: 256 MiB."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, in pixels of the image; the maxima are inclusive.

    Attributes:
        x_min: leftmost column; columns count from the left, from 0.
        y_min: uppermost row; rows count from the top, from 0.
        x_max: rightmost column, inclusive.
        y_max: lowest row, inclusive.
    """

    x_min: int
    y_min: int
    x_max: int
    y_max: int


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model was shown of the round referred to.

    Attributes:
        index: zero-based index of the round referred to, in its session.
        crop: rectangle cut out of the image as the crop.
        box: rectangle shown as the box.
        whole_image: whether the mask covered (almost) nothing visible, so that the whole image stood in for it.
    """

    index: int
    crop: Box
    box: Box
    whole_image: bool


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a round's time went on the server, in seconds. Stages overlap: their sum may exceed ``total``.

    Attributes:
        queue: from arrival to the start of work: earlier rounds of the session, and a place.
        prepare: prompt, crops and boxes.
        language: reading the dialogue and answering.
        encode: waiting for the image's embedding; 0 when it was held.
        decode: from the feature to the mask's logits.
        postprocess: from logits to the mask of the image's size.
        total: from arrival to the result.
    """

    queue: float
    prepare: float
    language: float
    encode: float
    decode: float
    postprocess: float
    total: float


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What the server had already computed for a round.

    Attributes:
        embedding_hit: whether the image's embedding was held, and so not computed for this round.
        cached_tokens: those of ``prompt_tokens`` that were not computed again.
        prompt_tokens: tokens that the language model was given, image tokens included.
        wave: zero-based index of the language pass within its request; rounds of one wave share a pass.
    """

    embedding_hit: bool
    cached_tokens: int
    prompt_tokens: int
    wave: int


@dataclass(frozen=True, slots=True, eq=False)
class RoundResult:
    """One round's answer. Pass it as ``refer_to`` of a later round of the same session.

    Attributes:
        session_id: the session that was asked.
        index: zero-based index of this round in its session.
        answer: the model's words, ``[SEG]`` included where there is a mask.
        mask: bool (H, W), of the image's own size; None when the model answered without one.
        area: pixels set; 0 without a mask.
        box: around the pixels set; None when none is.
        score: the judge's estimate of the mask's IoU, 0 to 1, before correction; None without a mask or a judge.
        seg_probability: the model's own probability of ``[SEG]`` where it stands, 0 to 1; None without a mask.
        corrected: whether the corrector replaced the feature that the mask was drawn from.
        reference: what the model was shown of the round referred to; None when the question referred to none.
        timings: where the time went, in seconds.
        cache: what the server had already computed.
        model_digest: SHA-256 of the model bundle's manifest, hex: keep it with every mask.
        request_id: the id by which the server's log knows the request that this round was asked by.
    """

    session_id: str
    index: int
    answer: str
    mask: npt.NDArray[np.bool_] | None
    area: int
    box: Box | None
    score: float | None
    seg_probability: float | None
    corrected: bool
    reference: Reference | None
    timings: Timings
    cache: CacheUse
    model_digest: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Opening:
    """A session as the server opened it.

    Attributes:
        session_id: names the session in every call; hard to guess.
        height: of the image and of every mask, in pixels; None for a session that was taken up by its id.
        width: the same.
        upload_skipped: whether the server held the image's bytes, and none were sent.
        model_digest: SHA-256 of the model bundle's manifest, hex; None as above.
    """

    session_id: str
    height: int | None
    width: int | None
    upload_skipped: bool
    model_digest: str | None


def opening(message: pb.OpenSessionResponse) -> Opening:
    return Opening(message.session_id, message.height, message.width, message.upload_skipped, message.model_digest)


def taken_up(session_id: object) -> Opening:
    """What is known of a session by its id alone. Raises InvalidArgument for what cannot be one."""
    if not isinstance(session_id, str) or not session_id or not session_id.isprintable():
        raise InvalidArgument(
            "session_id: must be a session's id", (FieldViolation("session_id", "must be a session's id"),)
        )
    return Opening(session_id, None, None, upload_skipped=False, model_digest=None)


def round_result(message: pb.RoundResult, session: Opening, request_id: str = "") -> RoundResult:
    """Raises ProtocolMismatch when the mask cannot be read or is not of the image's size."""
    mask = message.mask if message.HasField("mask") else None
    return RoundResult(
        session_id=session.session_id,
        index=message.round,
        answer=message.answer,
        mask=_bits(mask, session) if mask else None,
        area=mask.area if mask else 0,
        box=_box(mask.box) if mask and mask.HasField("box") else None,
        score=message.score if message.HasField("score") else None,
        seg_probability=message.seg_probability if message.HasField("seg_probability") else None,
        corrected=message.corrected,
        reference=_reference(message.reference) if message.HasField("reference") else None,
        timings=_timings(message.timings),
        cache=_cache_use(message.cache),
        model_digest=message.model_digest,
        request_id=request_id,
    )


def _bits(mask: pb.Mask, session: Opening) -> npt.NDArray[np.bool_]:
    # Checked before decoding: a mask's size says how much memory it takes.
    known = session.height is not None
    if (mask.height, mask.width) != (session.height, session.width) if known else _vast(mask):
        raise ProtocolMismatch(f"a mask of {mask.height}x{mask.width} for another image size")
    try:
        return masks.decode(mask.data, mask.encoding, mask.height, mask.width)
    except ValueError as error:
        raise ProtocolMismatch(str(error)) from error


def _vast(mask: pb.Mask) -> bool:
    return mask.height * mask.width > _MOST_PIXELS


def _box(box: pb.PixelBox) -> Box:
    return Box(box.x_min, box.y_min, box.x_max, box.y_max)


def _reference(used: pb.ReferenceUsed) -> Reference:
    return Reference(used.round, _box(used.crop), _box(used.box), used.whole_image)


def _cache_use(cache: pb.CacheUse) -> CacheUse:
    return CacheUse(cache.embedding_hit, cache.cached_tokens, cache.prompt_tokens, cache.wave)


def _timings(timings: pb.Timings) -> Timings:
    return Timings(
        queue=_seconds(timings.queue),
        prepare=_seconds(timings.prepare),
        language=_seconds(timings.language),
        encode=_seconds(timings.encode),
        decode=_seconds(timings.decode),
        postprocess=_seconds(timings.postprocess),
        total=_seconds(timings.total),
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
