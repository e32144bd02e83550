"""A reader of reports: a headless Chromium, used by keys and controls.

Knows the pages' controls. Does not know reports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Reader:
    driver: webdriver.Chrome
    downloads: Path

    def open(self, page: Path) -> None:
        self.driver.get(page.as_uri())

    def forget(self) -> None:
        """What was decided in this browser."""
        self.run("localStorage.clear(); verdicts = {}; undone = []; choose()")

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    @property
    def selected(self) -> str:
        """The item's name."""
        return str(self.run("return order[selected][0]"))

    def text(self, name: str) -> str:
        return self.driver.find_element(By.ID, name).text

    def tile(self) -> str:
        """The selected one's words."""
        return self.driver.find_element(By.CSS_SELECTOR, ".tile.selected").text

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.find_element(By.TAG_NAME, "body").send_keys(key)

    def write(self, words: str) -> None:
        """In the dialog of a comment, and keep it."""
        self.driver.find_element(By.ID, "words").send_keys(words)
        self.driver.find_element(By.CSS_SELECTOR, "dialog button[value='keep']").click()

    def leave(self, words: str) -> None:
        """Write a comment, and give it up by Escape."""
        self.driver.find_element(By.ID, "words").send_keys(words, Keys.ESCAPE)

    def click(self, name: str) -> None:
        self.driver.find_element(By.ID, name).click()

    def choose(self, control: str, words: str) -> None:
        Select(self.driver.find_element(By.ID, control)).select_by_visible_text(words)

    def number(self, control: str, value: str) -> None:
        script = "const [name, value] = arguments; byId(name).value = value; choose()"
        self.driver.execute_script(script, control, value)

    def picture_width(self, place: str = "img") -> int:
        """Of the first, once it is loaded; 0: it cannot be."""
        script = """
        const [place, done] = arguments, picture = document.querySelector(place);
        const look = () => picture.complete ? done(picture.naturalWidth) : setTimeout(look, 20);
        look();
        """
        return int(self.driver.execute_async_script(script, place))

    def exported(self) -> Path:
        """The file that the export's button saves."""
        for path in self.downloads.iterdir():
            path.unlink()
        self.click("export")
        path = self.downloads / "review.json"
        WebDriverWait(self.driver, PATIENCE_SECONDS).until(lambda _: path.is_file())
        json.loads(path.read_text())
        return path

    def complaints(self) -> list[str]:
        """What the browser refused or could not load since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@contextmanager
def reader(chromium: str, driver: str, downloads: Path) -> Iterator[Reader]:
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Reader(running, downloads)
    finally:
        running.quit()
