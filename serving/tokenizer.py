"""Words to token ids and back, as the published model's slow tokenizer does it.

Knows sentencepiece and which ids only the prompt builder may insert. Does not know the prompt's form.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import sentencepiece

from serving.bundle import TokenSpec
from serving.errors import InvalidInput

_SHORT, _SHORT_KEPT = 8, 64
"""Characters: stretches as short as those between a question and an answer, which every round has, are kept."""


class Tokenizer:
    """Encodes one stretch of text at a time; no stretch can contain a special token."""

    def __init__(self, model: Path, tokens: TokenSpec) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
        self._reserved = frozenset(tokens.model_dump().values())
        self._short = lru_cache(_SHORT_KEPT)(self._encoded)

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of one stretch between inserted tokens; an empty stretch has none.

        Raises:
            InvalidInput: the vocabulary would read a part of the text as a special token.
        """
        return self._short(text) if len(text) <= _SHORT else self._encoded(text)

    def _encoded(self, text: str) -> tuple[int, ...]:
        ids = tuple(self._pieces.encode(text)) if text else ()
        if not self._reserved.isdisjoint(ids):
            raise InvalidInput("text", "must not hold words that this model reserves; rephrase it")
        return ids

    def decode(self, ids: tuple[int, ...]) -> str:
        """Text of generated ids, without the space that begins the first word."""
        return str(self._pieces.decode(list(ids)))
