"""Reports as JSON that every parser reads.

Knows what becomes of numbers that JSON does not have. Does not know what is reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping


def as_json(report: object) -> str:
    """``report`` as indented text. What is not finite becomes the word "Infinity", "-Infinity" or "NaN"."""
    return json.dumps(_worded(report), indent=2, allow_nan=False)


def _worded(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case Mapping():
            return {key: _worded(each) for key, each in value.items()}
        case list() | tuple():
            return [_worded(each) for each in value]
    return value
