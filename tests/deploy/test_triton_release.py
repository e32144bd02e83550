"""Triton's image and the TensorRT in it are paired in one module; whatever repeats them says the same."""

from __future__ import annotations

import re

from exporters.tensorrt.triton_release import IMAGE, TENSORRT, WHEEL
from tests.conftest import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md"))]
"""Without the decisions: they keep what was known when."""
FILES = [
    REPOSITORY / "Dockerfile",
    REPOSITORY / "Makefile",
    REPOSITORY / "deploy" / "compose.yaml",
    REPOSITORY / "pyproject.toml",
    *PAGES,
]


def found(pattern: str) -> dict[str, set[str]]:
    """What each file says where it says anything."""
    said = {str(path.relative_to(REPOSITORY)): set(re.findall(pattern, path.read_text())) for path in FILES}
    return {name: values for name, values in said.items() if values}


def test_one_image() -> None:
    images = found(r"nvcr\.io/nvidia/tritonserver:[\w.-]+")
    assert "Dockerfile" in images
    assert set.union(*images.values()) == {IMAGE}


def test_one_tensorrt() -> None:
    wheels = found(r"\btensorrt(?:-cu13)?==\d[\d.]*")
    assert "pyproject.toml" in wheels
    assert set.union(*wheels.values()) == {WHEEL}
    defaults = found(r"MEDIROUND_TENSORRT(?::-|` \| .* \| )([\d.]+)")
    assert defaults == {"deploy/compose.yaml": {TENSORRT}, "docs/deployment.md": {TENSORRT}}


def test_plans_on_the_pages_are_named_for_it() -> None:
    named = found(r"-trt(\d[\d.]*\d)-")
    assert set.union(*named.values()) == {TENSORRT}
