"""The benchmarks can be run: the cheap one is, of the others what can be shown without measuring."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from serving.bundle import Bundle
from tests.conftest import REPOSITORY

COMMANDS = (
    "__main__",
    "annotate",
    "annotate_scale",
    "attention.__main__",
    "ceiling.__main__",
    "choices",
    "encoders",
    "first_mask",
    "hop",
    "knee",
    "language.__main__",
    "overhead",
    "sessions",
    "stores",
    "telemetry",
    "triton",
    "true_size.__main__",
)
MODULES = (
    "attention.encode",
    "ceiling.front_end",
    "ceiling.instant",
    "ceiling.load",
    "published",
    "service",
    "workload",
)
"""Parts of the commands, run in processes of their own."""


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_measures(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.startswith("language") and importlib.util.find_spec("transformers") is None:
        pytest.skip("the plain loop needs transformers, which comes with vLLM: make env-vllm")
    command = import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    assert "--out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("annotate", ["--images", "1"], "--images must be at least 2"),
        ("choices", ["--case", "chain:5:2"], "--case must ask 1 at once"),
        ("encoders", ["--root", "."], "--root and --dialogues must be left out unless --data is given"),
        ("knee", ["--rate", "2"], "--rate must be left out unless --profile is given"),
        ("knee", ["--rate", "2", "--profile", "p", "--least", "1"], "--least and --precision must be left out"),
        ("language.__main__", ["--batch-invariant"], "--batch-invariant must be left out unless --gpu is given"),
    ],
)
def test_an_option_that_nothing_would_take_is_refused_by_name(
    name: str, flags: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.startswith("language") and importlib.util.find_spec("transformers") is None:
        pytest.skip("the plain loop needs transformers, which comes with vLLM: make env-vllm")
    monkeypatch.setattr(sys, "argv", [name, *flags])
    with pytest.raises(SystemExit) as ended:
        import_module(f"benchmarks.{name}").main()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", MODULES)
def test_each_part_is_there(name: str) -> None:
    assert import_module(f"benchmarks.{name}").__doc__


def test_no_benchmark_is_left_out() -> None:
    root = REPOSITORY / "benchmarks"
    commands = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in root.rglob("*.py")
        if "\ndef main() -> " in path.read_text()
    }
    assert commands == set(COMMANDS)
    performance = (REPOSITORY / "docs" / "performance.md").read_text()
    unsaid = [name for name in commands if f"benchmarks.{name}".removesuffix(".__main__") not in performance]
    assert unsaid == []


def test_the_encoders_are_compared(
    random_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import encoders  # noqa: PLC0415  # beside its run

    asked = ["--bundle", str(random_bundle.directory), "--repeats", "1", "--threads", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["encoders", *asked])
    encoders.main()
    reference, *others = json.loads((tmp_path / "encoders.json").read_text())
    assert reference["runtime"] == "onnxruntime/CPUExecutionProvider"
    assert (reference["ratio"], reference["problems"], reference["figures"]["flipped_share"]) == (1.0, [], 0.0)
    assert [row["runtime"] for row in others][:1] == ["openvino/f32"]  # bf16: on CPUs that have it
    assert others[0]["problems"] == []
    assert all(0 < row["share"] < 5 and row["peak_bytes"] > 1 << 26 for row in (reference, *others))
    table = (tmp_path / "encoders.md").read_text()
    assert table.count("\n") == 3 + len(others)
    assert table in capsys.readouterr().out


def test_choices_are_compared(
    random_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of this process's own installation; vLLM and Triton are started by their own tests."""
    from benchmarks import choices  # noqa: PLC0415  # beside its run

    own = [way for way in choices.SERVED if way.engine is None and way.vision == "onnx"]
    monkeypatch.setattr(choices, "SERVED", (*own, choices.Served("bad", "no such runtime")))
    asked = [
        "--bundle",
        str(random_bundle.directory),
        "--case",
        "star:3:1",
        "--repeats",
        "1",
        "--out",
        str(tmp_path),
    ]
    monkeypatch.setattr(sys, "argv", ["choices", *asked])
    choices.main()
    told = capsys.readouterr().out
    name = f"choices-{random_bundle.directory.name}"
    assert (tmp_path / f"{name}.md").read_text() in told
    assert "left out: known in advance, bad: " in told
    rows = json.loads((tmp_path / f"{name}.json").read_text())
    assert [row["way"] for row in rows[:4]] == [
        "published protocol",
        "published protocol, embedding kept",
        "plain loop: a call a round",
        "known in advance, ONNX Runtime",
    ]
    assert rows[0]["ratio"] == 1.0
    assert all(row["seconds"] > 0 and 0 < row["share"] < 5 for row in rows)


def test_attention_on_a_gpu_is_refused_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before minutes of exports."""
    command = import_module("benchmarks.attention.__main__")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["attention", "--gpu", "--out", str(tmp_path)])
    assert command.main() == 2
    assert "no nvidia-smi here" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
