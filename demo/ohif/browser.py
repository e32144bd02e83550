"""OHIF in a headless Chromium, used as a person would: a study opened, a segmentation double-clicked.

Knows the page. What a viewport shows is asked by ``drawn.js``. Does not know servers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from demo.dicom.programs import program
from demo.ohif.made_up import Bits

PATIENCE_SECONDS = 180.0
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
)
_SHOWN = """
return typeof cornerstone === 'object' && cornerstone.getRenderingEngines().length > 0
  && document.body.innerText.includes('Skip all');
"""
"""A tour of the page comes up behind its images, and takes the clicks until it is skipped."""
_COLOURED = """
const canvas = cornerstone.getRenderingEngines()[0]?.getViewports()[0]?.getCanvas();
if (!canvas) return false;
const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
for (let i = 0; i < data.length; i += 4) if (Math.abs(data[i] - data[i + 2]) > 20) return true;
return false;
"""


@dataclass(frozen=True, slots=True)
class Viewer:
    """A study in OHIF."""

    driver: webdriver.Chrome

    def show_segmentation(self) -> None:
        """Double-click the study's SEG series, and wait for its colour."""
        listed = self.driver.find_elements(By.CSS_SELECTOR, "[data-cy^='study-browser-thumbnail']")
        [found] = [each for each in listed if each.text.startswith("SEG")]
        ActionChains(self.driver).double_click(found).perform()
        self.wait_until(_COLOURED)

    def drawn(self, image: Dataset) -> Bits:
        """Where the overlay lies on an image, bool (Rows, Columns). Raises RuntimeError where it is not shown."""
        turn, spacing = np.array(image.ImageOrientationPatient, float).reshape(2, 3), image.PixelSpacing
        steps = turn[0] * float(spacing[1]), turn[1] * float(spacing[0])
        rows, columns = int(image.Rows), int(image.Columns)
        asked = str(image.SOPInstanceUID), [float(each) for each in image.ImagePositionPatient]
        script = (Path(__file__).parent / "drawn.js").read_text()
        slice_, bits = self.driver.execute_async_script(script, *asked, *(list(s) for s in steps), rows, columns)
        if slice_ < 0:
            raise RuntimeError(f"the viewer does not show the image: {bits}")
        return np.asarray(np.frombuffer(bits.encode(), np.uint8).reshape(rows, columns) == ord("1"))

    def picture(self, path: Path) -> None:
        """A screenshot, PNG."""
        self.driver.save_screenshot(str(path))

    def wait_until(self, script: str) -> None:
        """Until a script's word is true. Raises selenium's TimeoutException."""
        WebDriverWait(self.driver, PATIENCE_SECONDS).until(lambda driver: driver.execute_script(script))


@contextmanager
def opened(address: str, study: str) -> Iterator[Viewer]:
    """The study's page while the block runs. Raises MissingProgram without Chromium or its driver."""
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for flag in _FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(program("chromedriver")))
    try:
        driver.set_script_timeout(PATIENCE_SECONDS)
        driver.get(f"{address}/viewer?StudyInstanceUIDs={study}")
        viewer = Viewer(driver)
        viewer.wait_until(_SHOWN)
        for tour in driver.find_elements(By.XPATH, "//*[text()='Skip all']"):
            tour.click()
        yield viewer
    finally:
        driver.quit()
