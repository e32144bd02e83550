"""A reader's review: from a run's report in a headless Chromium to the next plan, with rejected items first."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from mediround.__main__ import main
from mediround.annotate.job import Job
from mediround.annotate.manifest import read_manifest
from mediround.testing import Script, ScriptedServer, serve
from tests.unit.client.annotate.items import an_item
from tests.unit.client.annotate.jobs import QUESTIONS, disc, png
from tests.unit.client.annotate.reader import Reader

IMAGES = 4


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with serve(Script()) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: ScriptedServer) -> Path:
    """Holds ``images``, a ``job`` that is run, and its ``report``."""
    made = tmp_path_factory.mktemp("review")
    (made / "images").mkdir()
    for number in range(IMAGES):
        an_item(made / "images" / f"{number}.png", png(disc(5).astype("uint8") * (100 + number)), QUESTIONS)
    assert plan(made, server) == 0
    assert main(["annotate", "run", "--job", str(made / "job"), "--server", server.address]) == 0
    assert main(["annotate", "report", "--job", str(made / "job"), "--out", str(made / "report")]) == 0
    return made


def plan(made: Path, server: ScriptedServer, *more: str) -> int:
    place = ["--job", str(made / "job"), "--server", server.address, "--template", "brain-t1-thalami"]
    return main(["annotate", "plan", str(made / "images"), *place, *more])


def planned(made: Path) -> list[str]:
    return [item.item_id for piece in read_manifest(Job.open(made / "job").manifest) for item in piece]


@pytest.fixture
def reading(browser: Reader, folder: Path) -> Reader:
    browser.open(folder / "report" / "index.html")
    browser.forget()
    return browser


def decided(reading: Reader) -> list[tuple[str, str]]:
    """Verdicts and comments, as the page would export them."""
    items = json.loads(reading.run("return review()"))["items"]
    return [(item["verdict"], item["comment"]) for item in items]


def test_a_verdict_is_taken_back_by_its_key_and_by_undo(reading: Reader) -> None:
    reading.press("a")
    assert decided(reading) == [("accept", "")]
    reading.press("r")
    assert decided(reading) == [("reject", "")]
    reading.press("r")
    assert decided(reading) == []
    reading.press("u")
    assert decided(reading) == [("reject", "")]
    reading.press("u", "u", "u")
    assert decided(reading) == []


def test_a_comment_decides_nothing(reading: Reader) -> None:
    reading.press("c")
    reading.write("too <b>small</b>")
    assert decided(reading) == [("", "too <b>small</b>")]
    assert "too <b>small</b>" in reading.tile()
    assert "reject" not in reading.run("return document.querySelector('.tile.selected').className")
    reading.choose("status", "undecided")
    assert reading.text("count") == f"1 to {IMAGES} of {IMAGES}"
    reading.choose("status", "commented")
    assert reading.text("count") == "1 to 1 of 1"
    reading.press("a", "a")
    assert decided(reading) == [("", "too <b>small</b>")]
    reading.press("c")
    reading.leave("?")
    assert decided(reading) == [("", "too <b>small</b>")]
    reading.press("c")
    reading.run("byId('words').value = ''")
    reading.write("")
    assert decided(reading) == []


def test_what_another_page_decided_is_kept(reading: Reader) -> None:
    reading.press("a")
    reading.run("localStorage.setItem(KEY, JSON.stringify({other: {verdict: 'reject', comment: ''}}))")
    reading.press(Keys.ARROW_RIGHT, "r")
    assert decided(reading) == [("reject", ""), ("reject", "")]
    reading.run("localStorage.setItem(KEY, '[1]')")
    reading.press("a")
    assert decided(reading) == [("accept", "")]


def test_keys_of_a_control_are_the_controls(reading: Reader) -> None:
    reading.run("byId('sort').focus()")
    reading.driver.switch_to.active_element.send_keys("r")
    reading.run("byId('most-score').focus()")
    reading.driver.switch_to.active_element.send_keys("a")
    assert decided(reading) == []


def test_rejected_items_are_first_in_the_next_plan(reading: Reader, folder: Path, server: ScriptedServer) -> None:
    before = planned(folder)
    reading.press("a", Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, "c")
    reading.write("look again")
    reading.press(Keys.ARROW_RIGHT, "r")
    last = reading.selected
    reading.driver.refresh()
    review = reading.exported()
    verdicts = {item["verdict"]: item["item_id"] for item in json.loads(review.read_text())["items"]}
    assert (len(verdicts), verdicts["reject"]) == (3, last)
    assert plan(folder, server, "--from", str(review)) == 0
    assert planned(folder) == [last, *(name for name in before if name != last)]


def test_what_is_decided_is_of_one_job(reading: Reader, folder: Path, server: ScriptedServer) -> None:
    reading.press("r")
    assert json.loads(reading.run("return review()"))["job"] == Job.open(folder / "job").name != ""
    place = ["--job", str(folder / "other"), "--server", server.address]
    assert main(["annotate", "plan", str(folder / "images"), *place, "--template", "brain-t1-thalami"]) == 0
    assert main(["annotate", "run", *place]) == 0
    assert main(["annotate", "report", *place[:2], "--out", str(folder / "other-report")]) == 0
    reading.open(folder / "other-report" / "index.html")
    assert decided(reading) == []
