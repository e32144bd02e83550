"""One slice of the committed series by four windows, side by side, as a picture for docs/pacs.md.

    python -m demo.dicom.windows docs/images/windows.png

Knows the series and windows. Does not know the service.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from demo.dicom.series import write_series
from mediround import dicom
from mediround.window import Window, WindowChoice

WINDOWS: tuple[WindowChoice, ...] = (
    None,
    "percentile",
    Window(90, 60),
    Window(90, 60, "SIGMOID"),
)
"""The object's own, its percentiles, a narrow one, and the same without sharp ends."""
_GAP = 8


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.dicom.windows", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the PNG to write")
    out: Path = parser.parse_args().out
    with TemporaryDirectory() as folder:
        instance = dicom.read(write_series(Path(folder))[-1])
        frames = [instance.frame(1, window) for window in WINDOWS]
    gap = np.full((frames[0].image.shape[0], _GAP), 255, np.uint8)
    columns = [part for frame in frames for part in (frame.image, gap)][:-1]
    Image.fromarray(np.hstack(columns)).save(out, optimize=True)
    for frame in frames:
        print(frame.window)


if __name__ == "__main__":
    main()
