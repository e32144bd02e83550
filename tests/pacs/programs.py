"""What happens where a program that the tests of this folder start is not there.

Does not know where programs are: ``demo.dicom.programs`` does.
"""

from __future__ import annotations

from typing import NoReturn

from demo.dicom import programs
from tests import required


def unavailable(reason: str) -> NoReturn:
    """Skip; fail where ``MEDIROUND_REQUIRE`` says that these tests must run."""
    required.unavailable("pacs", reason)


def program(name: str) -> str:
    """Its path; the test is skipped, or fails, where it is not installed."""
    try:
        return programs.program(name)
    except programs.MissingProgram as missing:
        unavailable(str(missing))
