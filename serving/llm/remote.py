"""The language half in other processes: several language servers that serve one model.

Knows which server a dialogue goes to, and which is next when that one is gone. Does not know calls
(``serving.llm.peer``).

A dialogue stays with one server, whose prefix cache knows it. A prompt that did not reach an engine moves on to
the next server at once. One that was lost within an engine is not repeated from here: if the prompt killed the
engine, it would kill the next one too. Its caller gets UNAVAILABLE, and a retry goes elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import grpc

from serving.bundle import Bundle, BundleError
from serving.errors import Unavailable
from serving.llm.peer import NotStarted, Peer, PeerState
from serving.llm.validation import check_prompt
from serving.ports import Completion, Prompt
from serving.runtime.digest import digest
from serving.runtime.record import RuntimeRecord

_RETRY_SECONDS = 2.0
"""When to ask again while no server serves: about as long as it takes to see that one does."""


class RemoteLanguage:
    """A LanguageEngine. Make it within the event loop, and close it."""

    def __init__(
        self,
        addresses: Sequence[str],
        bundle: Bundle,
        max_references: int,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """A server is asked only if it serves ``bundle`` and takes prompts of ``max_references``."""
        self._manifest = bundle.manifest
        self._changed = asyncio.Event()
        self._peers = [Peer(each, credentials, bundle, max_references, self._change) for each in addresses]
        self._following = [asyncio.create_task(peer.follow()) for peer in self._peers]
        self._closed = False

    @property
    def description(self) -> str:
        engines = sorted({peer.engine for peer in self._peers if peer.engine})
        return f"grpc/{', '.join(engines) or 'not reached yet'}"

    @property
    def runtimes(self) -> tuple[RuntimeRecord, ...]:
        return tuple(dict.fromkeys(peer.runtime for peer in self._peers if peer.state is PeerState.SERVING))

    @property
    def available(self) -> bool:
        """Whether a server serves, as far as is known."""
        return any(peer.state is PeerState.SERVING for peer in self._peers)

    async def availability(self) -> AsyncGenerator[bool]:
        """``available`` now, and each time that it has changed."""
        last = None
        while True:
            changed = self._changed  # read before the check, so that a change during the yield is not missed
            if self.available != last:
                last = self.available
                yield last
            await changed.wait()

    async def reached(self) -> None:
        """Return when a server serves.

        Raises:
            BundleError: every server was refused; the message says what differs.
        """
        while not self.available:
            if all(peer.state is PeerState.REFUSED for peer in self._peers):
                raise BundleError("; ".join(f"language server {p.address}: {p.refusal}" for p in self._peers))
            await self._changed.wait()

    async def complete(self, prompt: Prompt) -> Completion:
        """Ask the dialogue's server, or the next one that can be asked.

        Raises:
            InvalidInput, Exhausted, EngineFault, DeadlineExceeded: as that server says.
            Unavailable: it was lost on the way, or none serves.
        """
        check_prompt(prompt, self._manifest)  # pixels that are held there are not sent, and so not seen, again
        while any(peer.state is PeerState.UNKNOWN for peer in self._peers) and not self._closed:
            await self._changed.wait()
        try:
            for peer in self._order(prompt):
                try:
                    return await peer.complete(prompt)
                except NotStarted:
                    continue
        except asyncio.CancelledError:
            # The task was not cancelled: the call was, by closing the channel.
            task = asyncio.current_task()
            if task is None or task.cancelling() or not self._closed:
                raise
        if self._closed:
            raise Unavailable("the engine is closed")
        raise Unavailable("no language server can be reached; sessions are unharmed", _RETRY_SECONDS)

    async def close(self) -> None:
        """Let calls in flight fail, and ask no more. Idempotent."""
        self._closed = True
        self._change()
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        for peer in self._peers:
            await peer.close()

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _order(self, prompt: Prompt) -> list[Peer]:
        """Those that serve, this dialogue's first. Rendezvous hashing: one that leaves moves only its own."""
        serving = [peer for peer in self._peers if peer.state is PeerState.SERVING and not self._closed]
        return sorted(serving, key=lambda peer: rank(peer.address, prompt.tenant, prompt.dialogue))


def rank(address: str, tenant: str, dialogue: str) -> bytes:
    """The lowest of a dialogue's ranks is its server's."""
    return digest("rank", address, tenant, dialogue)
