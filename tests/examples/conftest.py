"""One server with the bundled model, for all that integrators copy from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mediround.testing import serve

REPOSITORY = Path(__file__).parents[2]
BUNDLE = REPOSITORY / "models" / "mediround-lite"


@pytest.fixture(scope="package")
def address() -> Iterator[str]:
    with serve(bundle=BUNDLE) as server:
        yield server.address
