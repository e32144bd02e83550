"""What a first question will need of an image: its embedding, and the language pass over its tokens.

Knows engines, stores and the gate by their ports. Does not know when to begin
(``serving.sessions.encode_on_open``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from serving.domain import DecodedImage, Priority
from serving.errors import ServingError
from serving.history.record import Session
from serving.ports import Completion, EmbeddingStore, ExpectedWork, Gate, LanguageEngine, Prompt
from serving.prompt import PromptTemplate
from serving.sessions.embedding import Encoding, embedding_of

_ENCODE = ExpectedWork(encodes=1, passes=0, masks=0, ahead=True)
_PASS = ExpectedWork(encodes=0, passes=1, masks=0, ahead=True)


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """A ``Preparation``."""

    language: LanguageEngine
    embeddings: EmbeddingStore
    encoding: Encoding
    gate: Gate
    form: PromptTemplate

    async def encode(self, image: DecodedImage, caller: str, begins: Callable[[], None]) -> float | None:
        """See ``Preparation``. Work ahead at the gate; not to the engine: a question may have joined."""
        key = image.embedding_key
        async with self.gate.admitted(_ENCODE, caller, Priority.BATCH) as place:
            if self.embeddings.holds(key):
                place.encoded(hit=True)
                return None
            begins()
            fill = partial(self.encoding, image)
            async with embedding_of(key, self.embeddings, fill, Priority.INTERACTIVE, place) as embedding:
                return (await embedding).seconds

    async def read(self, session: Session, begins: Callable[[], None]) -> Completion | None:
        """See ``Preparation``. A request of its own, like the encode: neither holds a place while it waits for
        the other.
        """
        with suppress(ServingError):  # a cache would have been warm
            async with self.gate.admitted(_PASS, session.caller, Priority.BATCH):
                begins()
                return await self.language.complete(self._beginning(session))
        return None

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
