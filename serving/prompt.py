"""The dialogue as tokens: the prompt's form, round by round.

Knows the instruction form of the published model (docs/reference.md) and where a ``[SEG]`` feature is
read. Does not know pixels, engines or sessions' lives. Token ids join only at inserted tokens: each
stretch between them, template and user's words together, is encoded as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.bundle import SEG, TOKENIZER, Bundle, Manifest, split_answer
from serving.domain import AnswerMode, Question
from serving.errors import InvalidInput, InvalidQuestion
from serving.tokenizer import Tokenizer

_UNTRAINED = (
    f"must be given in mode FORCED: this model was not trained on an answer template. Give the words with {SEG} "
    f'once ("It is the liver {SEG}."), or ask in mode FREE or GRAMMAR'
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One round's tokens. A forced turn is complete; a free one is closed with what the model says."""

    prompt: tuple[int, ...]
    """Up to where the model reads its feature (forced) or begins to answer (free)."""
    closing: tuple[int, ...]
    """Forced: ``[SEG]``, the words after it, the end. Free: empty."""
    answer: str
    """Forced: the answer's words. Free: empty."""
    ensure_seg: bool = False
    """Free: the answer must have a ``[SEG]``."""

    @property
    def forced(self) -> bool:
        return bool(self.closing)


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Builds turns for one model."""

    manifest: Manifest
    tokenizer: Tokenizer

    @classmethod
    def of(cls, bundle: Bundle) -> PromptTemplate:
        """As the bundle's tokenizer has it."""
        return cls(bundle.manifest, Tokenizer(bundle.path(TOKENIZER), bundle.manifest.tokens))

    @property
    def beginning(self) -> tuple[int, ...]:
        """What every dialogue begins with, up to its image."""
        return self._instruction(first=True)

    def turn(self, question: Question, *, first: bool) -> Turn:
        """The tokens of one question; ``first`` in its session.

        Raises:
            InvalidInput: a forced answer without exactly one ``[SEG]``, with reserved words, or missing where the
                model was not trained on its template; the field's path is within the question.
        """
        tokens, encode = self.manifest.tokens, self.tokenizer.encode
        if question.refers:
            line = encode("\n ") if first else ()
            opening = (*self._instruction(first=first), *line, tokens.crop, tokens.bbox)
            lead = " "
        elif first:
            opening, lead = self._instruction(first=True), "\n "
        else:
            opening, lead = (), "[INST] "
        words = f"{lead}{question.text.strip()} [/INST]"
        if question.mode is not AnswerMode.FORCED:
            ensure_seg = question.mode is AnswerMode.GRAMMAR
            return Turn((*opening, *encode(words)), (), "", ensure_seg)
        before, after = self._split(question.answer or self._template())
        prompt = (*opening, *encode(f"{words} {before}"))
        return Turn(prompt, (tokens.seg, *encode(f"{after} "), tokens.eos), f"{before}{SEG}{after}")

    def close(self, generated: tuple[int, ...], *, segmented: bool) -> tuple[str, tuple[int, ...]]:
        """A free turn's words and all its tokens: what was generated, ``[SEG]`` and the tail, the end."""
        tokens, tail = self.manifest.tokens, self.manifest.answers.tail
        words = self.tokenizer.decode(generated)
        if not segmented:
            return words.strip(), (*generated, tokens.eos)
        return f"{words}{SEG}{tail}", (*generated, tokens.seg, *self.tokenizer.encode(f"{tail} "), tokens.eos)

    def check_length(self, token_ids: Sequence[int], max_new_tokens: int, advice: str) -> None:
        """Raises InvalidQuestion when prompt, its image expanded, and answer exceed the model's context.

        ``advice``: what the caller may do about it.
        """
        length = len(token_ids) - 1 + self.manifest.tower.tokens
        limit = self.manifest.language.max_tokens
        if length + max_new_tokens > limit:
            raise InvalidQuestion(
                None,
                "",
                f"the dialogue ({length} tokens) and its answer (up to {max_new_tokens}) must fit {limit} tokens: "
                f"{advice}",
            )

    def _instruction(self, *, first: bool) -> tuple[int, ...]:
        instruction = self.tokenizer.encode("[INST] ")
        return (self.manifest.tokens.bos, *instruction, self.manifest.tokens.image) if first else instruction

    def _template(self) -> str:
        answers = self.manifest.answers
        if not answers.template_trained:
            raise InvalidInput("answer", _UNTRAINED)
        return answers.template

    def _split(self, answer: str) -> tuple[str, str]:
        try:
            return split_answer(answer)
        except ValueError as error:
            raise InvalidInput("answer", str(error)) from None
