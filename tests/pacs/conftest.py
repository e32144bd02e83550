"""A PACS for the tests of this folder: Debian's Orthanc, where no network is but the loopback.

Every test here has the marker ``pacs``. Outside such a namespace (``loopback-only.sh`` makes one) they are skipped
with the reason, or fail where ``MEDIROUND_REQUIRE`` holds ``pacs``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.dicom.orthanc import Orthanc, orthanc_server
from demo.dicom.programs import MissingProgram
from tests.pacs.programs import unavailable

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.pacs)


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> None:
    """This Orthanc cannot be told to listen on one address, and nothing of a test may leave the machine."""
    if socket.if_nameindex() != [(1, "lo")]:
        unavailable("a network is within reach: sh deploy/loopback-only.sh python -m pytest -m pacs")


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """One for all tests: each has studies of its own."""
    try:
        with orthanc_server(tmp_path_factory.mktemp("orthanc")) as server:
            yield server
    except MissingProgram as missing:
        unavailable(str(missing))
