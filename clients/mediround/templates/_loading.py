"""Templates from files and text, and those that this package ships.

Knows TOML, the whole form, and where shipped ones lie. Does not know who asks them.
"""

from __future__ import annotations

import hashlib
import json
import stat
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import cast

from mediround._rounds import Mode
from mediround.errors import InvalidArgument
from mediround.templates._form import MAX_BYTES, MAX_QUESTIONS, SEG, Section, TemplateError, marker_in
from mediround.templates._template import Question, Template
from mediround.window import FUNCTIONS, Function, Window

_SUFFIX = ".toml"
_FILE = "the file"
_MOST_DOTS = 1000
"""Of a file: a dotted key of 20,000 parts takes the parser ten seconds."""
_KEYS = ("name", "description", "modality", "body_part", "plane", "model", "mode", "window", "questions")
_PLANES, _MODES = ("axial", "coronal", "sagittal"), ("free", "grammar")


def available() -> tuple[str, ...]:
    """Names of the templates that this package ships, sorted."""
    shipped = resources.files(__package__).joinpath("shipped")
    names = (each.name for each in shipped.iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)))


def load(template: str | PathLike[str]) -> Template:
    """A template by its path, or one that is shipped by its name.

    Raises:
        TemplateError: there is none, or it is not in the form; the message names file, key and fix.
    """
    if isinstance(template, str) and not template.endswith(_SUFFIX) and "/" not in template:
        if template not in available():
            words = f"no template of that name is shipped; there are {', '.join(available())}, or give a path"
            raise TemplateError("template", [("name", words)])
        content = resources.files(__package__).joinpath("shipped", template + _SUFFIX).read_bytes()
        return loads(content, template + _SUFFIX)
    path = Path(template)
    return loads(_content(path), path.name)


def loads(content: str | bytes, source: str = "template") -> Template:
    """A template from its text; ``source`` stands for the file in errors. Raises TemplateError."""
    values = _parsed(content, source)
    problems: list[tuple[str, str]] = []
    section = Section(values, "", problems)
    section.known(*_KEYS)
    head = {
        "name": section.name("name"),
        "description": section.text("description", needed=False) or "",
        "modality": section.code("modality"),
        "body_part": section.code("body_part"),
        "plane": section.choice("plane", _PLANES),
        "model": section.text("model", most=64),
        "mode": cast(Mode | None, section.choice("mode", _MODES)),
        "window": _window(section.section("window")),
    }
    questions = _questions(section)
    if problems:
        raise TemplateError(source, problems)
    template = Template(**head, questions=questions, digest="")  # type: ignore[arg-type]  # each is there: no problems
    said = json.dumps(asdict(template), sort_keys=True)
    return Template(**head, questions=questions, digest=hashlib.sha256(said.encode()).hexdigest())  # type: ignore[arg-type]  # as above


def _content(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise TemplateError(path.name, [(_FILE, "must be a file")])
        if found.st_size > MAX_BYTES:
            raise TemplateError(path.name, [(_FILE, f"must hold at most {MAX_BYTES} bytes")])
        return path.read_bytes()
    except FileNotFoundError:
        raise TemplateError(path.name, [(_FILE, "is missing; is the path right?")]) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise TemplateError(path.name, [(_FILE, f"cannot be read ({type(error).__name__})")]) from None


def _parsed(content: str | bytes, source: str) -> object:
    try:
        text = content if isinstance(content, str) else content.decode()
        if len(text) > MAX_BYTES:
            raise TemplateError(source, [(_FILE, f"must hold at most {MAX_BYTES} bytes")])
        if text.count(".") > _MOST_DOTS:
            raise TemplateError(source, [(_FILE, f"must hold at most {_MOST_DOTS} full stops")])
        return tomllib.loads(text)
    except UnicodeDecodeError:
        raise TemplateError(source, [(_FILE, "must be UTF-8")]) from None
    except RecursionError:
        raise TemplateError(source, [(_FILE, "is nested too deeply to be a template")]) from None
    except tomllib.TOMLDecodeError as error:
        raise TemplateError(source, [(_FILE, f"must be TOML: {error}")]) from None


def _window(section: Section | None) -> Window | None:
    if section is None:
        return None
    section.known("center", "width", "function")
    center, width = section.number("center"), section.number("width")
    function = cast(Function, section.choice("function", FUNCTIONS) or "LINEAR")
    if center is None or width is None:
        return None
    try:
        return Window(center, width, function)
    except InvalidArgument as error:
        section.refuse("width", error.violations[0].description)
        return None


def _questions(section: Section) -> tuple[Question, ...]:
    sections = section.sections("questions", MAX_QUESTIONS)
    questions: list[Question] = []
    names = [each.name("name") for each in sections]
    for index, each in enumerate(sections):
        each.known("name", "label", "question", "refer_to", "answer")
        name, words = names[index], _words(each)
        if name is not None and name in names[:index]:
            each.refuse("name", f"must differ from the others': questions[{names.index(name)}] is {name}, too")
        label = each.text("label", most=64, needed=False) or (name or "").replace("-", " ")
        if marker := marker_in(label):
            each.refuse("label", f"must not hold the reserved marker {marker}")
        refer_to = _reference(each, names, index)
        answer = _answer(each)
        questions.append(Question(name or "", label, words, refer_to, answer))
    return tuple(questions)


def _words(section: Section) -> str:
    words = section.text("question") or ""
    if marker := marker_in(words):
        section.refuse("question", f"must not hold the reserved marker {marker}; rephrase it")
    return words


def _reference(section: Section, names: Sequence[str | None], index: int) -> str | None:
    referred = section.text("refer_to", most=64, needed=False)
    if referred is None or referred in names[:index]:
        return referred
    if referred in names[index:]:
        place = (
            "itself" if referred == names[index] else f"questions[{names.index(referred)}], which is asked later"
        )
        section.refuse("refer_to", f"must name an earlier question; it names {place}")
    else:
        earlier = ", ".join(filter(None, names[:index])) or "none: this is the first"
        section.refuse("refer_to", f"must name an earlier question ({earlier})")
    return None


def _answer(section: Section) -> str | None:
    answer = section.text("answer", needed=False)
    if answer is None:
        return None
    before, marker, after = answer.partition(SEG)
    if not marker or SEG in after:
        section.refuse("answer", f'must hold {SEG} exactly once, for example "It is the left thalamus {SEG}."')
    elif reserved := marker_in(before) or marker_in(after):
        section.refuse("answer", f"must not hold the reserved marker {reserved} beside {SEG}; rephrase it")
    return answer
