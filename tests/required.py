"""What happens where a program that tests start is not there: they are skipped, or fail where it is required.

``MEDIROUND_REQUIRE`` names what is, with commas between: ``pacs`` (Orthanc, dcmtk, Java), ``browser`` (Chromium),
``s3`` (moto).
"""

from __future__ import annotations

import os
import shutil
from typing import Literal, NoReturn

import pytest


def unavailable(kind: Literal["pacs", "browser", "s3"], reason: str) -> NoReturn:
    """Skip; fail where ``MEDIROUND_REQUIRE`` says that these tests must run."""
    if kind in os.environ.get("MEDIROUND_REQUIRE", "").split(","):
        pytest.fail(f"MEDIROUND_REQUIRE has {kind}, but {reason}", pytrace=False)
    pytest.skip(reason)


def browser_program(name: Literal["chromium", "chromedriver"]) -> str:
    """Its path; the test is skipped, or fails, where it is not installed."""
    found = shutil.which(name)
    if found is None:
        unavailable("browser", f"{name} is not installed: Debian's packages chromium and chromium-driver")
    return found
