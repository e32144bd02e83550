"""The report in a headless Chromium, from file://: 10,000 items sorted, filtered, compared with another run's."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from mediround.__main__ import main
from mediround.annotate.files import file_digest
from mediround.annotate.items import GivenReference, Item, Question
from mediround.annotate.job import Job, Run
from mediround.annotate.report import choice
from mediround.annotate.rows import Row
from tests.unit.client.annotate.jobs import OTHER, QUESTIONS, answered, disc, failed, job_of, keep, picture, png
from tests.unit.client.annotate.reader import Reader

ITEMS, PICTURES = 10_000, 20
DIFFERENT = range(1000, 1300)
"""Whose second masks the other run has a little larger."""
FAILED, OTHER_CHAIN, UNSCORED, LEAST, DISAGREES = 7, 5, 9, 11, 13
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
PLACE = "images"
MOST_BYTES = 5_000_000


class Made(NamedTuple):
    """The report, its job, its runs and its items."""

    out: Path
    job: Job
    other: Run
    run: Run
    items: list[Item]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report of many items, of which few have a picture."""
    folder = tmp_path_factory.mktemp("report")
    hostile = (QUESTIONS[0], replace(QUESTIONS[1], question=HOSTILE, label=HOSTILE))
    given = (
        _given(folder / "given.png"),
        QUESTIONS[1],
        replace(QUESTIONS[1], name="rim", label="Rim", refer_to=1),
    )
    questions = {3: hostile, OTHER_CHAIN: given}
    images = folder / PLACE
    items = [picture(images, number, questions.get(number, QUESTIONS)) for number in range(PICTURES)]
    items += [replace(items[0], item_id=f"{number:032x}", uri="file:///gone") for number in range(PICTURES, ITEMS)]
    job, run = job_of(folder / "job", items)
    other = job.take_up(OTHER, new=True)
    job.take_up(run.identity, new=True)
    for which in (other, run):
        keep(which, *_all_rows(items, which))
    place = ["annotate", "report", "--job", str(job.folder), "--out", str(folder / "out"), "--most", str(ITEMS)]
    assert main([*place, "--against", other.key[:8]]) == 0
    return Made(folder / "out", job, other, run, items)


def _given(path: Path) -> Question:
    path.write_bytes(png(disc(4).astype(np.uint8) * 255))
    return replace(QUESTIONS[0], reference=GivenReference(path.as_uri(), file_digest(path)))


def _all_rows(items: list[Item], run: Run) -> Iterator[list[Row]]:
    masks = disc(5), disc(3)
    same = answered(items[0], run, masks)
    larger = answered(items[0], run, (disc(5), disc(4))) if run.identity == OTHER else same
    for number, item in enumerate(items):
        if number == FAILED:
            yield failed(item, run)
        elif number == OTHER_CHAIN:
            yield answered(item, run, (*masks, disc(2)), 0.5)
        elif number < PICTURES:
            small = disc(1 if number == DISAGREES and run.identity == OTHER else 3)
            score = {LEAST: 0.1, UNSCORED: float("nan")}.get(number, 0.5)
            yield answered(item, run, (disc(5), small), score)
        else:
            rows = larger if number in DIFFERENT else same
            yield [replace(row, item_id=item.item_id, score=0.5 + number / ITEMS / 4) for row in rows]


@pytest.fixture
def reading(browser: Reader, made: Made) -> Reader:
    browser.open(made.out / "index.html")
    browser.forget()
    return browser


def test_it_is_sorted_and_filtered_across_all_pages(reading: Reader, made: Made) -> None:
    for sort, number in (("score", LEAST), ("disagreement", DISAGREES), ("failure", FAILED), ("order", 0)):
        reading.choose("sort", sort)
        assert reading.selected == made.items[number].item_id
    assert reading.text("count") == f"1 to 200 of {ITEMS}"
    reading.press(Keys.PAGE_DOWN, Keys.PAGE_DOWN, Keys.PAGE_UP, Keys.ARROW_RIGHT)
    assert reading.text("count") == f"201 to 400 of {ITEMS}"
    assert reading.selected == made.items[201].item_id
    reading.click("after")
    reading.click("before")
    assert reading.text("count") == f"201 to 400 of {ITEMS}"
    reading.number("most-score", "0.1")
    assert (reading.selected, reading.text("count")) == (made.items[LEAST].item_id, "1 to 1 of 1")
    reading.number("most-score", "")
    reading.number("least-apart", "0.5")
    assert (reading.selected, reading.text("count")) == (made.items[DISAGREES].item_id, "1 to 1 of 1")
    reading.number("least-apart", "")
    reading.choose("structure", HOSTILE[:63] + "…")
    assert (reading.selected, reading.text("count")) == (made.items[3].item_id, "1 to 1 of 1")


def test_failures_are_shown_by_their_codes(reading: Reader, made: Made) -> None:
    for status in ("failed", "failed: UNREADABLE"):
        reading.choose("status", status)
        assert reading.text("count") == "1 to 1 of 1"
        assert "UNREADABLE" in reading.tile()
    reading.choose("status", "ok")
    assert reading.text("count") == f"1 to 200 of {ITEMS - 1}"


def test_the_chain_of_references_is_shown(reading: Reader, made: Made) -> None:
    reading.choose("structure", "Rim")
    assert reading.tile().splitlines()[:3] == ["0 Liver 0.50 ↳ given mask", "1 Wall 0.50 ↳ 0", "2 Rim 0.50 ↳ 1"]
    reading.driver.find_element(By.CSS_SELECTOR, ".tile.selected a").click()
    place = f"article[id='i{made.items[OTHER_CHAIN].item_id}'] table"
    table = reading.driver.find_element(By.CSS_SELECTOR, place).text
    assert "round 1: Wall, about round 0: Liver, about a given mask" in table


def test_pictures_come_from_the_folder_and_text_is_text(reading: Reader, made: Made) -> None:
    assert reading.picture_width() > 0
    reading.open(made.out / "page-0000.html")
    assert "round 0: Liver" in reading.driver.page_source
    assert reading.driver.title != "taken"
    assert reading.picture_width() > 0
    reading.driver.find_element(By.LINK_TEXT, "after").click()
    reading.driver.find_element(By.LINK_TEXT, "contact sheet").click()
    assert reading.driver.title != "taken"
    assert reading.complaints() == []


def test_the_comparison_shows_the_biggest_disagreements_first(reading: Reader, made: Made) -> None:
    reading.driver.find_element(By.LINK_TEXT, "comparison").click()
    assert (reading.selected, reading.text("count")) == (made.items[DISAGREES].item_id, "1 to 200 of 301")
    first = 1 - 2 * disc(1).sum() / (disc(1).sum() + disc(3).sum())
    assert f"1 Wall: disagreement {first:.3f}" in reading.tile()
    assert reading.picture_width(".tile.selected img") == 2 * 16
    reading.press(Keys.PAGE_DOWN)
    assert reading.text("count") == "201 to 301 of 301"
    reading.choose("status", "earlier alone")
    assert reading.text("count") == "none"
    reading.press("a")
    reading.choose("status", "all")
    reading.number("least-apart", "0.5")
    assert reading.text("count") == "1 to 1 of 1"
    reading.press("r")
    verdict = reading.driver.find_element(By.CSS_SELECTOR, "h2.verdict")
    assert verdict.text == "Verdict: no verdict"
    page = reading.driver.find_element(By.TAG_NAME, "body").text
    assert re.search(r"Wall: Dice between the runs 0\.99\d+ >= 0.95 met", page)
    few = "1 rounds with masks in both, not both empty, of 30 needed"
    assert f"Rim: Dice between the runs {few} >= 0.95 not known" in page
    assert f"all {2 * (ITEMS - 1) + 1} " in page
    assert len(reading.driver.find_elements(By.CSS_SELECTOR, "svg circle.bar")) == 4 * 2
    assert reading.complaints() == []
    reading.open(made.out / "index.html")
    reading.choose("status", "rejected")
    assert (reading.selected, reading.text("count")) == (made.items[DISAGREES].item_id, "1 to 1 of 1")


def test_pages_are_small_and_say_nothing_of_places(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = list(made.out.glob("*.html"))
    assert len(pages) == 2 + ITEMS // 200
    assert max(page.stat().st_size for page in pages) < MOST_BYTES
    text = "".join(page.read_text() for page in pages)
    assert "file:///" not in text
    assert made.items[0].sha256 not in text
    assert "http" not in text.replace('http-equiv="', "")
    place = ["annotate", "report", "--job", str(made.job.folder), "--most", "3"]
    assert main([*place, "--out", str(tmp_path / "out"), "--identify"]) == 0
    assert made.items[LEAST].uri in (tmp_path / "out" / "page-0000.html").read_text()
    assert f"3 of {ITEMS} items" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert main([*place, "--out", str(tmp_path / "mine")]) == 2


def test_long_dialogues_make_more_pages_and_not_larger_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "<'" * 200
    long = tuple(Question(f"q{n}", f"{n}{words}", words, answer=words) for n in range(64))
    items = [picture(tmp_path / PLACE, number, long) for number in range(40)]
    job, run = job_of(tmp_path / "job", items)
    keep(run, *(answered(item, run, [disc(5)] * len(long)) for item in items))
    place = ["annotate", "report", "--job", str(job.folder), "--out", str(tmp_path / "out")]
    assert main(place) == 0
    pages = list((tmp_path / "out").glob("*.html"))
    assert len(pages) > 2
    assert max(page.stat().st_size for page in pages) < MOST_BYTES
    monkeypatch.setattr(choice, "DATA_BYTES", 10_000)
    assert main(place) == 0
    assert "8 of 40 items" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("pictures/*/*.jpg"))) == 8


def test_where_targets_are_their_dice_is_drawn_with_its_interval(browser: Reader, tmp_path: Path) -> None:
    """Of many structures, whose names are whole."""
    labels = [f"Left LATERAL geniculate nucleus of the thalamus, sections WM {n:03}" for n in range(24)]
    assert len(labels[0]) == 64
    (tmp_path / "truth.png").write_bytes(png(disc(5).astype(np.uint8) * 255))
    aimed = replace(QUESTIONS[0], truth=(tmp_path / "truth.png").as_uri())
    questions = [replace(aimed, name=f"q{number}", label=label) for number, label in enumerate(labels)]
    items = [picture(tmp_path / PLACE, number, questions) for number in range(4)]
    job, run = job_of(tmp_path / "job", items)
    other = job.take_up(OTHER, new=True)
    job.take_up(run.identity, new=True)
    for which, radius in ((other, 3), (run, 4)):
        keep(
            which,
            *(
                answered(item, which, [disc(radius + number % 2)] * len(labels))
                for number, item in enumerate(items)
            ),
        )
    place = ["annotate", "report", "--job", str(job.folder), "--out", str(tmp_path / "out"), "--least-images", "4"]
    assert main([*place, "--against", other.key[:8]]) == 0
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "Verdict: within tolerances" in page
    titles = re.findall(r'aria-label="([^"]+)"', page)
    assert titles[:2] == [
        f"Dice with the targets, 95 % interval; 4 images, {4 * len(labels)} rounds",
        "Its change, later minus earlier, 95 % interval",
    ]
    assert len(titles) == 4
    assert f"Of {len(labels)} structures, plots show the 20" in page
    browser.open(tmp_path / "out" / "comparison.html")
    shown = [each.text for each in browser.driver.find_elements(By.CSS_SELECTOR, "svg text.end")]
    assert [len(set(labels) & set(shown[at : at + 20])) for at in (3, 23, 43)] == [20, 20, 20]
    assert browser.run(f"return [...document.querySelectorAll('svg text')].every({_INSIDE})") is True


_INSIDE = """text => {
    const box = text.getBBox(), all = text.ownerSVGElement.viewBox.baseVal;
    return box.x >= 0 && box.x + box.width <= all.width && box.y >= 0 && box.y + box.height <= all.height + 1;
}"""


def test_an_earlier_report_stays_where_no_new_one_can_be_made(tmp_path: Path) -> None:
    items = [picture(tmp_path / PLACE, number) for number in range(2)]
    job, run = job_of(tmp_path / "job", items)
    part = keep(run, *(answered(item, run, (disc(5), disc(3))) for item in items))
    out = tmp_path / "out"
    place = ["annotate", "report", "--job", str(job.folder), "--out", str(out)]
    assert main(place) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {path.suffix for path in before} >= {".html", ".jpg"}
    part.write_bytes(part.read_bytes()[:-9])
    assert main(place) == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_items_that_are_planned_no_more_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table was mended and planned again: its old failures do not take the place of new results."""
    old = [picture(tmp_path / PLACE, number) for number in range(3)]
    new = [replace(item, item_id=f"{number:032x}") for number, item in enumerate(old)]
    job, run = job_of(tmp_path / "job", old)
    keep(run, *(failed(item, run, "BAD_DIALOGUE") for item in old))
    job, run = job_of(tmp_path / "job", new)
    keep(run, *(answered(item, run, (disc(5), disc(3))) for item in new))
    place = ["annotate", "report", "--job", str(job.folder), "--out", str(tmp_path / "out"), "--most", "2"]
    assert main(place) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 items" in printed
    assert "3 items are not in the manifest" in printed
    page = (tmp_path / "out" / "index.html").read_text()
    assert "BAD_DIALOGUE" not in page
    assert sum(item.item_id in page for item in new) == 2
    assert "3 items more are not in the manifest" in page
