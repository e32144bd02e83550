"""The house rules that a machine can see: sizes, names and docstrings, read from the source by ``ast``.

Knows the limits in CONTRIBUTING.md. Who imports whom is ``tests.unit.test_contracts``'s. Imports nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["serving", "exporters", "loadtest", "clients/mediround", "demo", "benchmarks", "deploy", "examples"]
GENERATED = {"clients/mediround/v1", "serving/llm/v1"}


def modules(package: str) -> dict[str, ast.Module]:
    """The package's modules, generated ones excepted, by their path from the root."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in paths
        if str(path.parent.relative_to(ROOT)) not in GENERATED
    }


def function_lengths(package: str) -> list[tuple[int, str]]:
    """Lines of each function from ``def`` to its last, shortest first, with where it is."""
    return sorted(
        ((node.end_lineno or node.lineno) - node.lineno + 1, f"{path}:{node.lineno} {node.name}")
        for path, module in modules(package).items()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def bound_names(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that the module binds, with its line: variables, attributes, parameters, definitions, imports."""
    for node in ast.walk(module):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name)
            ):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.alias(name=name, asname=asname):
                yield asname or name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno


@pytest.mark.parametrize("package", PACKAGES)
def test_files_are_short(package: str) -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in modules(package)}

    assert {path: length for path, length in lengths.items() if length > 300} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_short(package: str) -> None:
    assert [(length, where) for length, where in function_lengths(package) if length > 50] == []


def test_nine_functions_of_ten_have_20_lines_at_most() -> None:
    lengths = sorted(length for package in PACKAGES for length, _ in function_lengths(package))

    assert lengths[len(lengths) * 9 // 10] <= 20


def test_serving_has_few_rooms() -> None:
    assert len(list((ROOT / "serving").glob("*.py"))) <= 22


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_it_is(package: str) -> None:
    """The packages themselves and all below, generated ones among them: ruff does not read those."""
    packages = [ast.parse(path.read_text()) for path in (ROOT / package).rglob("__init__.py")]

    assert packages
    assert all(ast.get_docstring(module) for module in packages)


def test_two_participles_name_nothing_in_serving() -> None:
    """``said`` and ``told`` stood for settings, results, log records and flags alike."""
    found = [
        f"{path}:{line} {name}"
        for path, module in modules("serving").items()
        for name, line in bound_names(module)
        if name in {"said", "told"}
    ]

    assert found == []
