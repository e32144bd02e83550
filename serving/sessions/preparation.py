"""What a first question will need of an image: its embedding, and the language pass over its tokens.

Knows engines, stores and the gate by their ports. Does not know when to begin
(``serving.sessions.encode_on_open``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial

from serving.domain import DecodedImage, Priority
from serving.errors import ServingError
from serving.history.record import Session
from serving.ports import EmbeddingStore, ExpectedWork, Gate, LanguageEngine, Prompt
from serving.prompt import PromptTemplate
from serving.runtime.tasks import under_way
from serving.sessions.embedding import Encoding, embedding_of

_ENCODE = ExpectedWork(encodes=1, passes=0, masks=0)
_PASS = ExpectedWork(encodes=0, passes=1, masks=0)


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """A ``Preparation``."""

    language: LanguageEngine
    embeddings: EmbeddingStore
    encoding: Encoding
    gate: Gate
    form: PromptTemplate

    async def __call__(
        self, image: DecodedImage, caller: str, session: Awaitable[Session], begins: Callable[[], None]
    ) -> float | None:
        """Behind rounds at the gate, where encode and pass are a batch request each: neither holds a place while
        it waits for the session, or for the other. Engines do not hold them up: a question may have joined.
        """
        async with AsyncExitStack() as reading:
            async with self.gate.admitted(_ENCODE, caller, Priority.BATCH):
                if self.embeddings.holds(image.embedding_key):
                    return None
                begins()
                read = await reading.enter_async_context(under_way(self._read(caller, session)))
                fill = partial(self.encoding, image)
                coming = embedding_of(image.embedding_key, self.embeddings, fill, Priority.INTERACTIVE)
                async with coming as embedding:
                    seconds = (await embedding).seconds
            await read
            return seconds

    async def _read(self, caller: str, session: Awaitable[Session]) -> None:
        opened = await session
        with suppress(ServingError):  # a cache would have been warm
            async with self.gate.admitted(_PASS, caller, Priority.BATCH):
                await self.language.complete(self._beginning(opened))

    def _beginning(self, session: Session) -> Prompt:
        """What every dialogue on the image begins with. One token is sampled and thrown away: an engine that is
        asked for nothing reads nothing.
        """
        return Prompt(
            dialogue=session.record.dialogue,
            tenant=session.caller,
            token_ids=self.form.beginning,
            image=session.image.tower,
            references=(),
            feature_positions=(),
            max_new_tokens=1,
            ensure_seg=False,
        )
