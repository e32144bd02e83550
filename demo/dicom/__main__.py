"""A dialogue over an MR series, its results in an archive, and each step checked.

The committed slab becomes a DICOM series; the bundled model's server is asked a template about every slice; masks
and measures are written as SEG and SR, held to the standard by dciodvfy and PixelMed's validator, put into Orthanc
by STOW-RS, fetched by WADO-RS, and read by highdicom. The last line says whether all of it is as it must be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from demo.dicom.archive import fetched, stored, unequal_masks
from demo.dicom.dialogue import ask, provenance, structures
from demo.dicom.orthanc import orthanc_server
from demo.dicom.programs import MissingProgram
from demo.dicom.series import write_series
from demo.dicom.validators import iod_errors, template_errors
from demo.overlay import PicturePanel, strip
from loadtest.server_process import LaunchError, launched
from mediround import Client, MediRoundError, __version__
from mediround.dicom.results import Segment, encode, write_seg, write_sr

BUNDLED = Path("models/mediround-lite")


@dataclass(slots=True)
class Steps:
    """What was checked so far."""

    failures: list[str] = field(default_factory=list)

    def check(self, step: str, problems: object) -> None:
        """Say how a step went: well where there are no problems."""
        print(f"{'FAILED' if problems else 'ok':6} {step}{f': {problems}' if problems else ''}", flush=True)
        if problems:
            self.failures.append(step)


def run(bundle: Path, out: Path, steps: Steps) -> None:
    files = write_series(out / "series")
    sources = [pydicom.dcmread(path) for path in files]
    with launched(bundle, out / "server.log") as server, Client(server.address) as client:
        results, template = ask(client, files)
        segments, made_by = structures(results, template), provenance(client, results, template)
    found = sum(len(segment.masks) for segment in segments)
    steps.check(f"{found} masks of {len(segments)} structures on {len(files)} slices", [] if found else "none")
    segs = write_seg(sources, segments, made_by)
    report = write_sr(sources, segments, made_by, segs)
    pictures(out, sources, segments)
    again = write_seg(sources, segments, made_by), write_sr(sources, segments, made_by, segs)
    same = [encode(one) for one in (*again[0], again[1])] == [encode(one) for one in (*segs, report)]
    steps.check("written again, the bytes are equal", [] if same else "they differ")
    validate(out, segs, report, steps)
    archive(out, sources, segments, [*segs, report], steps)


def validate(out: Path, segs: list[Dataset], report: Dataset, steps: Steps) -> None:
    paths = [out / f"{name}.dcm" for name in ("seg", "sr")]
    for path, written in zip(paths, (segs[0], report), strict=True):
        path.write_bytes(encode(written))
        steps.check(f"{path.name} passes dciodvfy", iod_errors(path))
    steps.check("sr.dcm fits TID 1500 (PixelMed's validator)", template_errors(paths[1:])[paths[1]])


def archive(
    out: Path, sources: Sequence[Dataset], segments: Sequence[Segment], written: list[Dataset], steps: Steps
) -> None:
    with orthanc_server(out / "orthanc") as server:
        client = server.dicomweb
        steps.check("Orthanc took the series and the results (STOW-RS)", not stored(client, [*sources, *written]))
        back = [fetched(client, one) for one in written]
    steps.check("masks read by highdicom from what it gave back (WADO-RS)", unequal_masks(back[0], segments))
    steps.check("the report came back as it was", [] if encode(back[-1]) == encode(written[-1]) else "it differs")


def pictures(out: Path, sources: Sequence[Dataset], segments: Sequence[Segment]) -> None:
    """One picture a slice, a panel a structure."""
    for source in sources:
        key = (source.SOPInstanceUID, 1)
        image = np.repeat(source.pixel_array.astype(np.uint8)[..., None], 3, 2)
        panels = [PicturePanel(one.label, "", one.masks.get(key), None, None) for one in segments]
        strip(image, panels).save(out / f"slice-{int(source.InstanceNumber):03}.png", optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.dicom", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="directory of the model (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/dicom-demo"), help="an empty folder, or none yet")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    steps = Steps()
    try:
        run(given.bundle, given.out, steps)
    except (LaunchError, MediRoundError, MissingProgram) as error:
        steps.check(type(error).__name__, str(error))
    print(f"Pictures and objects: {given.out}. Research and education only: not for clinical use.")
    print("failed: " + ", ".join(steps.failures) if steps.failures else "all is as it must be")
    return 1 if steps.failures else 0


if __name__ == "__main__":
    sys.exit(main())
