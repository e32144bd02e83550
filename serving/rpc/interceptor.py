"""The edge between gRPC and everything else.

Reads requests, and turns errors into statuses: the only place that catches ``Exception``. Does not know what
any call does. Handlers behind it take and return messages, and raise ``serving.errors``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError, Message

from serving import request_context
from serving.errors import Exhausted, InvalidInput, ServingError, Shed
from serving.observer import NullObserver, Observer
from serving.rpc.status import OK, code_of, refusal

# In quotes: generic in the stubs alone. Any: one interceptor stands before handlers of every message type.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Parse: TypeAlias = Callable[[bytes], Message]
# The stubs know handlers that block; those of grpc.aio are:
Answer: TypeAlias = Callable[[Any, Context], Awaitable[Message]]
Answers: TypeAlias = Callable[[Any, Context], AsyncGenerator[Message]]
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]

_DISCARDED_BYTES = 64 << 20
_DISCARDED_SECONDS = 2.0
_WRITE_SECONDS = 60.0
"""For a caller to take one result: until then it holds its session and its place among the rounds."""


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Stands before the handlers of one gRPC package; health and reflection pass untouched."""

    def __init__(self, package: str, observer: Observer | None = None) -> None:
        self._prefix = f"/{package}."
        self._observer = observer or NullObserver()
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Wait until no call of the package is under way."""
        await self._idle.wait()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if not handler or not method.startswith(self._prefix):
            return handler
        if handler.request_streaming:
            return self._stream_unary(handler, method)
        if handler.response_streaming:
            return self._unary_stream(handler, method)
        return self._unary_unary(handler, method)

    def _unary_unary(self, handler: Handler, method: str) -> Handler:
        parse, answer = cast(Parse, handler.request_deserializer), cast(Answer, handler.unary_unary)

        async def call(raw: bytes, context: Context) -> Message:
            async with self._call(context, method):
                return await answer(_parsed(parse, raw), context)

        return grpc.unary_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _stream_unary(self, handler: Handler, method: str) -> Handler:
        parse, answer = cast(Parse, handler.request_deserializer), cast(Answer, handler.stream_unary)

        async def call(raws: AsyncIterator[bytes], context: Context) -> Message:
            async with self._call(context, method):
                try:
                    async with aclosing(_each(parse, raws)) as messages:
                        return await answer(messages, context)
                except ServingError:
                    with suppress(grpc.aio.UsageError):  # it was sent
                        await context.send_initial_metadata(())  # whoever waits for it sends no more
                    await _discard(raws)
                    raise

        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _unary_stream(self, handler: Handler, method: str) -> Handler:
        parse, answers = cast(Parse, handler.request_deserializer), cast(Answers, handler.unary_stream)

        # Written to the context rather than yielded: a call that is cancelled between two results then closes
        # the generator at once, and with it gives the session back.
        async def call(raw: bytes, context: Context) -> None:
            async with self._call(context, method), aclosing(answers(_parsed(parse, raw), context)) as responses:
                async for response in responses:
                    await _write(response, context)

        return grpc.unary_stream_rpc_method_handler(call, None, handler.response_serializer)

    @asynccontextmanager
    async def _call(self, context: Context, method: str) -> AsyncIterator[None]:
        """Count one call, say by which id it is known and by when it must end, and end it with the status of
        whatever the block raises.
        """
        request_context.set_request_id(context.invocation_metadata())
        request_context.set_deadline(context.time_remaining())
        self._calls += 1
        self._idle.clear()
        try:
            yield
        except Exception as error:  # the edge: beyond it an error is a status
            ended = refusal(error, method)
            self._tell(method, error)
        except BaseException as error:
            self._tell(method, error)
            raise
        else:
            self._tell(method, None)
            return
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()
        await context.abort(ended.code, ended.message, ended.metadata)

    def _tell(self, method: str, error: BaseException | None) -> None:
        code = OK if error is None else code_of(error)
        self._observer.call(
            method.rpartition("/")[2], code, error.reason if isinstance(error, Exhausted) else None
        )


async def _write(response: Message, context: Context) -> None:
    try:
        async with asyncio.timeout(_WRITE_SECONDS):
            await context.write(response)
    except TimeoutError:
        words = f"results were not read within {_WRITE_SECONDS:g} s"
        raise Exhausted(words, reason=Shed.SLOW_CALLER) from None


async def _each(parse: Parse, raws: AsyncIterator[bytes]) -> AsyncGenerator[Message]:
    async for raw in raws:
        yield _parsed(parse, raw)


async def _discard(raws: AsyncIterator[bytes]) -> None:
    """Let the client finish before it is refused: grpc.aio's clients lose the status of a call that ends while
    they write (grpc issue 36066).
    """
    budget = _DISCARDED_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARDED_SECONDS):
            async for raw in raws:
                budget -= len(raw)
                if budget < 0:
                    return


def _parsed(parse: Parse, raw: bytes) -> Message:
    try:
        return parse(raw)
    except DecodeError:
        raise InvalidInput("request", "must be a message of this contract, with text in UTF-8") from None
