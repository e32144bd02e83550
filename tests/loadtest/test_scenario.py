"""Scenario files: the shipped ones are good, bad ones are refused by file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.images import ImageMaker, load_pictures
from loadtest.plan import Plan
from loadtest.scenario import ScenarioError, read
from serving.domain import AnswerMode, Question
from serving.wave import waves
from tests.conftest import REPOSITORY
from tests.loadtest.conftest import scenario

SHIPPED = sorted((REPOSITORY / "loadtest" / "scenarios").glob("*.toml"))
GOOD = 'name = "x"\n[arrivals]\nrate = 1.0\nduration = 10.0\n'


def test_three_scenarios_are_shipped() -> None:
    assert [path.stem for path in SHIPPED] == ["archive", "burst", "interactive"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_scenarios_can_be_read_and_their_images_made(path: Path) -> None:
    asked = read(path)
    assert asked.name == path.stem
    assert asked.objective.latency
    maker = ImageMaker(asked.images, 0, load_pictures(asked.images, path.parent))
    assert len(maker.image(0)) > 0


def test_the_archive_is_read_in_waves() -> None:
    asked = read(REPOSITORY / "loadtest" / "scenarios" / "archive.toml")
    mode = AnswerMode.FORCED if asked.dialogues.answers == "forced" else AnswerMode.FREE
    dialogues = [dialogue.rounds for dialogue in Plan(asked, 0)]
    passes = [
        len(waves([Question(r.question, r.refer_to, mode, r.answer) for r in each], 0)) for each in dialogues
    ]
    assert sum(passes) < 0.8 * sum(map(len, dialogues))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("rate = 1.0\n", ""), "arrivals.rate: Field required"),
        (GOOD.replace("1.0", "-1.0"), "arrivals.rate"),
        (GOOD.replace("1.0", '"1"'), "arrivals.rate"),
        (GOOD.replace("1.0", "nan"), "arrivals.rate"),
        (GOOD.replace("10.0", "inf"), "arrivals.duration"),
        (GOOD.replace("10.0", "2020-01-01"), "arrivals.duration"),
        (GOOD + "rat = 1\n", "arrivals.rat"),
        (GOOD + "[dialogues]\nrounds = [3, 2]\n", "rounds is [least, most]"),
        (GOOD + "[dialogues.shapes]\nchain = 0\n", "shape a weight above 0"),
        (GOOD + "[calls]\ncancel_share = 0.6\ndeadline_share = 0.6\n", "together at most 1"),
        (
            GOOD + '[[objective.latency]]\nrounds = "second"\nshare = 0.5\nwithin = 1.0\n',
            "objective.latency.0.rounds",
        ),
        (GOOD.replace("1.0", "10000.0").replace("10.0", "86400.0"), "more than 2000000 rounds"),
        ("name = ", "not TOML"),
        ("x = " + "[" * 30_000, "not TOML|nested too deeply"),
        ("#" * 70_000, "larger than"),
    ],
)
def test_a_bad_scenario_is_refused_by_file_and_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as refused:
        read(path)
    assert str(path) in str(refused.value)
    assert any(words in str(refused.value) for words in said.split("|"))


def test_a_file_that_is_missing_or_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match="not TOML"):
        read(tmp_path / "b.toml")


def test_equal_scenarios_have_equal_digests_however_they_are_written(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(GOOD)
    two.write_text('arrivals = { duration = 10.0, rate = 1.0, process = "poisson" }\nname = "x"\n')
    assert read(one).digest == read(two).digest
    assert read(one).digest != read(one).at(rate=2.0).digest


def test_pictures_that_are_missing_or_no_pictures_are_refused(tmp_path: Path) -> None:
    asked = scenario(images={"pictures": "*.png"}).images
    with pytest.raises(ScenarioError, match="no file matches"):
        load_pictures(asked, tmp_path)
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_pictures(asked, tmp_path)
