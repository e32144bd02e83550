"""Two programs that hold DICOM objects to the standard: dciodvfy any object, PixelMed's a report to its template.

Knows their command lines and how they tell an error. Does not know what is checked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from demo.dicom.programs import MissingProgram, program

_JARS = Path("/usr/share/java")
_LIMITS = ("TotalOpLimit", "ExprOpLimit", "ExprGrpLimit")
"""Of Java's XPath, which the templates go beyond."""


def iod_errors(path: Path) -> list[str]:
    """What dciodvfy finds wrong with an object; warnings left out. Raises MissingProgram."""
    command = [program("dciodvfy"), "-new", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603  # a wheel's
    printed = done.stderr + done.stdout
    return [line for line in printed.splitlines() if line.startswith("Error")] or (
        [] if done.returncode == 0 else [printed]
    )


def template_errors(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """What PixelMed's DicomSRValidator finds wrong with each report. It takes one file a process: all at once.

    Raises MissingProgram where it is not installed.
    """
    if not list(_JARS.glob("pixelmed*.jar")):
        raise MissingProgram("PixelMed's validator is not installed: Debian package libpixelmed-java")
    flags = [f"-Djdk.xml.xpath{limit}=0" for limit in _LIMITS]
    command = [program("java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *flags, "-cp", f"{_JARS}/*"]
    command.append("com.pixelmed.validate.DicomSRValidator")
    running = {path: _started([*command, str(path)]) for path in paths}
    found = {}
    for path, process in running.items():
        printed, _ = process.communicate(timeout=240)
        if "IOD validation complete" not in printed:
            raise RuntimeError(f"PixelMed's validator gave up:\n{printed}")
        found[path] = [line for line in printed.splitlines() if line.startswith("Error")]
    return found


def _started(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
