"""Coded terms of structures: what a phrase means, where it means one thing.

Knows the table (``terms.toml``) and words of side. Guesses nothing: a phrase that the table lacks is tissue.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Code:
    """A code of PS3.16.

    Attributes:
        value: Code Value.
        meaning: Code Meaning.
        scheme: Coding Scheme Designator.
    """

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True, slots=True)
class Term:
    """What a structure is.

    Attributes:
        category: Segmented Property Category.
        type: Segmented Property Type.
        side: left, right or both; None where the phrase does not say, or the type says it.
    """

    category: Code
    type: Code
    side: Code | None = None


LEFT, RIGHT, BOTH = Code("7771000", "Left"), Code("24028007", "Right"), Code("51440002", "Bilateral")
TISSUE = Code("85756007", "Tissue")
UNKNOWN = Term(TISSUE, TISSUE)
"""Of a phrase that the table lacks."""
_CATEGORIES = {
    "anatomy": Code("91723000", "Anatomical Structure"),
    "lesion": Code("49755003", "Morphologically Abnormal Structure"),
}
_SIDES = {"left": LEFT, "right": RIGHT, "both": BOTH, "bilateral": BOTH}
_MOST_CHARACTERS = 256
"""Of a phrase that can be in the table, with room."""


def term_of(phrase: str) -> Term:
    """What the phrase means; ``UNKNOWN`` where the table does not have it in these words."""
    words = re.findall(r"\w+", phrase[:_MOST_CHARACTERS].lower())
    words = [word for word in words if word not in {"the", "a", "an"}]
    sides = {_SIDES[word] for word in words if word in _SIDES}
    found = table().get(" ".join(word for word in words if word not in _SIDES))
    if found is None or len(sides) > 1:
        return UNKNOWN
    return Term(found.category, found.type, *sides)


@functools.cache
def table() -> dict[str, Term]:
    """The terms, by phrase."""
    text = resources.files(__package__).joinpath("terms.toml").read_text("utf-8")
    return {
        phrase: Term(_CATEGORIES[category], Code(*entry.split(" ", 1)))
        for category, entries in tomllib.loads(text).items()
        for entry, phrases in entries.items()
        for phrase in phrases
    }
