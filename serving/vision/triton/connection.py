"""Connection to one Triton server: a handshake before the first call and after each loss; a call is tried at most
twice.

Knows what the server must serve, which slabs it maps, and what a failure says of it. Does not know what the
tensors mean. All on one event loop.

A request that names a slot ends with Triton's reply: until then Triton may read or write there, so a cancelled
caller waits for it. (A request by value is cancelled at Triton too.) Without a reply the call raises
``StillWriting``, unless the server turns out to be another process: the old one was lost, and the new one does not
map our slabs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from serving import request_context
from serving.bundle import BundleError
from serving.errors import ServingError, StillWriting, Unavailable
from serving.runtime.graph import Array, Interface
from serving.runtime.slab import PREFIX, Slab, Slot, is_gone
from serving.runtime.tasks import wait_until_done
from serving.vision.triton.client import ModelDescription, TritonCall, TritonClient, TritonFailure
from serving.vision.triton.failures import (
    AGAIN,
    BROKEN_SECONDS,
    RETRY_SECONDS,
    UNANSWERED,
    UNKNOWN_NOW,
    FailureKind,
    error_of,
    kind_of,
    mapping_refusal,
)

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0
_QUEUEING = 2 / 3
"""Of the patience, how much a request may wait for its model: the rest is to compute, and to hear of it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A model as our bundle has it."""

    name: str
    interface: Interface
    digest: str
    """SHA-256 of its graph."""


class TritonConnection:
    """One per server. Make it within the event loop, and close it."""

    def __init__(
        self, client: TritonClient, expected: Sequence[Expected], slabs: Sequence[Slab], patience: float
    ) -> None:
        """``patience``: seconds after which a request that has no reply counts as lost."""
        self._client, self._expected, self._slabs, self._patience = client, expected, slabs, patience
        self._handshaking = asyncio.Lock()
        self._connected = self._closed = False
        self.absence = ""  # why it was not ready when last asked
        self._failure: TritonFailure | BundleError | None = None  # of the last handshake
        self._mapped: set[str] = set()
        self._offered: set[str] = set()  # slabs, by handshakes since the last good one
        self._lost = True  # since the last good handshake
        self._processes = 0  # servers seen that did not map the slabs before
        self._broken: dict[str, float] = {}
        self.version: str | None = None
        """Triton's, once a handshake succeeded."""
        self.models: dict[str, ModelDescription] = {}
        self.refusal = ""
        """Why slabs are not mapped; empty when they are."""
        self.retries = self.handshakes = self.mappings = 0

    def maps(self, slot: Slot | None) -> bool:
        """Whether the server reads and writes there."""
        return slot is not None and slot.slab.name in self._mapped

    async def ensure_ready(self) -> None:
        """Return when the server serves what it must.

        Raises:
            Unavailable: it cannot be reached, serves another model, or the engine is closed.
        """
        if self._closed:
            raise Unavailable("the engine is closed")
        if self._connected:
            return
        try:
            await self._handshake_unless(lambda: self._connected)
        except TritonFailure as failure:
            raise self._error(failure) from failure
        except BundleError as differs:
            logger.error("%s", differs)
            raise Unavailable("the vision half serves another model", RETRY_SECONDS) from differs

    async def handshake(self) -> None:
        """Compare what the server serves with what it must, and have it map the slabs.

        Raises:
            TritonFailure: a call failed.
            BundleError: it serves something else.
        """
        await self._handshake_unless(lambda: False)

    async def _handshake_unless(self, needless: Callable[[], bool]) -> None:
        """One handshake at a time. A waiter of a failed one has its failure: it would see the same."""
        before = self._failure
        async with self._handshaking:
            if needless():
                return
            if self._failure is not None and self._failure is not before:
                raise self._failure
            try:
                await self._compare()
                await self._map_all()
            except (TritonFailure, BundleError) as failure:
                self._failure = failure
                if isinstance(failure, TritonFailure):
                    self._note(kind_of(failure))
                raise
            self._failure = None
            self._connected, self.handshakes = True, self.handshakes + 1

    async def _compare(self) -> None:
        self.models = {each.name: await self._client.describe(each.name) for each in self._expected}
        problems = [p for each in self._expected for p in differences(each, self.models[each.name])]
        if problems:
            raise BundleError(
                "Triton does not serve our bundle: " + "; ".join(problems) + "; write its repository with "
                "`python -m exporters repository --bundle DIR`"
            )
        self.version = await self._client.version()

    async def _map_all(self) -> None:
        """A server that was lost and maps no slab of ours is another process: the old one writes there no more.

        A server that was not lost has been asked to let go of them, and may still write.
        """
        self.refusal = ""
        anew = [await self._map(slab) for slab in self._slabs]
        if self._lost and anew and all(anew):
            self._processes += 1
            for slab in self._slabs:
                slab.remapped()
        self._lost = False
        self._offered.clear()

    async def ask(self, call: TritonCall) -> dict[str, Array]:
        """Have a model compute; see ``TritonClient.infer``.

        Raises:
            StillWriting: a slot among the outputs may still be written.
            Exhausted, Unavailable, DeadlineExceeded, EngineFault: as ``failures.error_of`` says.
        """
        try:
            return await self._attempt(call)
        except TritonFailure as failure:
            if kind_of(failure) not in AGAIN:
                raise self._error(failure) from failure
        self.retries += 1
        try:
            return await self._attempt(call)
        except TritonFailure as failure:
            raise self._error(failure) from failure

    async def ready(self) -> bool:
        """Whether the server says that it serves every model; never raises."""
        try:
            ready = all([await self._client.ready(each.name) for each in self._expected])
        except TritonFailure as failure:
            self._note(kind_of(failure))
            self.absence = f"{failure.code}: {failure.words}"
            return False
        self.absence = "" if ready else "a model is not ready"
        if not ready:
            self._note(FailureKind.NO_MODEL)
        return ready

    async def close(self) -> None:
        """Calls in flight fail; the server lets go of the slabs. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with suppress(TritonFailure, TimeoutError):  # a server that is gone holds nothing
            async with asyncio.timeout(_CLOSE_SECONDS):
                for name in sorted(self._mapped):
                    await self._client.unregister(name)
        await self._client.close()

    async def _attempt(self, call: TritonCall) -> dict[str, Array]:
        await self.ensure_ready()
        broken = self._broken.get(call.model, 0.0) - monotonic()
        if broken > 0:
            raise Unavailable("a model of the vision half has died; sessions are unharmed", broken)
        process = self._processes
        try:
            return await self._reply(call)
        except TritonFailure as failure:
            kind = kind_of(failure)
            self._note(kind, call.model)
            if call.writes and kind in UNANSWERED and not await self._is_other_than(process):
                raise StillWriting("the vision half was lost; sessions are unharmed", RETRY_SECONDS) from failure
            raise

    async def _reply(self, call: TritonCall) -> dict[str, Array]:
        request = asyncio.create_task(self._client.infer(call, self._queue_seconds(), self._seconds(call)))
        try:
            await asyncio.wait([request])
        except asyncio.CancelledError:
            if not call.by_reference:
                request.cancel()
            await wait_until_done(request)
            if call.writes and _unanswered(request):
                raise StillWriting("the vision half was lost", RETRY_SECONDS) from None
            raise
        if request.cancelled():  # the channel was closed
            raise (StillWriting if call.writes else Unavailable)("the engine is closing")
        return request.result()

    def _seconds(self, call: TritonCall) -> float:
        """By value the caller's deadline ends the request; by reference only its reply does."""
        return self._patience if call.by_reference else request_context.within(self._patience)

    def _queue_seconds(self) -> float:
        """One that is refused in the queue has a reply, and its slot is free; one whose reply is late has none."""
        return request_context.within(self._patience * _QUEUEING)

    async def _is_other_than(self, process: int) -> bool:
        """Whether the server is by now another process, which did not map the slabs."""
        with suppress(TritonFailure, BundleError):
            await self._handshake_unless(lambda: self._processes != process)
        return self._processes != process

    def _note(self, kind: FailureKind, model: str = "") -> None:
        self._connected = self._connected and kind not in UNKNOWN_NOW
        self._lost = self._lost or kind is FailureKind.LOST
        if kind is FailureKind.BROKEN:
            self._broken[model] = monotonic() + BROKEN_SECONDS

    def _error(self, failure: TritonFailure) -> ServingError:
        if kind_of(failure) is FailureKind.LATE and request_context.remaining() != 0:
            return Unavailable("the vision half did not answer; sessions are unharmed", RETRY_SECONDS)
        return error_of(failure)

    async def _map(self, slab: Slab) -> bool:
        """Have the server map a slab; whether it did not before. One that it cannot map is left aside."""
        try:
            regions = await self._client.regions()
            known, offered = slab.name in regions, slab.name in self._offered
            if not known:
                self._offered.add(slab.name)
                await self._client.register(slab)
        except TritonFailure as failure:
            self._mapped.discard(slab.name)
            if kind_of(failure) in UNANSWERED:
                raise
            self.refusal = mapping_refusal(failure)
            logger.warning("embeddings go by gRPC: %s", self.refusal)
            return False
        self._mapped.add(slab.name)
        if known:
            return offered
        self.mappings += 1
        for name, key in regions.items():  # of orchestrators that died; the server would keep their memory
            if name.startswith(PREFIX) and is_gone(key):
                with suppress(TritonFailure):
                    await self._client.unregister(name)
        return True


def differences(expected: Expected, model: ModelDescription) -> list[str]:
    """How a model differs from ours; empty when it does not."""
    ours = {spec.name: spec for spec in (*expected.interface.inputs, *expected.interface.outputs)}
    theirs = {spec.name: spec for spec in (*model.interface.inputs, *model.interface.outputs)}
    problems = [
        f"{expected.name}: {name} is {theirs.get(name, 'missing')} there, {ours.get(name, 'missing')} here"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    digest = model.parameters.get("graph_sha256", "")
    if digest != expected.digest:
        there = f"{digest[:12]}…" if digest else "not given"
        problems.append(f"{expected.name}: the graph's SHA-256 is {there} there, {expected.digest[:12]}… here")
    return problems


def _unanswered(request: asyncio.Task[dict[str, Array]]) -> bool:
    """Whether Triton may still be at work on a request that has ended here."""
    if request.cancelled():
        return True
    failure = request.exception()
    return isinstance(failure, TritonFailure) and kind_of(failure) in UNANSWERED
