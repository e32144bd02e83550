"""The Triton that serves the plans, and the TensorRT in it: a plan loads in the version that built it alone.

The one place that pairs them: Dockerfile, compose, pyproject.toml and the pages repeat it, and
tests/deploy/test_triton_release.py compares them. How the pair is known: docs/decisions/0012.
"""

from __future__ import annotations

IMAGE = "nvcr.io/nvidia/tritonserver:26.04-py3"
TENSORRT = "10.16.1.11"
"""In ``IMAGE``."""
WHEEL = f"tensorrt-cu13=={TENSORRT}"
"""What builds and checks plans for it."""
