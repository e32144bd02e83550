"""The table of coded terms: every code is PS3.16's, and a phrase is only what it is in those words."""

from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts

from mediround.dicom.results.terms import BOTH, LEFT, RIGHT, TISSUE, UNKNOWN, Code, table, term_of


def known(code: Code) -> bool:
    """Whether pydicom's copy of PS3.16 has this code with this meaning."""
    entries = [entry[code.value] for entry in concepts[code.scheme].values() if code.value in entry]
    return any(entry[0] == code.meaning for entry in entries)


def test_every_code_is_the_standards() -> None:
    codes = {code for term in table().values() for code in (term.category, term.type)} | {
        LEFT,
        RIGHT,
        BOTH,
        TISSUE,
    }
    assert len(codes) > 50
    assert [code for code in codes if not known(code)] == []
    assert not known(Code("42695009", "Thalamus of the left"))


@pytest.mark.parametrize(
    ("phrase", "meaning", "side"),
    [
        ("Left thalamus", "Thalamus", LEFT),
        ("the right kidney.", "Kidney", RIGHT),
        ("both lungs", "Lung", BOTH),
        ("liver", "Liver", None),
        ("A tumour", "Tumor", None),
        ("tumor of the left kidney", "Tissue", None),
        ("left right kidney", "Tissue", None),
        ("liver-like thing", "Tissue", None),
        ("", "Tissue", None),
        ("left", "Tissue", None),
        ("l" * 10**6, "Tissue", None),
    ],
)
def test_a_phrase_means_what_it_says_and_nothing_more(phrase: str, meaning: str, side: Code | None) -> None:
    term = term_of(phrase)
    assert (term.type.meaning, term.side) == (meaning, side)
    assert (term == UNKNOWN) == (meaning == "Tissue")
