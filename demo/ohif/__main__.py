"""``make ohif-demo``: segmentations of ours in the OHIF viewer, and whether they are drawn where they belong.

Puts two made-up studies, an axial and a sagittal series, with their SEGs into Orthanc, opens each in OHIF and
compares what it draws on each frame with the mask, pixel by pixel. Ends with 0 only if each agrees.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from rich.console import Console
from rich.progress import track
from rich.table import Table

from demo.dicom.orthanc import orthanc_server
from demo.dicom.programs import MissingProgram
from demo.ohif.browser import Viewer, opened
from demo.ohif.made_up import ORIENTATIONS, Bits, MadeUpSeries, made_up_series
from demo.ohif.web import viewer_of
from mediround import __version__
from mediround.dicom.results import encode

LEAST_IOU = 0.98
PATIENCE_SECONDS = 30.0


def compared(all_series: list[MadeUpSeries], files: Path, out: Path) -> dict[str, list[float]]:
    """By series, the IoU of what is drawn and the mask, of each frame. Pictures go to ``out``."""
    found: dict[str, list[float]] = {}
    with orthanc_server(out) as archive:
        objects = [each for series in all_series for each in (*series.objects, series.segmentation)]
        archive.dicomweb.store_instances([dcmread(io.BytesIO(encode(each))) for each in objects])
        with viewer_of(archive, files, out) as address:
            for series in all_series:
                with opened(address, str(series.segmentation.StudyInstanceUID)) as viewer:
                    viewer.show_segmentation()
                    frames = list(zip(series.objects, series.masks, strict=True))
                    found[series.name] = [
                        settled(viewer, image, mask) for image, mask in track(frames, description=series.name)
                    ]
                    viewer.picture(out / f"{series.name}.png")
    return found


def settled(viewer: Viewer, image: Dataset, mask: Bits) -> float:
    """The IoU of what is drawn on an image and its mask, as soon as it is enough: a viewer that is slow shows the
    overlay of the image before for a while. What is drawn wrong stays so.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while (found := iou(viewer.drawn(image), mask)) < LEAST_IOU and time.monotonic() < until:
        time.sleep(1)
    return found


def iou(drawn: Bits, mask: Bits) -> float:
    """Intersection over union of two masks of the same size."""
    either = np.count_nonzero(drawn | mask)
    return float(np.count_nonzero(drawn & mask) / either) if either else 1.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.ohif", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--ohif", type=Path, default=Path("build/ohif/package/dist"), help="OHIF's built files")
    parser.add_argument("--out", type=Path, default=Path("build/ohif/out"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    series = [made_up_series(name) for name in ORIENTATIONS]
    try:
        found = compared(series, options.ohif, options.out)
    except MissingProgram as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    table = Table("series", "frames", "lowest IoU of drawn and mask")
    for name, each in found.items():
        table.add_row(name, str(len(each)), f"{min(each):.4f}")
    Console().print(table, f"pictures: {options.out}/*.png")
    return 0 if min(min(each) for each in found.values()) >= LEAST_IOU else 1


if __name__ == "__main__":
    sys.exit(main())
