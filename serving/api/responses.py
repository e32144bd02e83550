"""Results and the server's description, as messages of the contract.

Knows how domain values are written in the contract. Does not know calls or callers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mediround import masks, rle
from mediround.raw import PIXEL_TYPES
from mediround.v1 import segmentation_pb2 as pb
from serving.api.description import ServerDescription
from serving.domain import CacheUse, Mask, Progress, Rectangle, Segmentation, Timings, WorkStage
from serving.history.changes import REQUESTS_REMEMBERED
from serving.history.record import SessionRecord, SessionSummary, Snapshot
from serving.history.rounds import MaskSource, Round, RoundResult, UsedReference

_DEFAULT_MODES = {"forced": pb.ANSWER_MODE_FORCED, "free": pb.ANSWER_MODE_FREE}
_SOURCES = {
    MaskSource.ROUND: pb.REFERENCE_SOURCE_ROUND,
    MaskSource.GIVEN: pb.REFERENCE_SOURCE_GIVEN,
    MaskSource.AMENDED: pb.REFERENCE_SOURCE_AMENDED,
}
_STAGES = {
    WorkStage.QUEUED: pb.PROGRESS_STAGE_QUEUED,
    WorkStage.PREPARE: pb.PROGRESS_STAGE_PREPARE,
    WorkStage.LANGUAGE: pb.PROGRESS_STAGE_LANGUAGE,
    WorkStage.ENCODE: pb.PROGRESS_STAGE_ENCODE,
    WorkStage.DECODE: pb.PROGRESS_STAGE_DECODE,
}


def opened(record: SessionRecord, expires_at: float, *, upload_skipped: bool) -> pb.OpenSessionResponse:
    height, width = record.size
    return pb.OpenSessionResponse(
        session_id=record.session_id,
        height=height,
        width=width,
        upload_skipped=upload_skipped,
        content_sha256=record.content,
        model_digest=record.model_digest,
        expires_at=timestamp(expires_at),
        rounds=len(record.rounds),
    )


def round_result(
    result: RoundResult,
    encoding: pb.MaskEncoding.ValueType,
    model_digest: str,
    expires_at: float,
) -> pb.RoundResult:
    """Encodes the mask, which takes milliseconds for a large image: call it in a worker thread."""
    of, segmentation = result.round, result.segmentation
    return pb.RoundResult(
        round=result.index,
        answer=of.answer,
        mask=mask(segmentation.mask, encoding) if segmentation else None,
        score=segmentation.score if segmentation else None,
        seg_probability=_probability(segmentation),
        corrected=segmentation.corrected if segmentation else False,
        reference=_reference(of.used) if of.used else None,
        timings=_timings(result.timings),
        cache=_cache_use(result.cache),
        model_digest=model_digest,
        engine_digest=of.engine_digest,
        round_id=of.round_id,
        mask_digest=segmentation.mask.digest if segmentation else b"",
        amended=of.amendment is not None,
        seeded=of.seeded,
        expires_at=timestamp(expires_at),
        near_zero=mask(result.near_zero, encoding) if result.near_zero else None,
    )


def session(snapshot: Snapshot, expires_at: float) -> pb.GetSessionResponse:
    rounds = snapshot.record.rounds
    return pb.GetSessionResponse(
        session=summary(SessionSummary.of(snapshot), expires_at),
        rounds=[round_summary(index, each) for index, each in enumerate(rounds)],
    )


def summary(of: SessionSummary, expires_at: float) -> pb.SessionSummary:
    return pb.SessionSummary(
        session_id=of.session_id,
        height=of.size[0],
        width=of.size[1],
        rounds=of.rounds,
        keep=of.keep,
        state=pb.SESSION_STATE_PARKED if of.parked else pb.SESSION_STATE_OPEN,
        opened_at=timestamp(of.opened_at),
        expires_at=timestamp(expires_at),
        content_sha256=of.content,
        model_digest=of.model_digest,
        window=of.window,
    )


def round_summary(index: int, of: Round) -> pb.RoundSummary:
    segmentation, amended = of.segmentation, of.amendment is not None
    return pb.RoundSummary(
        round=index,
        round_id=of.round_id,
        question=of.question,
        answer=of.answer,
        score=segmentation.score if segmentation else None,
        seg_probability=_probability(segmentation),
        corrected=segmentation.corrected if segmentation else False,
        amended=amended,
        seeded=of.seeded,
        reference=_reference(of.used) if of.used else None,
        mask=_mask_summary(of.mask) if of.mask else None,
        original=_mask_summary(segmentation.mask) if segmentation and amended else None,
        engine_digest=of.engine_digest,
        origin=of.origin if of.amendment is None else of.amendment.origin,
    )


def progress(stands: Progress) -> pb.Progress:
    return pb.Progress(
        stage=_STAGES[stands.stage],
        queue_position=stands.position,
        expected_wait=_duration(stands.expected_wait) if stands.stage is WorkStage.QUEUED else None,
        wave=stands.wave,
        waves=stands.waves,
    )


def timestamp(seconds: float) -> Timestamp:
    """``seconds`` since the epoch."""
    moment = Timestamp()
    moment.FromNanoseconds(round(seconds * 1e9))
    return moment


def description(
    served: ServerDescription, language_engine: str, vision_engine: str, records: Sequence[pb.EngineRecord]
) -> pb.DescribeServerResponse:
    manifest = served.manifest
    judged = manifest.judge.present
    policies = [pb.CORRECTION_POLICY_ALWAYS, pb.CORRECTION_POLICY_REFERENCED] if judged else []
    return pb.DescribeServerResponse(
        model_name=manifest.name,
        model_version=manifest.version,
        model_digest=served.model_digest,
        server_version=served.server_version,
        intended_use=manifest.intended_use,
        limits=_limits(served),
        answer_modes=[pb.ANSWER_MODE_FORCED, pb.ANSWER_MODE_GRAMMAR, pb.ANSWER_MODE_FREE],
        default_answer_mode=_DEFAULT_MODES[manifest.answers.default_mode],
        correction_policies=[*policies, pb.CORRECTION_POLICY_OFF],
        mask_encodings=[pb.MASK_ENCODING_COCO_RLE, pb.MASK_ENCODING_PACKED_BITS, pb.MASK_ENCODING_PNG],
        has_judge=judged,
        threshold=manifest.judge.threshold,
        answer_template=manifest.answers.template,
        answer_template_trained=manifest.answers.template_trained,
        language_engine=language_engine,
        vision_engine=vision_engine,
        engine_records=records,
        pixel_types=PIXEL_TYPES,
    )


def mask(of: Mask, encoding: pb.MaskEncoding.ValueType) -> pb.Mask:
    """For a worker thread, as ``round_result``."""
    height, width = of.size
    encoding = encoding or pb.MASK_ENCODING_COCO_RLE
    return pb.Mask(
        height=height,
        width=width,
        encoding=encoding,
        data=_mask_data(of, encoding),
        area=of.area,
        box=_box(of.box) if of.box else None,
    )


def _mask_data(of: Mask, encoding: pb.MaskEncoding.ValueType) -> bytes:
    match encoding:
        case pb.MASK_ENCODING_COCO_RLE:
            top, left = (of.box.y_min, of.box.x_min) if of.box else (0, 0)
            return rle.encode_part(of.part(), top, left, *of.size)
        case pb.MASK_ENCODING_PACKED_BITS:
            return of.packed.tobytes()
        case _:
            return masks.encode(of.bits(), encoding)


def _mask_summary(of: Mask) -> pb.MaskSummary:
    return pb.MaskSummary(mask_digest=of.digest, area=of.area, box=_box(of.box) if of.box else None)


def _probability(of: Segmentation | None) -> float | None:
    if of is None or of.log_probability is None:
        return None
    return min(1.0, math.exp(of.log_probability))  # a rounding error above 0 is no probability above 1


def _box(box: Rectangle) -> pb.PixelBox:
    return pb.PixelBox(x_min=box.x_min, y_min=box.y_min, x_max=box.x_max, y_max=box.y_max)


def _reference(used: UsedReference) -> pb.ReferenceUsed:
    referred = used.referred
    return pb.ReferenceUsed(
        round=referred.round,
        crop=_box(used.crop),
        box=_box(used.box),
        whole_image=used.whole_image,
        source=_SOURCES[referred.source],
        origin=referred.origin,
        round_id=referred.round_id,
        mask_digest=referred.mask.digest,
    )


def _cache_use(cache: CacheUse) -> pb.CacheUse:
    return pb.CacheUse(
        embedding_hit=cache.embedding_hit,
        cached_tokens=cache.cached_tokens,
        prompt_tokens=cache.prompt_tokens,
        wave=cache.wave,
    )


def _timings(timings: Timings) -> pb.Timings:
    return pb.Timings(
        queue=_duration(timings.queue),
        prepare=_duration(timings.prepare),
        language=_duration(timings.language),
        encode=_duration(timings.encode),
        decode=_duration(timings.decode),
        postprocess=_duration(timings.postprocess),
        total=_duration(timings.total),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _limits(served: ServerDescription) -> pb.Limits:
    limits = served.limits
    return pb.Limits(
        max_image_bytes=limits.max_image_bytes,
        max_image_pixels=limits.max_image_pixels,
        max_aspect_ratio=limits.max_aspect_ratio,
        max_rounds=limits.max_rounds,
        max_question_bytes=limits.max_question_bytes,
        max_tokens=served.manifest.language.max_tokens,
        max_sessions=limits.max_sessions,
        session_idle_timeout=_duration(limits.session_idle_timeout),
        session_lifetime=_duration(limits.session_lifetime),
        max_given_mask_bytes=limits.max_given_mask_bytes,
        max_requests_remembered=REQUESTS_REMEMBERED,
    )
