"""The client for threads and scripts.

Knows calls that block. What is sent and what comes back is made elsewhere, once for both clients.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

import grpc

from mediround._connection import CHANNEL_OPTIONS, SentImages
from mediround._description import ServerDescription, server_description
from mediround._rounds import (
    DialogueCorrection,
    LiveCorrection,
    Mode,
    Priority,
    Round,
    ask_request,
    segment_request,
)
from mediround._tls import Tls
from mediround.errors import MediRoundError, NotFound, from_failure
from mediround.image import ImageSource, Upload, upload
from mediround.results import Opening, RoundResult, opening, round_result
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub


class Client:
    """A connection to one server, for any number of sessions and threads. Close it, or use it in a ``with``.

    Every call raises ``MediRoundError``s alone, and ``OSError`` where a path cannot be read.
    """

    def __init__(self, address: str, *, tls: Tls | None = None, timeout: float = 60.0) -> None:
        """Connect when first needed.

        Args:
            address: ``host:port``.
            tls: None speaks plain text: only within one machine.
            timeout: seconds that a call may take unless it is given others.
        """
        self._channel = (
            grpc.secure_channel(address, tls.credentials(), CHANNEL_OPTIONS)
            if tls
            else grpc.insecure_channel(address, CHANNEL_OPTIONS)
        )
        self._stub = SegmentationServiceStub(self._channel)
        self._timeout = timeout
        self._sent = SentImages()

    def open(self, image: ImageSource, *, timeout: float | None = None) -> Session:
        """Open a session on one image; close it, or use it in a ``with``."""
        allowed = self._timeout if timeout is None else timeout
        opened = self._open(upload(image), allowed)
        return Session(self._stub, opened, self._timeout)

    def segment(
        self,
        image: ImageSource,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> Generator[RoundResult]:
        """Ask a whole dialogue on one image; yields each result as soon as it is known, in order."""
        with self.open(image, timeout=timeout) as session:
            yield from session.segment(
                rounds, correction=correction, threshold=threshold, priority=priority, timeout=timeout
            )

    def describe(self, *, timeout: float | None = None) -> ServerDescription:
        """Ask which model is served, with which limits and modes."""
        with _translated():
            allowed = self._timeout if timeout is None else timeout
            return server_description(self._stub.DescribeServer(pb.DescribeServerRequest(), timeout=allowed))

    def close(self) -> None:
        """Give up the calls that are under way and close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, image: Upload, timeout: float) -> Opening:
        if image in self._sent:
            with suppress(NotFound), _translated():
                return opening(self._stub.OpenSession(image.inquiry(), timeout=timeout))
            self._sent.discard(image)
        with _translated():
            opened = opening(self._stub.OpenSession(image.messages(), timeout=timeout))
        self._sent.add(image)
        return opened


class Session:
    """One image and its rounds. Made by ``Client.open``."""

    def __init__(self, stub: SegmentationServiceStub, opened: Opening, timeout: float) -> None:
        self._stub = stub
        self._timeout = timeout
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
            timeout: seconds; None is the client's.
        """
        asked = Round(question, refer_to, mode, answer)
        request = ask_request(self.session_id, asked, correction, threshold, priority)
        with _translated():
            response = self._stub.AskRound(request, timeout=self._timeout if timeout is None else timeout)
        return round_result(response.result, self.opening)

    def segment(
        self,
        rounds: Sequence[Round],
        *,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> Generator[RoundResult]:
        """Ask rounds known in advance; stop iterating to cancel those that are not finished."""
        request = segment_request(self.session_id, rounds, correction, threshold, priority)
        call = self._stub.SegmentDialogue(request, timeout=self._timeout if timeout is None else timeout)
        try:
            with _translated():
                for response in call:
                    yield round_result(response.result, self.opening)
        finally:
            call.cancel()  # type: ignore[no-untyped-call]  # untyped in grpc-stubs

    def close(self) -> None:
        """Nobody can ask in it any more; what the server keeps to save work goes with time."""
        with _translated():
            self._stub.CloseSession(pb.CloseSessionRequest(session_id=self.session_id), timeout=self._timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The results are already here, and the server forgets an idle session by itself.
        with suppress(MediRoundError):
            self.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as failure:
        raise from_failure(failure) from failure
