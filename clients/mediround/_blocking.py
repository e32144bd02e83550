"""A connection whose calls block, and the one boundary between them and gRPC: beyond it there are MediRoundErrors
alone.

Knows the channel, what is sent again, and the sessions that are open. Does not know what a call asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from threading import Event
from typing import Any, TypeVar

import grpc

from mediround import channels
from mediround._calls import Call, CallDefaults
from mediround._connection import (
    CHANNEL_OPTIONS,
    CLOSING_SECONDS,
    HEALTH,
    SEND_IMAGE,
    VERDICT_SECONDS,
    OpenSessions,
    SentImages,
    cancelled,
    check_health,
    closed,
    closing_requests,
    stopped,
    target,
)
from mediround._diagnosis import explained
from mediround._tls import Tls
from mediround.errors import MediRoundError, NotFound, ResourceExhausted, Unavailable
from mediround.failures import from_failure
from mediround.image import Upload
from mediround.results import Opening, opening
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub

Answer = TypeVar("Answer")


class BlockingConnection:
    """Safe across threads."""

    def __init__(self, address: str, tls: Tls | None, defaults: CallDefaults, *, http_proxy: bool) -> None:
        """Raises InvalidArgument."""
        self.address, credentials = target(address, tls)
        self.defaults, self.closed = defaults, False
        self.remembers = False
        self.sessions = OpenSessions()
        self._tls, self._sent = tls, SentImages()
        self._channel = channels.blocking(self.address, credentials, CHANNEL_OPTIONS, http_proxy=http_proxy)
        self.stub = SegmentationServiceStub(self._channel)
        self._health = self._channel.unary_unary(HEALTH, None, None)

    def unary(self, method: Callable[..., Answer], request: object, call: Call) -> Answer:
        """One request, one answer; sent again where the server did not begin."""
        return self._again(call, lambda: method(request, timeout=call.timeout, metadata=call.metadata))

    def stream(self, method: Callable[..., Any], request: object, call: Call) -> Generator[Any]:
        """One request, many answers. Closing the iterator cancels the call.

        Sent again before the first result, and after it where the server remembers requests: it then sends what it
        sent before, which is left out, and goes on.
        """
        results = 0
        while True:
            came = 0
            try:
                with closing(self._streamed(method, request, call)) as responses:
                    for response in responses:
                        came += response.HasField("result")
                        if came > results or not response.HasField("result"):
                            results = max(results, came)
                            yield response
                return
            except (ResourceExhausted, Unavailable) as error:
                wait = None if results and not call.repeatable else call.pause(error)
                if wait is None:
                    raise
            time.sleep(wait)

    def open(self, image: Upload, call: Call) -> Opening:
        """Open a session: without the image's bytes, where the server may hold them."""
        opened = self._held(image, call) or self._again(call, lambda: self._send(image, call))
        self._sent.add(image)
        self.remembers = opened.expires_at is not None
        return replace(opened, pixels=image.record)

    def ping(self, call: Call) -> None:
        """Raises Unavailable when the server is there and does not serve."""
        check_health(self.unary(self._health, b"", call))

    def close(self) -> None:
        """Close what was opened here, as far as the server lets that happen soon; then the connection."""
        if self.closed:
            return
        self.closed = True
        under_way = [
            self.stub.CloseSession.future(request, timeout=CLOSING_SECONDS, metadata=metadata)
            for request, metadata in closing_requests(self.sessions)
        ]
        for each in under_way:
            each.exception()
        self._channel.close()

    def _held(self, image: Upload, call: Call) -> Opening | None:
        if image not in self._sent:
            return None
        with suppress(NotFound):
            return self._again(call, lambda: opening(self._open(image.inquiry(), call).result()))
        self._sent.discard(image)
        return None

    def _open(self, messages: Iterator[pb.OpenSessionRequest], call: Call) -> Any:  # untyped in grpc-stubs
        return self.stub.OpenSession.future(messages, timeout=call.timeout, metadata=call.metadata)

    def _send(self, image: Upload, call: Call) -> Opening:
        """The header, the server's verdict on it, then the bytes: a refusal is not met by megabytes."""
        judged, refused = Event(), Event()

        def messages() -> Iterator[pb.OpenSessionRequest]:
            parts = image.messages()
            yield next(parts)
            judged.wait(VERDICT_SECONDS)
            if not refused.is_set():
                yield from parts

        under_way = self._open(messages(), call)
        try:
            if image.awaits_verdict and SEND_IMAGE not in dict(under_way.initial_metadata()):
                refused.set()
            judged.set()
            return opening(under_way.result())
        finally:
            judged.set()
            under_way.cancel()  # if it is not over: this thread was interrupted

    def _streamed(self, method: Callable[..., Any], request: object, call: Call) -> Generator[Any]:
        """One attempt."""
        responses = self._once(call, lambda: method(request, timeout=call.timeout, metadata=call.metadata))
        try:
            while (response := self._translated(call, lambda: next(responses, None))) is not None:
                yield response
        finally:
            responses.cancel()

    def _again(self, call: Call, attempt: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return self._once(call, attempt)
            except (ResourceExhausted, Unavailable) as error:
                wait = call.pause(error)
                if wait is None:
                    raise
            time.sleep(wait)

    def _once(self, call: Call, attempt: Callable[[], Answer]) -> Answer:
        if self.closed:
            raise closed()
        return self._translated(call, attempt)

    def _translated(self, call: Call, attempt: Callable[[], Answer]) -> Answer:
        try:
            return attempt()
        except grpc.RpcError as failure:
            raise self._meaning(failure, call) from failure
        except grpc.FutureCancelledError as failure:
            raise cancelled(call) from failure
        except ValueError as error:  # gRPC's word for a channel that another thread has closed meanwhile
            if self.closed:
                raise closed() from error
            raise

    def _meaning(self, failure: grpc.RpcError, call: Call) -> MediRoundError:
        error = from_failure(failure, call.request_id)
        error = error if self.closed else stopped(error)
        return explained(error, self.address, self._tls, call.left)
