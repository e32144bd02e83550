"""Bundles for the tests: built by the exporters, once for each state of their sources.

``random_bundle`` is made of random weights, ``golden_bundle`` of the golden checkpoint in ``tests/parity/golden``.
Several processes may run the tests at once (``make test PROCESSES=2``): one of them builds what all need, and
``GROUPS`` says which tests stay together.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from demo.triton.server import Installation, Triton, triton
from serving.bundle import Bundle, load_bundle

REPOSITORY = Path(__file__).parent.parent
BUILT = REPOSITORY / "build" / "test-bundles"
GOLDEN = REPOSITORY / "tests" / "parity" / "golden"


GROUPS = {
    "tests/contract/test_language.py": "vllm",
    "tests/contract/test_vllm.py": "vllm",
    "tests/deploy/": "vllm",  # Prometheus; a process of it scrapes vLLM and Triton
    "tests/llm/test_gpu_runner.py": "vllm",
    "tests/llm/test_true_size.py": "vllm",
    "tests/llm/test_vllm_process.py": "vllm",
    "tests/pacs/": "pacs",  # one Orthanc, one Java
    "tests/parity/": "vllm",
    "tests/unit/llm/": "vllm",  # importing it takes as long as the tests
    "tests/contract/test_vision.py": "triton",
    "tests/triton/": "triton",
    "tests/unit/runtime/test_slab.py": "triton",  # shared memory of this host: one sweeps what another left
    "tests/loadtest/": "load",
    "tests/service/test_load.py": "load",
    "tests/examples/": "examples",  # one server for all
    "tests/unit/exporters/": "exporters",  # one checkpoint and its networks for all
}
"""Tests that one process of several runs, by the beginning of their path. Of the rest, each file is a group."""


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which is not everywhere
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """By GROUPS; its own, by marks, does nothing under pytest 9.2 (pytest-xdist 3.8.0), and says nothing."""
    scheduler = import_module("xdist.scheduler").LoadScopeScheduling(config, log)
    scheduler._split_scope = _group
    return scheduler


def _group(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    return next((name for beginning, name in GROUPS.items() if path.startswith(beginning)), path)


@pytest.fixture(scope="session")
def random_bundle() -> Bundle:
    """Random weights, tiny sizes, with a judge."""
    return load_bundle(_built("random", _sources_digest()))


@pytest.fixture(scope="session")
def vit_b_bundle() -> Bundle:
    """Random weights, the image half at its published size (40 s and 0.8 GB when its sources have changed)."""
    return load_bundle(_built("vit-b", _sources_digest(), size="vit_b"))


@pytest.fixture(scope="session")
def golden_directory() -> Path:
    """The golden checkpoint, its data set and what the published code computed of it."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden_bundle(golden_directory: Path) -> Bundle:
    digest = hashlib.sha256(_sources_digest().encode())
    for path in sorted(golden_directory.glob("**/*")):
        if path.is_file() and path.suffix in {".bin", ".safetensors", ".json", ".model"}:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return load_bundle(_built("golden", digest.hexdigest(), golden_directory))


@pytest.fixture(scope="session")
def installation() -> Installation:
    """Of the real Triton server."""
    found = Installation(REPOSITORY / "build" / "triton")
    if not found.complete:
        pytest.skip("Triton is not installed: make env-triton")
    return found


@pytest.fixture(scope="session")
def random_repository(random_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random bundle as Triton's model repository."""
    return _repository(random_bundle, tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def random_triton(
    installation: Installation, random_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """A real Triton that serves the random bundle, for all tests that do it no harm."""
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    with triton(random_repository, log, installation=installation) as server:
        yield server


@pytest.fixture(scope="session")
def golden_triton(
    installation: Installation, golden_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """A real Triton that serves the golden bundle, under the published model's configurations."""
    directory = tmp_path_factory.mktemp("golden")
    with triton(
        _repository(golden_bundle, directory), directory / "triton.log", installation=installation
    ) as server:
        yield server


def _repository(bundle: Bundle, directory: Path) -> Path:
    out = directory / "repository"
    _exporters("repository", "--bundle", str(bundle.directory), "--out", str(out))
    return out


def _built(name: str, key: str, source: Path | None = None, size: str = "tiny") -> Path:
    """The bundle's directory; it appears there only when it is complete."""
    directory = BUILT / f"{name}-{key[:16]}"
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building it; then this one waits
        if not directory.is_dir():
            with tempfile.TemporaryDirectory(dir=BUILT) as work:
                checkpoint = source or _random_checkpoint(Path(work) / "checkpoint", size)
                export_bundle(checkpoint, Path(work) / "bundle")
                (Path(work) / "bundle").rename(directory)
    return directory


def _random_checkpoint(out: Path, size: str) -> Path:
    _exporters("random", "--size", size, "--seed", "1", "--out", str(out))
    return out


def export_bundle(checkpoint: Path, out: Path, *more: str) -> None:
    base, clip = str(checkpoint / "llava_med"), str(checkpoint / "clip")
    _exporters("bundle", "--checkpoint", str(checkpoint), "--base", base, "--clip", clip, "--out", str(out), *more)


def _exporters(*arguments: str) -> None:
    command = [sys.executable, "-m", "exporters", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command[1:])} failed:\n{done.stdout}{done.stderr}", pytrace=False)


def _sources_digest() -> str:
    """Of the code that decides what is in a bundle."""
    digest = hashlib.sha256()
    for path in [REPOSITORY / "serving" / "bundle.py", *sorted((REPOSITORY / "exporters").rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
