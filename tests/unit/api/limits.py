"""Limits small enough to reach."""

from __future__ import annotations

from serving.api.limits import Limits


def limits(**changes: float) -> Limits:
    return Limits(
        **{
            "max_image_bytes": 1 << 20,
            "max_image_pixels": 10_000,
            "max_aspect_ratio": 8,
            "max_rounds": 4,
            "max_question_bytes": 64,
            "max_sessions": 4,
            "session_idle_timeout": 60.0,
            "max_concurrent_rounds": 4,
            "max_concurrent_uploads": 2,
            "upload_timeout": 5.0,
        }
        | changes
    )
