"""Checks of the words of questions and answers.

Knows characters, lengths and reserved markers. Does not know tokens: ``serving.tokenizer`` guards the ids,
this module says which words the caller must change. Errors' paths are within the question; none repeats the
caller's text.
"""

from __future__ import annotations

import unicodedata

from serving.bundle import SEG, split_answer
from serving.errors import InvalidInput

MARKERS = (
    SEG, "[CROPPEDIMAGE]", "[BBOXINPUT]", "<image>", "<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]"
)  # fmt: skip
"""Reserved, spelled so; ``[seg]`` is a word like others, to the model too."""

_REFUSED_CATEGORIES = {"Cc": "a control character", "Cs": "half of a surrogate pair"}


def check_question(text: str, max_bytes: int) -> None:
    """Raises InvalidInput (``text``) for a question that the model must not or cannot get."""
    if not text.strip():
        raise InvalidInput("text", "must not be empty")
    _check_characters("text", text, max_bytes)
    _check_markers("text", text)


def check_answer(text: str, max_bytes: int) -> None:
    """Raises InvalidInput (``answer``) unless a forced answer holds ``[SEG]`` once and nothing else reserved."""
    _check_characters("answer", text, max_bytes)
    try:
        parts = split_answer(text)
    except ValueError as error:
        raise InvalidInput("answer", str(error)) from None
    for part in parts:
        _check_markers("answer", part)


def _check_characters(field: str, text: str, max_bytes: int) -> None:
    # Half a surrogate pair has no UTF-8; it is counted here and named below.
    size = len(text.encode(errors="surrogatepass"))
    if size > max_bytes:
        raise InvalidInput(field, f"must hold at most {max_bytes} bytes of UTF-8; it holds {size}")
    if text.isprintable():  # nearly always; what is not need not be refused
        return
    for position, character in enumerate(text):
        refused = _REFUSED_CATEGORIES.get(unicodedata.category(character))
        if refused:
            raise InvalidInput(field, f"must not hold {refused} (U+{ord(character):04X} at position {position})")


def _check_markers(field: str, text: str) -> None:
    """Full-width and other look-alikes count: a vocabulary may fold them (NFKC) into the marker itself."""
    folded = unicodedata.normalize("NFKC", text)
    for marker in MARKERS:
        if marker in text or marker in folded:
            raise InvalidInput(field, f"must not hold the reserved marker {marker}; rephrase it")
