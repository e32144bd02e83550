"""A service of one's own beside the run: for a workstation without a server.

The package mediround-serving registers it as an entry point. Knows how it is found, and what must be installed
where it is not. Does not import it, nor know how it is started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias

from mediround.annotate.errors import AnnotateError

GROUP, NAME = "mediround.engines", "embedded"
_INSTALL = "in the repository, pip install ./clients '.[cpu]'"
_Service: TypeAlias = Callable[[Path, int | None], AbstractContextManager[tuple[str, Future[str]]]]


@contextmanager
def embedded(bundle: Path | None, threads: int | None = None) -> Iterator[tuple[str, Future[str]]]:
    """A service of this bundle, which ends with the block, and with this process: its address, and why it ended
    for good, which is told once it has. One that ends by itself is started again.

    Args:
        bundle: a model's folder.
        threads: of each half within an operator; None: the CPUs that this process may use.

    Raises:
        AnnotateError: there is no bundle, the service is not installed, or it did not start.
    """
    if bundle is None:
        raise AnnotateError(
            "--engine embedded must have --bundle DIR, a model's folder (in the repository, models/mediround-lite)"
        )
    with ExitStack() as stack:
        try:
            service = stack.enter_context(_service()(bundle, threads))
        except RuntimeError as error:
            raise AnnotateError(f"--engine embedded: {error}") from error
        yield service


def _service() -> _Service:
    found = entry_points(group=GROUP, name=NAME)
    if not found:
        raise AnnotateError(f"--engine embedded needs the package mediround-serving beside this one: {_INSTALL}")
    try:
        service: _Service = found[NAME].load()
    except ImportError as error:
        raise AnnotateError(f"--engine embedded: mediround-serving lacks {error.name}: {_INSTALL}") from error
    return service
