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
