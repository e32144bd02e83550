"""Dialogues of a source: a template's, or written in a table as JSON.

Knows both forms. Does not know where they lie. In JSON a dialogue is a list of objects: ``question``; and where
wanted ``name``, ``label``, ``refer_to`` (index of an earlier one, from 0), ``answer``, ``mode``, ``reference``
(path of a mask) and ``segment`` (label, of a DICOM SEG), ``truth`` (path of a mask).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from mediround.annotate.errors import ItemError
from mediround.annotate.items import GivenReference, Question
from mediround.annotate.sources.examined import Place, examined, uri_of
from mediround.templates import Template

_KEYS = {"question", "name", "label", "refer_to", "answer", "mode", "reference", "segment", "truth"}
_MODES = (None, "free", "grammar")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
MOST_QUESTIONS = 256
"""Questions of a dialogue."""
_MAX_LABEL = 64


def of_template(template: Template) -> tuple[Question, ...]:
    return tuple(
        Question(
            each.name, each.label, each.question, earlier, None if each.answer else template.mode, each.answer
        )
        for each, earlier in zip(template.questions, template.references, strict=True)
    )


def window_of(template: Template) -> str:
    """As ``mediround segment --window`` takes it; empty: the template has none."""
    if template.window is None:
        return ""
    said = [repr(float(each)).removesuffix(".0") for each in (template.window.center, template.window.width)]
    return ",".join(said if template.window.function == "LINEAR" else [*said, template.window.function])


def of_json(text: str, resolved: Callable[[str], Place]) -> tuple[Question, ...]:
    """A dialogue as a table has it in one column. Raises ItemError: it is not in the form; the words name the
    question.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad("must be JSON: a list of questions") from None
    if not isinstance(found, list):
        raise _bad("must be JSON: a list of questions")
    return of_values(found, resolved)


def of_values(values: Sequence[object], resolved: Callable[[str], Place]) -> tuple[Question, ...]:
    """The same, of its questions' values. Raises ItemError."""
    if not 0 < len(values) <= MOST_QUESTIONS:
        raise _bad(f"must have 1 to {MOST_QUESTIONS} questions")
    questions = tuple(_question(each, index, resolved) for index, each in enumerate(values))
    if len({each.name for each in questions}) < len(questions):
        raise _bad("names must differ")
    return questions


def _question(values: Any, index: int, resolved: Callable[[str], Place]) -> Question:
    where = f"question {index}"
    if not isinstance(values, dict) or not values.keys() <= _KEYS:
        raise _bad(f"{where} must be an object of {', '.join(sorted(_KEYS))}")
    said = {key: value for key, value in values.items() if value is not None}
    texts = {key: said.get(key, "") for key in _KEYS - {"refer_to"}}
    if (
        not all(isinstance(each, str) and is_unicode(each) for each in texts.values())
        or not texts["question"].strip()
    ):
        raise _bad(f"{where}: question must be words, as all but refer_to must")
    refer_to = said.get("refer_to")
    if refer_to is not None and (type(refer_to) is not int or not 0 <= refer_to < index):
        raise _bad(f"{where}: refer_to, or a number as reference, must be an earlier question's, from 0")
    if refer_to is not None and texts["reference"]:
        raise _bad(f"{where}: must have refer_to or reference, not both")
    name = texts["name"] or f"round-{index}"
    if not _NAME.fullmatch(name):
        raise _bad(f"{where}: name must be small letters, digits and hyphens")
    mode = said.get("mode")
    if mode not in _MODES or (mode and texts["answer"]):
        raise _bad(f"{where}: mode must be free or grammar, and left out where the answer is given")
    return Question(
        name=name,
        label=(texts["label"] or name)[:_MAX_LABEL],
        question=texts["question"],
        refer_to=refer_to,
        mode=mode,
        answer=texts["answer"] or None,
        reference=_reference(texts, where, resolved),
        truth=uri_of(resolved(texts["truth"])) if texts["truth"] else "",
    )


def _reference(texts: dict[str, str], where: str, resolved: Callable[[str], Place]) -> GivenReference | None:
    if not texts["reference"]:
        if texts["segment"]:
            raise _bad(f"{where}: segment must stand with reference, the SEG's path")
        return None
    try:
        file = examined(resolved(texts["reference"]))
    except ItemError as error:
        raise ItemError("NO_REFERENCE", f"{where}: the mask that it is about cannot be read: {error}") from error
    return GivenReference(file.uri, file.sha256, texts["segment"])


def is_unicode(text: str) -> bool:
    """JSON may hold halves of surrogate pairs, which no file of ours takes."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _bad(words: str) -> ItemError:
    return ItemError("BAD_DIALOGUE", f"dialogue: {words}")
