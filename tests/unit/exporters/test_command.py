"""What ``python -m exporters bundle`` makes of its flags; no checkpoint is read."""

from __future__ import annotations

import pytest

from exporters import __main__ as command
from exporters.bundle import Choices
from exporters.cli import bundle
from exporters.errors import SourceError
from serving.bundle import load_bundle
from tests.conftest import REPOSITORY

BUNDLE = ["bundle", "--checkpoint", "c", "--base", "b", "--clip", "v", "--out", "o"]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[Choices]:
    """The choices of each bundle that would be written."""
    seen: list[Choices] = []

    def stop(_sources: object, choices: Choices, *_more: object) -> None:
        seen.append(choices)
        raise SourceError("nothing is read")

    monkeypatch.setattr(bundle, "write_bundle", stop)
    return seen


@pytest.mark.parametrize(
    ("flags", "trained", "mode"),
    [
        ([], True, "forced"),
        (["--default-mode", "free"], True, "free"),
        (["--template-untrained"], False, "free"),
    ],
)
def test_a_template_counts_as_trained_unless_it_is_said_not_to_be(
    chosen: list[Choices], flags: list[str], trained: bool, mode: str
) -> None:
    assert command.main([*BUNDLE, *flags]) == 2
    assert (chosen[0].template_trained, chosen[0].default_mode) == (trained, mode)


def test_a_default_that_could_not_be_asked_is_refused_before_anything_is_read(
    chosen: list[Choices], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*BUNDLE, "--template-untrained", "--default-mode", "forced"]) == 2
    assert "--default-mode forced needs a trained template" in capsys.readouterr().err
    assert not chosen


def test_the_bundled_models_say_what_they_were_trained_on() -> None:
    lite = load_bundle(REPOSITORY / "models" / "mediround-lite").manifest.answers
    assert (lite.template_trained, lite.default_mode) == (False, "free")


LITE = ["--bundle", str(REPOSITORY / "models" / "mediround-lite")]
VISION = ["vision", *LITE, "--precision", "fp16", "--out", "o"]
TENSORRT = ["tensorrt", "--repository", "r"]
BOTH_ELSEWHERE = ["--language", "vllm-cpu", "--vision", "triton://127.0.0.1:1"]
RECORD = ["record", *LITE, "--data", "d", "--root", ".", "--out", "o", *BOTH_ELSEWHERE]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([*VISION, "--root", "."], "--root must be left out unless --data is given"),
        ([*VISION, "--dialogues", "3"], "--dialogues must be left out unless --data is given"),
        ([*TENSORRT, "--check", "--plans", "p"], "--plans must be left out unless a --bundle is built"),
        ([*TENSORRT, "--check", "--runtime", "tensorrt"], "--runtime must be left out unless a --bundle is built"),
        (
            [*TENSORRT, *LITE, "--language-share", "0.7"],
            "--language-share must be left out unless --check is given",
        ),
        ([*RECORD, "--threads", "2"], "--threads must be left out unless --language or --vision is onnx"),
        ([*RECORD, "--provider", "cuda"], "--provider must be left out unless --language or --vision is onnx"),
    ],
)
def test_an_option_that_nothing_would_take_is_refused_by_name(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(flags) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {words}"
