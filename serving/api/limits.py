"""What one request, session or server may hold, as values.

Knows numbers and their units. Does not know where they are set (``serving.settings``) or enforced.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A refused call's error names the limit that it reached. Times are in seconds."""

    max_image_bytes: int
    """Of an image as sent."""
    max_image_pixels: int
    """Height times width, known before pixels are decoded."""
    max_aspect_ratio: int
    """Longer side over shorter side."""
    max_rounds: int
    """Of one session."""
    max_question_bytes: int
    """UTF-8, of a question and of a given answer."""
    max_sessions: int
    session_idle_timeout: float
    session_lifetime: float = 30 * 24 * 3600.0
    """From its opening, however much it is used."""
    max_given_mask_bytes: int = 2 << 20
    """Of a mask that a caller gives, as it is sent."""
    max_concurrent_rounds: int
    """Requests for rounds held at once, those that wait for their session or a place included."""
    max_concurrent_uploads: int
    """Images decoded and prepared at once; so many times ``max_image_bytes`` may be on their way."""
    upload_timeout: float
    """From the first to the last chunk."""
    min_upload_rate: int = 64 << 10
    """Bytes a second, on average from the first chunk; an upload that is slower is ended."""
