"""Results and the server's description, as messages of the contract.

Knows how domain values are written in the contract. Does not know calls or callers.
"""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration

from mediround import masks
from mediround.v1 import segmentation_pb2 as pb
from serving.api.description import ServerDescription
from serving.domain import CacheUse, Mask, Rectangle, Reference, RoundResult, Session, Timings

_DEFAULT_MODES = {"forced": pb.ANSWER_MODE_FORCED, "free": pb.ANSWER_MODE_FREE}


def opened(session: Session, digest: bytes, model_digest: str, *, upload_skipped: bool) -> pb.OpenSessionResponse:
    height, width = session.image.size
    return pb.OpenSessionResponse(
        session_id=session.session_id,
        height=height,
        width=width,
        upload_skipped=upload_skipped,
        content_sha256=digest,
        model_digest=model_digest,
    )


def round_result(result: RoundResult, encoding: pb.MaskEncoding.ValueType, model_digest: str) -> pb.RoundResult:
    """Encodes the mask, which takes milliseconds for a large image: call it in a worker thread."""
    segmentation = result.segmentation
    return pb.RoundResult(
        round=result.index,
        answer=result.answer,
        mask=_mask(segmentation.mask, encoding) if segmentation else None,
        score=segmentation.score if segmentation else None,
        # A rounding error above 0 in the logarithm is no probability above 1.
        seg_probability=min(1.0, math.exp(segmentation.log_probability)) if segmentation else None,
        corrected=segmentation.corrected if segmentation else False,
        reference=_reference(result.reference) if result.reference else None,
        timings=_timings(result.timings),
        cache=_cache_use(result.cache),
        model_digest=model_digest,
    )


def description(served: ServerDescription, language_engine: str, vision_engine: str) -> pb.DescribeServerResponse:
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
    )


def _mask(mask: Mask, encoding: pb.MaskEncoding.ValueType) -> pb.Mask:
    height, width = mask.size
    encoding = encoding or pb.MASK_ENCODING_COCO_RLE
    return pb.Mask(
        height=height,
        width=width,
        encoding=encoding,
        data=masks.encode(mask.bits(), encoding),
        area=mask.area,
        box=_box(mask.box) if mask.box else None,
    )


def _box(box: Rectangle) -> pb.PixelBox:
    return pb.PixelBox(x_min=box.x_min, y_min=box.y_min, x_max=box.x_max, y_max=box.y_max)


def _reference(reference: Reference) -> pb.ReferenceUsed:
    return pb.ReferenceUsed(
        round=reference.round,
        crop=_box(reference.crop_rectangle),
        box=_box(reference.box_rectangle),
        whole_image=reference.whole_image,
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
    )
