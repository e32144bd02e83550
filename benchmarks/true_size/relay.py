"""A language server between the orchestrator and vLLM's: passes every prompt on, and keeps it with its answer.

Knows the internal contract through the server's own classes. Does not know what is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from serving.bundle import Bundle
from serving.llm.remote import RemoteLanguage
from serving.llm.server import LanguageServer
from serving.llm.service import LanguageService
from serving.ports import Completion, LanguageEngine, Prompt
from serving.runtime.record import RuntimeRecord

MAX_CALLS = 4
PICTURE_BYTES = 1 << 26
DRAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Relay:
    address: str
    passes: list[tuple[Prompt, Completion]]
    """In the order of their answers."""


@dataclass(slots=True)
class Recorder:
    """A LanguageEngine that keeps what passes."""

    engine: LanguageEngine
    passes: list[tuple[Prompt, Completion]] = field(default_factory=list)

    @property
    def description(self) -> str:
        return self.engine.description

    @property
    def runtimes(self) -> tuple[RuntimeRecord, ...]:
        return self.engine.runtimes

    async def complete(self, prompt: Prompt) -> Completion:
        completion = await self.engine.complete(prompt)
        self.passes.append((prompt, completion))
        return completion

    async def close(self) -> None:
        await self.engine.close()


@asynccontextmanager
async def relayed(bundle: Bundle, address: str, max_references: int) -> AsyncIterator[Relay]:
    """Serve in front of the language server at ``address`` while the block runs."""
    recorder = Recorder(remote := RemoteLanguage([address], bundle, max_references))
    try:
        await remote.reached()
        service = LanguageService(recorder, bundle, MAX_CALLS, max_references, PICTURE_BYTES)
        server = LanguageServer(service, "127.0.0.1:0")
        async with server.running(DRAIN_SECONDS):
            await server.ready()
            yield Relay(server.address, recorder.passes)
    finally:
        await recorder.close()
