"""What a first question will need of an image: its embedding, and the language pass over its tokens.

Knows engines, stores and the gate by their ports. Does not know when to begin
(``serving.sessions.encode_on_open``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from serving.domain import DecodedImage, Priority
from serving.errors import ServingError
from serving.history.record import Session
from serving.ports import EmbeddingStore, ExpectedWork, Gate, LanguageEngine, Prompt
from serving.prompt import PromptTemplate
from serving.sessions.embedding import Encoding, embedding_of


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
        """Behind rounds at the gate, where it counts as a batch request. Engines do not hold it up: a question may
        have joined.
        """
        work = ExpectedWork(encodes=1, passes=1, masks=0)
        async with self.gate.admitted(work, caller, Priority.BATCH):
            if self.embeddings.holds(image.embedding_key):
                return None
            begins()
            fill = partial(self.encoding, image)
            coming = embedding_of(image.embedding_key, self.embeddings, fill, Priority.INTERACTIVE)
            async with coming as embedding:
                opened = await session
                with suppress(ServingError):  # a cache would have been warm
                    await self.language.complete(self._beginning(opened))
                return (await embedding).seconds

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
