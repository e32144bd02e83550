"""References in prose: what docs, docstrings and comments name of this repository is there.

Knows code spans (backquotes), links, paths. Imports nothing: a dotted name is a path, and a definition there.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.unit.test_house import bound_names

ROOT = Path(__file__).parents[2]
PARENTS = {
    **dict.fromkeys(["serving", "exporters", "loadtest", "deploy", "demo", "benchmarks", "tests"], ROOT),
    "mediround": ROOT / "clients",
    "training": ROOT / "models" / "mediround-lite",
}
TOP = f"(?:{'|'.join(PARENTS)})"
DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "clients/*.md", "examples/**/*.md", "models/*/*.md")
    for path in ROOT.glob(pattern)
]
SOURCES = [
    path
    for package, parent in PARENTS.items()
    for path in (parent / package).rglob("*.py")
    if "_pb2" not in path.name
]
SETTINGS = [
    *(ROOT / name for name in ("Makefile", "Dockerfile", "pyproject.toml", "clients/pyproject.toml", ".ci/run")),
    *ROOT.glob("deploy/**/*.y*ml"),
    *ROOT.glob("loadtest/scenarios/*.toml"),
    *ROOT.glob("protos/**/*.proto"),
]
OTHER_NAMES = {
    "serving.rounds",  # a logger
    "mediround.v1.SegmentationService",  # the contract's, in protobuf's notation
    "mediround.internal.v1",
}


def spans(path: Path) -> Iterator[str]:
    """What stands between backquotes, double ones in Python."""
    yield from re.findall(r"``([^`\n]+)``" if path.suffix == ".py" else r"`([^`\n]+)`", path.read_text())


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def definitions(module: Path) -> frozenset[str]:
    return frozenset(name for name, _ in bound_names(ast.parse(module.read_text())))


def exists(name: str) -> bool:
    """Whether a dotted name is a package, a module, or a definition in one; deeper attributes are not followed."""
    parts = name.split(".")
    place = PARENTS[parts[0]]
    for number, part in enumerate(parts):
        module = place / f"{part}.py"
        if module.is_file():
            return number + 1 == len(parts) or parts[number + 1] in definitions(module)
        if not (place / part).is_dir():
            return part in definitions(place / "__init__.py")
        place /= part
    return True


def runs(name: str) -> bool:
    """Whether ``python -m name`` finds a program."""
    place = PARENTS[name.partition(".")[0]].joinpath(*name.split("."))
    return (place / "__main__.py").is_file() or place.with_suffix(".py").is_file()


def test_dotted_names_exist() -> None:
    dotted = re.compile(rf"(?<![\w./:-]){TOP}(?:\.[A-Za-z_]\w*)+(?![\w/-])")
    names = {
        (where(path), name)
        for path in [*DOCUMENTS, *SOURCES]
        for span in spans(path)
        for name in dotted.findall(span)
        if not re.search(r"\.(py|md|toml|json|yaml|html|log)$", name) and name not in OTHER_NAMES
    }

    assert len(names) > 100
    assert sorted((path, name) for path, name in names if not exists(name)) == []


def test_commands_exist() -> None:
    """``python -m``, in fenced blocks and settings as well, and as a list in Dockerfile and compose."""
    command = re.compile(rf"""-m[" ,]+({TOP}(?:\.[a-z_]\w*)*)""")
    commands = {
        (where(path), name)
        for path in [*DOCUMENTS, *SOURCES, *SETTINGS]
        for name in command.findall(path.read_text())
    }

    assert len(commands) > 50
    assert sorted((path, name) for path, name in commands if not runs(name)) == []


def test_paths_exist() -> None:
    """Code spans that are a path as a whole, and files by their ending anywhere. Wildcards are not followed."""
    top = rf"(?:{TOP}|clients|docs|examples|models|model_repository|protos)"
    whole = re.compile(rf"{top}/[\w./-]+")
    file = re.compile(rf"(?<![\w./~}}-]){top}/[\w./-]+\.(?:py|pyi|md|toml|ya?ml|sh|proto)(?!\w)")
    paths = {(path, span) for path in [*DOCUMENTS, *SOURCES] for span in spans(path) if whole.fullmatch(span)} | {
        (path, name) for path in [*DOCUMENTS, *SOURCES, *SETTINGS] for name in file.findall(path.read_text())
    }

    assert len(paths) > 100
    assert (
        sorted(
            (where(path), name)
            for path, name in paths
            if not any((place / name).exists() for place in {ROOT, *PARENTS.values()})
        )
        == []
    )


def test_links_lead_somewhere() -> None:
    links = {
        (path, target)
        for path in DOCUMENTS
        for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)", path.read_text())
    }

    assert links
    assert sorted((where(path), target) for path, target in links if not (path.parent / target).exists()) == []


def test_raised_errors_exist() -> None:
    """The names before the colons of a docstring's ``Raises:``, ours or Python's."""
    known = frozenset(vars(builtins)).union(*(definitions(path) for path in SOURCES))
    sections = {
        (path, section)
        for path in SOURCES
        for section in re.findall(r"Raises:\n((?:\s+\S.*\n)+?)\s*\"", path.read_text())
    }
    names = {
        (where(path), name)
        for path, section in sections
        for line in re.findall(r"^\s+([A-Z]\w+(?:, [A-Z]\w+)*): ", section, re.M)
        for name in line.split(", ")
    }

    assert len(names) > 20
    assert sorted((path, name) for path, name in names if name not in known) == []
