"""Which engine a command's arguments name, and which service it asks.

Knows the arguments of ``--engine``. Does not know what commands do with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from mediround.annotate.engines.embedded import embedded
from mediround.annotate.engines.interface import Engine
from mediround.annotate.engines.local import LocalEngine
from mediround.annotate.engines.ray import RayEngine
from mediround.annotate.errors import AnnotateError


@contextmanager
def service(given: argparse.Namespace) -> Iterator[tuple[str, Future[str] | None]]:
    """Its address, while the block runs; of one of its own also why it ended for good, told once it has.

    Raises:
        AnnotateError: there is none of its own, or arguments do not go together.
    """
    if given.engine == "embedded":
        with embedded(given.bundle, given.threads) as own:
            yield own
        return
    if given.bundle is not None or given.threads is not None:
        raise AnnotateError("--bundle and --threads must be left out unless --engine is embedded")
    yield given.server, None


def engine(given: argparse.Namespace, ended: Future[str] | None) -> Engine:
    """``ended``: of the service. Raises AnnotateError: arguments do not go together."""
    if given.engine == "ray":
        return RayEngine(given.ray_address)
    if given.ray_address is not None:
        raise AnnotateError("--ray-address must be left out unless --engine is ray")
    return LocalEngine(ended)
