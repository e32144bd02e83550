"""HTTP answers that end: each of a most size and within a most time, which are kept while it comes.

Knows requests' adapters. Does not know DICOMweb.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from requests import PreparedRequest, RequestException, Response
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

_PIECE = 1 << 16
_AGAIN = Retry(
    total=4,
    backoff_factor=1.0,
    status_forcelist=(408, 429, 503, 504),
    allowed_methods=None,  # objects are named by their UIDs: what is stored again is the same
    raise_on_status=False,
    respect_retry_after_header=False,  # it may say years
)
"""Of a request that the server has no time for, or whose connection is lost before it is answered."""


class AnswerTooLarge(RequestException):
    """An answer holds more than it may."""


class AnswerTooSlow(RequestException):
    """An answer has not ended within its time, though something comes."""


class BoundedAdapter(HTTPAdapter):
    """Of a session whose answers end."""

    def __init__(self, max_bytes: int, max_seconds: float) -> None:
        """
        Args:
            max_bytes: of an answer's body, unpacked.
            max_seconds: from the request to the body's end. The head is waited for as long as the request's own
                timeout says, between any two bytes.
        """
        super().__init__(max_retries=_AGAIN)
        self._max_bytes, self._max_seconds = max_bytes, max_seconds

    def send(self, request: PreparedRequest, *values: Any, **named: Any) -> Response:
        """Raises what requests raises; AnswerTooLarge, AnswerTooSlow: once the body is read."""
        end = time.monotonic() + self._max_seconds
        response = super().send(request, *values, **named)
        response.raw = _Body(response.raw, self._max_bytes, end)
        return response


class _Body:
    """urllib3's response, for requests to read."""

    def __init__(self, raw: Any, left: int, end: float) -> None:
        self._raw, self._left, self._end = raw, left, end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, _: int, decode_content: bool | None = None) -> Iterator[bytes]:
        # read1 returns with what has come: read waits until there is as much as was asked for.
        while piece := self._raw.read1(_PIECE, decode_content=decode_content):
            self._left -= len(piece)
            if self._left < 0:
                self._raw.close()
                raise AnswerTooLarge
            if time.monotonic() > self._end:
                self._raw.close()
                raise AnswerTooSlow
            yield piece
