"""Two programs that hold DICOM objects to the standard: dciodvfy any object, PixelMed's a report to its template.

Knows their command lines and how they tell an error. Does not know what is checked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from demo.dicom.programs import MissingProgram, program

_JARS = Path("/usr/share/java")
_SCRIPT = Path(__file__).with_name("validate.bsh")
_NEXT = "== next report\n"
"""What the script prints before each report's findings."""
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
    """What PixelMed's DicomSRValidator finds wrong with each report; all in one Java, by a script.

    Raises MissingProgram where it is not installed.
    """
    for jar, package in (("pixelmed", "libpixelmed-java"), ("bsh", "libbsh-java")):
        if not list(_JARS.glob(f"{jar}*.jar")):
            raise MissingProgram(f"PixelMed's validator is not installed: Debian package {package}")
    flags = [f"-Djdk.xml.xpath{limit}=0" for limit in _LIMITS]
    command = [program("java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *flags, "-cp", f"{_JARS}/*"]
    command += ["bsh.Interpreter", str(_SCRIPT), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)  # noqa: S603  # Debian's
    printed = done.stdout.split(_NEXT)[1:]
    if len(printed) != len(paths) or not all("IOD validation complete" in each for each in printed):
        raise RuntimeError(f"PixelMed's validator gave up:\n{done.stdout}{done.stderr}")
    return {
        path: [line for line in each.splitlines() if line.startswith("Error")]
        for path, each in zip(paths, printed, strict=True)
    }
