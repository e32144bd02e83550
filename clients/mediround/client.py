"""The client for threads and scripts.

Knows what can be asked, by calls that block. What is sent and what comes back is made elsewhere, once for both
clients; so is the connection (``mediround._blocking``).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from types import TracebackType
from typing import NoReturn, Self

from mediround._blocking import BlockingConnection
from mediround._calls import RETRIES, CallDefaults
from mediround._connection import NOT_CLOSED, not_copied
from mediround._description import ServerDescription, server_description
from mediround._overlay import Source, remembered
from mediround._readiness import Readiness
from mediround._rounds import (
    DialogueCorrection,
    LiveCorrection,
    Mode,
    Priority,
    Round,
    ask_request,
    checked_rounds,
    priority_value,
    segment_request,
)
from mediround._tls import Tls
from mediround.errors import MediRoundError
from mediround.image import ImageSource, upload
from mediround.results import Opening, RoundResult, round_result, taken_up
from mediround.v1 import segmentation_pb2 as pb


class Client:
    """A connection to one server, for any number of sessions and threads. Close it, or use it in a ``with``.

    Every call raises ``MediRoundError``s alone, and ``OSError`` where a path cannot be read. Calls that the
    server says it did not begin are sent again by themselves, ``retries`` times at most and within ``timeout``.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        timeout: float | None = None,
        retries: int = RETRIES,
        http_proxy: bool = False,
    ) -> None:
        """Connect when first needed.

        Args:
            address: ``host:port``, ``[IPv6]:port`` or ``unix:/path``.
            tls: None speaks plain text: only within one machine.
            timeout: seconds that a call may take, all its attempts together, unless it is given others; ``inf``
                for no end. None: 60, and 300 with priority ``batch``.
            retries: how often a call is sent again where the server says when to come again, and that it did not
                begin.
            http_proxy: whether to go through the proxy that the environment names (``http_proxy``).

        Raises:
            InvalidArgument: the address cannot be one, or another argument is not what it must be.
        """
        defaults = CallDefaults.of(timeout, retries)
        self._connection = BlockingConnection(address, tls, defaults, http_proxy=http_proxy)

    def open(
        self,
        image: ImageSource,
        *,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> Session:
        """Open a session on one image; close it, or use it in a ``with``. None: the client's.

        Args:
            priority: ``batch`` lets the images of interactive callers go first on a busy server.
        """
        prepared = upload(image).prioritised(priority_value(priority))
        call = self._connection.defaults.call(timeout, retries, priority)
        return Session(
            self._connection,
            self._connection.open(prepared, call),
            opened_here=True,
            source=remembered(image),
        )

    def session(self, session_id: str) -> Session:
        """Take up a session whose id is known: its next call says ``NotFound`` if it is gone. Closing the client
        does not close it.
        """
        return Session(self._connection, taken_up(session_id), opened_here=False)

    def segment(
        self,
        image: ImageSource,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> Generator[RoundResult]:
        """Ask a whole dialogue on one image; yields each result as soon as it is known, in order."""
        rounds = checked_rounds(rounds)
        with self.open(image, priority=priority, timeout=timeout, retries=retries) as session:
            yield from session.segment(
                rounds,
                correction=correction,
                threshold=threshold,
                priority=priority,
                timeout=timeout,
                retries=retries,
            )

    def describe(self, *, timeout: float | None = None, retries: int | None = None) -> ServerDescription:
        """Ask which model is served, with which limits and modes."""
        call = self._connection.defaults.call(timeout, retries)
        request = pb.DescribeServerRequest()
        return server_description(self._connection.unary(self._connection.stub.DescribeServer, request, call))

    def ping(self, *, timeout: float | None = None) -> float:
        """Ask the server whether it serves; seconds that the answer took. Raises Unavailable when it does not."""
        call = self._connection.defaults.call(timeout, retries=0)
        self._connection.ping(call)
        return call.taken

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return when the server serves.

        Raises:
            DeadlineExceeded: it did not within ``timeout`` seconds; the message says what it last said.
            AccessDenied: it never will, with these certificates.
        """
        waiting = Readiness(self._connection.defaults.call(timeout))
        while True:
            attempt = waiting.attempt()
            try:
                return self._connection.ping(attempt)
            except MediRoundError as error:
                time.sleep(waiting.pause(error))

    def close(self) -> None:
        """Close the sessions that were opened here, give up the calls that are under way, close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        not_copied(self)


class Session:
    """One image and its rounds. Made by ``Client.open`` and ``Client.session``.

    A session that is collected before it was closed is told by a ``ResourceWarning``: it takes one of the server's
    places until its client is closed, or its idle time is over.
    """

    def __init__(
        self, connection: BlockingConnection, opened: Opening, *, opened_here: bool, source: Source | None = None
    ) -> None:
        self._connection = connection
        self._left_open, self._source = opened_here, source
        self.opening = opened

    @property
    def session_id(self) -> str:
        return self.opening.session_id

    def ask(
        self,
        question: str,
        *,
        refer_to: RoundResult | int | None = None,
        mode: Mode | None = None,
        answer: str | None = None,
        correction: LiveCorrection = "always",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> RoundResult:
        """Ask one round. Rounds asked at once, from several threads, are answered in the order of their arrival.

        Args:
            question: what to segment, in words.
            refer_to: an earlier round of this session whose mask the question is about.
            mode: None is forced where an answer is given, else the model's default.
            answer: the answer's words, ``[SEG]`` exactly once; forced only, and needed there unless
                ``describe().answer_template_trained``.
            correction: whether the judge may have the mask corrected.
            threshold: a score at most this is corrected; None is the model's.
            priority: ``batch`` lets interactive requests go first on a busy server.
            timeout: seconds, all attempts together; None is the client's.
            retries: how often it is sent again; None is the client's.
        """
        asked = Round(question, refer_to, mode, answer)
        request = ask_request(self.session_id, asked, correction, threshold, priority)
        call = self._connection.defaults.call(timeout, retries, priority)
        response = self._connection.unary(self._connection.stub.AskRound, request, call)
        return round_result(response.result, self.opening, call.request_id, self._source)

    def segment(
        self,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> Generator[RoundResult]:
        """Ask rounds known in advance; stop iterating to cancel those that are not finished."""
        request = segment_request(self.session_id, rounds, correction, threshold, priority)
        call = self._connection.defaults.call(timeout, retries, priority)
        with closing(self._connection.stream(self._connection.stub.SegmentDialogue, request, call)) as responses:
            for response in responses:
                yield round_result(response.result, self.opening, call.request_id, self._source)

    def close(self) -> None:
        """No more can be asked in it; what the server keeps to save work goes with time. Closing it again is
        allowed.
        """
        self._left_open = False
        if self._connection.closed:
            return  # and with it what it had opened
        request = pb.CloseSessionRequest(session_id=self.session_id)
        self._connection.unary(self._connection.stub.CloseSession, request, self._connection.defaults.call())
        self._connection.sessions.discard(self.session_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The results are already here, and the server forgets an idle session by itself.
        with suppress(MediRoundError):
            self.close()

    def __del__(self, warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_left_open", False) and not self._connection.closed:
            warn(NOT_CLOSED, ResourceWarning, source=self, stacklevel=2)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        not_copied(self)
