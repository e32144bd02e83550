"""The pages, and the commands in their fenced shell blocks.

Knows Markdown's fences. Does not know what a command does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "clients/README.md",
    REPOSITORY / "models/mediround-lite/MODEL_CARD.md",
    *sorted(REPOSITORY.glob("docs/**/*.md")),
    *sorted(REPOSITORY.glob("examples/**/*.md")),
]
SHELL = {"bash", "sh", "shell", "console"}
_FENCE = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(
    r"^(?:    |\$ )?(?:\.venv/bin/|uv )?(?:python3?|make|pip|mediround|docker|tritonserver)\s", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced shell block."""

    page: Path
    number: int
    """From 1, on its page."""
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.number}"


def blocks(pages: list[Path] = PAGES) -> list[Block]:
    return [
        Block(page, number, tuple(commands(text)))
        for page in pages
        for number, (language, text) in enumerate(fences(page.read_text()), start=1)
        if language in SHELL
    ]


def fences(text: str) -> list[tuple[str, str]]:
    """Language and text of each fence."""
    return [(found[2], found[3]) for found in _FENCE.finditer(text)]


def commands(text: str) -> Iterator[str]:
    """Of a block: each on one line, without prompt and comment."""
    for line in text.replace("\\\n", " ").splitlines():
        words = re.sub(r"\s+", " ", _without_comment(line)).strip().removeprefix("$ ")
        if words:
            yield words


def links(text: str) -> list[str]:
    """Files that the page links to, relative to it."""
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", _FENCE.sub("", text))
    return [link for link in found if "://" not in link]


def unfenced(text: str) -> list[str]:
    """Commands outside of shell fences: in a fence without a language, or indented."""
    outside = _FENCE.sub("", text)
    plain = [body for language, body in fences(text) if not language]
    indented = ["\n".join(line for line in outside.splitlines() if line.startswith("    "))]
    return [found[0].strip() for each in [*plain, *indented] for found in _COMMAND.finditer(each)]


def _without_comment(line: str) -> str:
    """Where a shell would see a comment begin."""
    words = shlex.shlex(line, posix=False, punctuation_chars=False)
    words.whitespace_split, words.commenters = True, ""
    at = 0
    for word in words:
        at = line.index(word, at)
        if word.startswith("#"):
            return line[:at]
        at += len(word)
    return line
