"""What happens where a program that the tests of this folder start is not there.

Does not know where programs are: ``demo.dicom.programs`` does.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from demo.dicom import programs


def unavailable(reason: str) -> NoReturn:
    """Skip; fail where ``MEDIROUND_REQUIRE`` says that these tests must run."""
    if "pacs" in os.environ.get("MEDIROUND_REQUIRE", "").split(","):
        pytest.fail(f"MEDIROUND_REQUIRE has pacs, but {reason}", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str:
    """Its path; the test is skipped, or fails, where it is not installed."""
    try:
        return programs.program(name)
    except programs.MissingProgram as missing:
        unavailable(str(missing))
