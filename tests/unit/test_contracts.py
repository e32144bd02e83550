"""The import contracts of pyproject.toml: they hold, each wrong import breaks them, and nothing escapes them.

Knows the repository's tree, and ``lint-imports`` as `make check` runs it. Does not know what the packages do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
OURS = ("serving", "exporters", "loadtest", "deploy", "demo", "benchmarks", "examples")
ROOT_PACKAGES = {
    **{name: ROOT / name for name in OURS},
    "mediround": ROOT / "clients" / "mediround",
}
LIBRARIES_OF_EVERY_MODULE = {"numpy"}

# Importer, imported, and the line that imports.
PLANTED = [
    ("serving.wave", "grpc", "import grpc"),
    ("serving.runtime.worker", "grpc", "import grpc"),
    ("serving.admission.queue", "serving.stores.sessions", "from serving.stores.sessions import MemorySessions"),
    ("serving.vision.onnx", "serving.orchestrator", "from serving.orchestrator import Orchestrator"),
    ("serving.stores.sessions", "serving.api.service", "from serving.api.service import SegmentationService"),
    ("serving.engines", "exporters.errors", "from exporters.errors import SourceError"),
    ("exporters.checkpoint.model", "exporters.bundle", "from exporters.bundle import write_bundle"),
    ("loadtest.plan", "serving.domain", "from serving.domain import Question"),
    ("mediround.masks", "serving.domain", "from serving.domain import Mask"),
    ("mediround.rle", "mediround.client", "from mediround.client import Client"),
    ("mediround.client", "PIL", "import PIL"),
    ("mediround.image", "pydicom", "import pydicom"),
    ("serving.api.images", "mediround.dicom", "from mediround.dicom import read"),
    ("loadtest.driver", "mediround.testing.script", "from mediround.testing.script import Script"),
    ("examples.fan_out", "serving.domain", "from serving.domain import Mask"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages and of their contracts, that a test may spoil."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, source in ROOT_PACKAGES.items():
        for module in source.rglob("*.py"):
            copy = tmp_path / name / module.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(module, copy)
    return tmp_path


def lint(tree: Path) -> tuple[int, str]:
    """Run ``lint-imports`` on ``tree``; return its exit status and what it printed."""
    program = Path(sys.executable).with_name("lint-imports")
    environment = os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "500"}  # else it wraps what is looked for
    ran = subprocess.run(
        [program, "--no-cache"],
        check=False,
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ran.returncode, ran.stdout + ran.stderr


def plant(tree: Path, importer: str, line: str) -> None:
    with tree.joinpath(*importer.split(".")).with_suffix(".py").open("a") as module:
        module.write(f"\n{line}\n")


def test_contracts_hold(tree: Path) -> None:
    status, printed = lint(tree)

    assert status == 0, printed
    assert " 0 broken." in printed


def test_each_wrong_import_is_caught(tree: Path) -> None:
    for importer, _, line in PLANTED:
        plant(tree, importer, line)
    (tree / "serving" / "helpers.py").write_text('"""A module that nobody gave a layer."""\n')

    status, printed = lint(tree)

    assert status == 1
    assert [
        (importer, imported) for importer, imported, _ in PLANTED if f"{importer} -> {imported} (l." not in printed
    ] == []
    assert "- serving.helpers\n" in printed


def test_every_package_of_ours_is_under_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    packages = {found.parent.name for folder in (ROOT, ROOT / "clients") for found in folder.glob("*/__init__.py")}

    assert set(contracts["root_packages"]) == packages - {"tests"} == set(ROOT_PACKAGES)


def test_every_library_is_under_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    protected = {name for contract in contracts for name in contract.get("protected_modules", [])}
    graph = grimp.build_graph(*ROOT_PACKAGES, include_external_packages=True, cache_dir=None)

    libraries = {name for name in graph.modules if graph.is_module_squashed(name)} - sys.stdlib_module_names

    assert libraries - LIBRARIES_OF_EVERY_MODULE - protected == set()
