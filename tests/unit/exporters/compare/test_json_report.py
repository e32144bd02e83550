"""Reports that any JSON parser reads."""

from __future__ import annotations

import json
from math import inf, nan

import pytest

from exporters.compare.json_report import as_json


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_what_is_not_finite_is_a_word() -> None:
    report = {"drift": inf, "figures": {"cosine": nan, "least": [-inf, 0.5]}, "masks": 3, "layer": None}
    assert json.loads(as_json(report), parse_constant=refuse) == {
        "drift": "Infinity",
        "figures": {"cosine": "NaN", "least": ["-Infinity", 0.5]},
        "masks": 3,
        "layer": None,
    }


def test_a_number_that_it_overlooks_is_no_silent_infinity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({inf: 1})
