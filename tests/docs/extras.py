"""What an environment with some extras of ours holds, and a Python that finds nothing else.

Knows the metadata of what is installed here. Makes no environment: the rest is hidden by an import hook.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY

HOOK = Path(__file__).parent / "hidden"
OURS = {"mediround-serving": ".", "mediround-client": "clients"}
"""Their metadata may be of another day than their requirements: those are read where they are written."""
TOOLS = {"pip", "setuptools", "pkg_resources", "_distutils_hack"}
"""Of every environment."""


def brought(asked: Iterable[str]) -> set[str]:
    """Names of the distributions that these requirements bring, themselves included, as installed here."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(one) for one in asked]
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        todo += _requirements(name, extras)
    return found


def _requirements(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    if name in OURS:
        project = tomllib.loads((REPOSITORY / OURS[name] / "pyproject.toml").read_text())["project"]
        lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
        yield from (Requirement(one) for each in lists for one in each)
        return
    for requirement in _required(name):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


@cache  # what is installed here stays as it is: reading it takes as long as many a command
def _required(name: str) -> list[Requirement]:
    try:
        return [Requirement(one) for one in distribution(name).requires or []]
    except PackageNotFoundError:
        return []


@cache
def _owners() -> Mapping[str, list[str]]:
    """Of each top-level module, the packages that bring it."""
    return packages_distributions()


def hiding(asked: Iterable[str], *directories: str) -> dict[str, str]:
    """Environment variables for a Python that finds only what ``asked`` brings, and modules in ``directories``."""
    allowed = brought(asked)
    hidden = [
        module
        for module, owners in _owners().items()
        if module not in TOOLS and not allowed & {canonicalize_name(owner) for owner in owners}
    ]
    path = os.pathsep.join([str(HOOK), *directories, os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path, "MEDIROUND_TEST_HIDDEN": ",".join(sorted(hidden))}
