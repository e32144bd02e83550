"""The report in a headless Chromium, from file://: 10,000 items sorted, filtered, decided and exported."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from mediround.__main__ import main
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.rows import Row
from tests.unit.client.annotate.jobs import OTHER, QUESTIONS, answered, disc, failed, job_of, keep, picture

ITEMS, PICTURES = 10_000, 20
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
PLACE = "images"
Made: TypeAlias = tuple[Path, Job, Run, list[Item]]
"""The report, its job, its run and its items."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report of many items: number 7 failed, 11 scores least, 13 disagrees most; few have a picture."""
    folder = tmp_path_factory.mktemp("report")
    hostile = (QUESTIONS[0], replace(QUESTIONS[1], question=HOSTILE, label=HOSTILE))
    items = [picture(folder / PLACE, number, hostile if number == 3 else QUESTIONS) for number in range(PICTURES)]
    items += [replace(items[0], item_id=f"{number:032x}", uri="file:///gone") for number in range(PICTURES, ITEMS)]
    job, run = job_of(folder / "job", items)
    other = job.take_up(OTHER, new=True)
    job.take_up(run.identity, new=True)
    for which in (other, run):
        rows = answered(items[0], which, (disc(5), disc(3)))
        keep(which, *(_rows(number, item, which, rows) for number, item in enumerate(items)))
    place = ["annotate", "report", "--job", str(job.folder), "--out", str(folder / "out")]
    assert main([*place, "--against", other.key[:8]]) == 0
    return folder / "out", job, run, items


def _rows(number: int, item: Item, run: Run, same: list[Row]) -> list[Row]:
    if number == 7:
        return failed(item, run)
    if number < PICTURES:
        masks = (disc(5), disc(1 if number == 13 and run.identity == OTHER else 3))
        return answered(item, run, masks, 0.1 if number == 11 else 0.5)
    return [replace(row, item_id=item.item_id, score=0.5 + number / ITEMS / 4) for row in same]


@pytest.fixture(scope="module")
def browser(made: Made) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    try:
        running.get((made[0] / "index.html").as_uri())
        yield running
    finally:
        running.quit()


def first(browser: webdriver.Chrome) -> str:
    return str(browser.execute_script("return order[selected][0]"))


def press(browser: webdriver.Chrome, *keys: str) -> None:
    for key in keys:
        browser.find_element(By.TAG_NAME, "body").send_keys(key)


def choose(browser: webdriver.Chrome, control: str, words: str) -> None:
    Select(browser.find_element(By.ID, control)).select_by_visible_text(words)


def test_it_is_sorted_and_filtered_across_all_pages(browser: webdriver.Chrome, made: Made) -> None:
    items = made[3]
    for sort, number in (("score", 11), ("disagreement", 13), ("failure", 7), ("order", 0)):
        choose(browser, "sort", sort)
        assert first(browser) == items[number].item_id
    assert browser.find_element(By.ID, "count").text == f"1 to 200 of {ITEMS}"
    choose(browser, "status", "failed")
    assert browser.find_element(By.ID, "count").text == "1 to 1 of 1"
    assert "UNREADABLE" in browser.find_element(By.ID, "sheet").text
    choose(browser, "status", "all")
    choose(browser, "structure", HOSTILE[:59] + "…")
    assert first(browser) == items[3].item_id
    choose(browser, "structure", "all structures")


def test_pictures_come_from_the_folder_and_text_is_text(browser: webdriver.Chrome, made: Made) -> None:
    wait = "const done = arguments[0]; setTimeout(() => done(document.querySelector('img').naturalWidth), 500)"
    assert browser.execute_async_script(wait) > 0
    browser.get((made[0] / "page-0000.html").as_uri())
    assert "round 0: Liver" in browser.page_source
    assert browser.title != "taken"
    assert browser.execute_async_script(wait) > 0
    browser.get((made[0] / "index.html").as_uri())
    assert browser.title != "taken"
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_reader_decides_by_keys_and_exports(browser: webdriver.Chrome, made: Made) -> None:
    run, items = made[2], made[3]
    press(browser, "a", Keys.ARROW_RIGHT, "r", Keys.ARROW_RIGHT, "a", "a", Keys.ARROW_LEFT, "c")
    browser.find_element(By.ID, "words").send_keys("too <b>small</b>")
    browser.find_element(By.CSS_SELECTOR, "dialog button").click()
    browser.get((made[0] / "index.html").as_uri())
    choose(browser, "status", "rejected")
    assert first(browser) == items[1].item_id
    review = json.loads(browser.execute_script("return review()"))
    assert review == {
        "format": 1,
        "run_key": run.key,
        "items": [
            {"item_id": items[0].item_id, "verdict": "accept", "comment": ""},
            {"item_id": items[1].item_id, "verdict": "reject", "comment": "too <b>small</b>"},
        ],
    }
    choose(browser, "status", "all")
    press(browser, Keys.PAGE_DOWN)
    assert browser.find_element(By.ID, "count").text == f"201 to 400 of {ITEMS}"


def test_pages_are_small_and_say_nothing_of_places(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, job, _, items = made
    pages = list(out.glob("*.html"))
    assert len(pages) == 1 + ITEMS // 200
    assert max(page.stat().st_size for page in pages) < 5_000_000
    text = "".join(page.read_text() for page in pages)
    assert "file:///" not in text
    assert items[0].sha256 not in text
    assert "http" not in text.replace('http-equiv="', "")
    place = ["annotate", "report", "--job", str(job.folder), "--most", "3"]
    assert main([*place, "--out", str(tmp_path / "out"), "--identify"]) == 0
    assert items[11].uri in (tmp_path / "out" / "page-0000.html").read_text()
    assert "3 of 10000 items" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert main([*place, "--out", str(tmp_path / "mine")]) == 2
