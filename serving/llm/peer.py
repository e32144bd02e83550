"""One language server as seen from the orchestrator: its state, and prompts sent to it.

Knows the internal contract's calls, and what their failures say of the server. Does not know that there are
other servers (``serving.llm.remote``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mediround import channels
from mediround import errors as wire
from mediround.failures import from_failure
from serving import request_context
from serving.bundle import Bundle
from serving.errors import (
    DeadlineExceeded,
    EngineFault,
    Exhausted,
    InvalidInput,
    ServingError,
    Unavailable,
)
from serving.llm.messages import BEGUN, complete_request, completion, pictures, runtime
from serving.llm.v1 import language_pb2 as pb
from serving.llm.v1.language_pb2_grpc import LanguageServiceStub
from serving.ports import Completion, Prompt
from serving.runtime.record import RuntimeRecord

if TYPE_CHECKING:  # a name that the stubs' types have and the stubs have not
    from serving.llm.v1.language_pb2_grpc import LanguageServiceAsyncStub

logger = logging.getLogger(__name__)

_OPTIONS = [
    # A feature is 1 KiB, and a prompt has fewer of them than tokens.
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", -1),
    # A server that restarts is found within a second, and one whose machine vanished is not waited for.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
"""For a server to say how it is."""
_LOST_SECONDS = 1.0
"""When to ask again of another server."""
_REMEMBERED = 4096
"""Pictures that were sent and are known to be; one that is forgotten is sent again."""
_ELSEWHERE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,  # by the server: this side's own cancellation is no status
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
}
"""What a server says that cannot be asked at all."""


class PeerState(Enum):
    UNKNOWN = "not asked yet"
    SERVING = "serving"
    LOST = "not serving"
    REFUSED = "refused"
    """It serves another model, or too little of ours."""


class NotStarted(Exception):
    """The prompt did not reach the engine: another server may be asked."""


class Peer:
    """Make it within the event loop, and let ``follow`` run beside the calls."""

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None,
        bundle: Bundle,
        max_references: int,
        changed: Callable[[], None],
    ) -> None:
        """``bundle`` is what it must serve, with prompts of ``max_references``.

        ``changed`` is called whenever the standing has changed.
        """
        self.address = address
        self.state = PeerState.UNKNOWN
        self.engine = ""
        """What it says of its engine, once it was asked."""
        self.runtime = RuntimeRecord("")
        """How its engine runs: as it says itself, or what the last prompt was answered by."""
        self.refusal = ""
        """Why it is refused."""
        self._bundle, self._max_references, self._changed = bundle, max_references, changed
        self._channel = channels.asynchronous(address, credentials, _OPTIONS)
        self._stub: LanguageServiceAsyncStub = LanguageServiceStub(self._channel)
        self._health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(self._channel)
        self._sent: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def follow(self) -> None:
        """Look for as long as the task lives."""
        while True:
            state, cause = await self._look()
            self._set_state(state, cause)
            await asyncio.sleep(_LOOK_SECONDS)

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask, and send what pixels it lacks.

        Raises:
            NotStarted: it cannot be asked.
            ServingError: what it says of the prompt; Unavailable when it was lost on the way.
        """
        try:
            digests = {p.digest for p in pictures(prompt) if (prompt.tenant, p.digest) in self._sent}
            outcome = await self._ask(prompt, digests)
            if outcome.HasField("missing"):
                outcome = await self._ask(prompt, set())
        except grpc.aio.AioRpcError as failure:
            raise self._meaning(failure) from failure
        if not outcome.HasField("completion"):
            raise EngineFault("a language server neither completed a prompt nor failed")
        answer = completion(outcome.completion, self._bundle.manifest.language.feature)
        self.runtime = answer.runtime  # of another process, if one took its place since the last look
        return answer

    async def close(self) -> None:
        await self._channel.close(None)

    async def _ask(self, prompt: Prompt, digests: set[str]) -> pb.CompleteResponse:
        request = complete_request(prompt, self._bundle.digest, digests)
        metadata = ((request_context.REQUEST_ID, request_context.request_id()),)
        outcome = await self._stub.Complete(request, timeout=request_context.remaining(), metadata=metadata)
        for picture in pictures(prompt):
            self._sent[prompt.tenant, picture.digest] = None
            self._sent.move_to_end((prompt.tenant, picture.digest))
        while len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
        return outcome

    def _meaning(self, failure: grpc.aio.AioRpcError) -> Exception:
        if failure.code() in _ELSEWHERE:
            self._set_state(PeerState.LOST, _words(failure))  # until the next look
            if BEGUN not in dict(failure.initial_metadata()):
                return NotStarted(self.address)
        return domain_error(failure)

    def _set_state(self, state: PeerState, cause: str = "") -> None:
        """Logs each change once: an operator must see when, and why, a half was lost."""
        if state is self.state:
            return
        self.state = state
        level = logging.WARNING if state in {PeerState.LOST, PeerState.REFUSED} else logging.INFO
        words = " ".join([self.refusal or state.value, *([f"({cause})"] if cause else [])])
        logger.log(level, "language server %s: %s", self.address, words)
        self._changed()

    async def _look(self) -> tuple[PeerState, str]:
        """Its state, and the cause of a loss."""
        try:
            if self.state is not PeerState.SERVING:
                self._check_description(await self._stub.Describe(pb.DescribeRequest(), timeout=_ANSWER_SECONDS))
            health = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_SECONDS)
        except grpc.aio.AioRpcError as failure:
            self.refusal = ""
            return PeerState.LOST, _words(failure)
        if self.refusal:
            return PeerState.REFUSED, ""
        if health.status == health_pb2.HealthCheckResponse.SERVING:
            return PeerState.SERVING, ""
        return PeerState.LOST, "its health is NOT_SERVING"

    def _check_description(self, description: pb.DescribeResponse) -> None:
        """It may be another process than the last one at this address."""
        self._sent.clear()
        self.engine, self.runtime = description.engine, runtime(description.runtime)
        ours, differences = self._bundle, []
        if description.bundle_digest != ours.digest:
            theirs = f"{description.model_name} {description.model_version} ({description.bundle_digest[:12]})"
            ours_named = f"{ours.manifest.name} {ours.manifest.version} ({ours.digest[:12]})"
            differences.append(f"it serves bundle {theirs}, --bundle is {ours_named}")
        if description.max_references < self._max_references:
            differences.append(
                f"its --limits.max-references is {description.max_references}, --limits.max-rounds here is "
                f"{self._max_references}"
            )
        self.refusal = "; ".join(differences)


def domain_error(failure: grpc.aio.AioRpcError) -> ServingError:
    """What a language server's status means here; the reverse of ``serving.rpc.status``."""
    match from_failure(failure):
        case wire.InvalidArgument(violations=(violation, *_)):
            return InvalidInput(violation.field, violation.description)
        case wire.ResourceExhausted() as error:
            return Exhausted(str(error), error.retry_after)
        case wire.Unavailable(retry_after=seconds):
            return Unavailable("the language server was lost; sessions are unharmed", seconds)
        case wire.Cancelled():
            return Unavailable("the language server stopped; sessions are unharmed", _LOST_SECONDS)
        case wire.DeadlineExceeded():
            return DeadlineExceeded("the language half was not done in time")
        case error:
            return EngineFault(f"a language server answered {failure.code().name}: {error}")


def _words(failure: grpc.aio.AioRpcError) -> str:
    """Code and words of a server of ours, or of the transport."""
    return f"{failure.code().name}: {failure.details()}"
