"""Data sets in the MR-MedSeg form: dialogues about images, with a target mask to every answer.

Knows the JSON's shape and its bracket tokens. Does not open pictures, resolve paths, or know the service.

A data set is a JSON list of items (or one item); an item's ``conversations`` alternate between human and gpt.
A human turn begins with its bracket tokens: ``[IMAGE256:path]`` in the first, ``[MASK-ENCODE:path]`` and
``[BOX-ENCODE:path]`` where ``ind`` names the earlier round that the question refers to. A gpt turn holds
``[MASK-DECODE:path]`` (the target) once; ``[REF-DECODE:path]`` in it is removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mediround._files import BadFile, content

MAX_FILE_BYTES = 2 << 30

_TOKEN = re.compile(r"\[([\w-]+):([^\[\]]*)\]")
_HEAD = re.compile(rf"(?:\s*{_TOKEN.pattern})*")
_OPENED = re.compile(r"\[([\w-]+):")
_HUMAN, _GPT = "human", "gpt"


class DataError(ValueError):
    """A data set, or an item of it, is not in the form; the message says where and what to change."""


@dataclass(frozen=True, slots=True)
class AskedRound:
    """One human turn and the gpt turn that answers it.

    Attributes:
        question: words alone, stripped.
        refer_to: zero-based index of the earlier round whose mask the question is about; None: of none.
        answer: words with ``[SEG]`` in place of the target.
        target: path of the target mask, relative to the data set's root.
    """

    question: str
    refer_to: int | None
    answer: str
    target: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One item of a data set.

    Attributes:
        image: path relative to the data set's root.
        rounds: in the order in which they are asked; at least one.
    """

    image: str
    rounds: tuple[AskedRound, ...]


def read_items(path: Path) -> list[object]:
    """The items of a data set file, each still to be parsed. Raises DataError when the file is no JSON list."""
    try:
        read = content(path, MAX_FILE_BYTES)
    except BadFile as error:
        raise DataError(f"{path}: {error}; split it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); is --data right?") from error
    try:
        found = json.loads(read)
    except RecursionError:
        raise DataError(f"{path}: is nested too deeply to be a data set") from None
    except ValueError as error:  # of JSON, or of UTF-8
        raise DataError(f"{path}: is not JSON ({error})") from error
    items = [found] if isinstance(found, dict) else found
    if not isinstance(items, list) or not items:
        raise DataError(f"{path}: holds no list of dialogues")
    return items


def parse(item: object) -> Dialogue:
    """One item as a dialogue. Raises DataError, naming the turn (counted from 0)."""
    if not isinstance(item, dict):
        raise DataError("is not an object with task and conversations")
    if item.get("task") != "segmentation":
        raise DataError('task is not "segmentation"')
    turns = item.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise DataError("conversations is no list of turns")
    if len(turns) % 2:
        raise DataError(f"conversations holds {len(turns)} turns; human and gpt turns must come in pairs")
    parsed = [_round(turns[i], turns[i + 1], i) for i in range(0, len(turns), 2)]
    tokens, _ = _head(_value(turns[0], _HUMAN, 0), 0)
    return Dialogue(tokens[0][1], tuple(parsed))  # an image: the first round was parsed


def _round(human: object, gpt: object, number: int) -> AskedRound:
    tokens, question = _head(_value(human, _HUMAN, number), number)
    refer_to = _reference(human, number)
    expected = ["IMAGE256"] if number == 0 else []
    if refer_to is not None:
        expected += ["MASK-ENCODE", "BOX-ENCODE"]
    if [name for name, _ in tokens] != expected:
        wanted = "".join(f"[{name}:path]" for name in expected) or "no bracket token"
        found = "".join(f"[{name}:…]" for name, _ in tokens) or "none"
        raise DataError(f"turn {number}: begins with {found}; it must begin with {wanted}")
    if not question:
        raise DataError(f"turn {number}: asks nothing")
    answer, target = _answer(_value(gpt, _GPT, number + 1), number + 1)
    return AskedRound(question, refer_to, answer, target)


def _value(turn: object, speaker: str, number: int) -> str:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
        raise DataError(f"turn {number}: must be an object with a text as value")
    if turn.get("from") != speaker:
        raise DataError(f'turn {number}: is not from "{speaker}"; human and gpt must alternate, human first')
    return str(turn["value"])


def _head(value: str, number: int) -> tuple[list[tuple[str, str]], str]:
    """The bracket tokens (name, path) that a human turn begins with, and the words after them."""
    found = _HEAD.match(value)
    head = found[0] if found else ""
    words = value[len(head) :].strip()
    _refuse_tokens(words, number)
    return _TOKEN.findall(head), words


def _answer(value: str, number: int) -> tuple[str, str]:
    """A gpt turn's words with ``[SEG]``, and its target's path."""
    targets = [path for name, path in _TOKEN.findall(value) if name == "MASK-DECODE"]
    if len(targets) != 1:
        raise DataError(f"turn {number}: holds {len(targets)} [MASK-DECODE:path]; an answer must have one")

    def spoken(token: re.Match[str]) -> str:
        return {"MASK-DECODE": "[SEG]", "REF-DECODE": ""}.get(token[1], token[0])

    answer = _TOKEN.sub(spoken, value)
    _refuse_tokens(answer, number)
    return answer, targets[0]


def _refuse_tokens(words: str, number: int) -> None:
    """Words reach the model as text, so a bracket token that is left among them would be read aloud."""
    if opened := _OPENED.search(words):
        raise DataError(f"turn {number}: [{opened[1]}: is unknown, misplaced or not closed")


def _reference(human: object, number: int) -> int | None:
    referred = human.get("ind") if isinstance(human, Mapping) else None
    if referred is None:
        return None
    if not isinstance(referred, int) or isinstance(referred, bool):
        raise DataError(f"turn {number}: ind must be a whole number")
    if not 0 <= referred < number // 2:
        raise DataError(f"turn {number}: ind {referred} must be the index of an earlier round, counted from 0")
    return referred
