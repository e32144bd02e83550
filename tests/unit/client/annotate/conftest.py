"""One headless Chromium for the tests of reports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.required import browser_program
from tests.unit.client.annotate.reader import Reader, reader


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    programs = browser_program("chromium"), browser_program("chromedriver")
    with reader(*programs, tmp_path_factory.mktemp("downloads")) as running:
        yield running
