"""This machine's ways to packages (mirrors, certificates), for a build and not for the image.

A build that may not ask PyPI itself is told by a mounted file; nothing of it stays in a layer. Knows pip's
configuration. Does not know buildah or what is installed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CARRIED = ("cert", "extra-index-url", "find-links", "index-url", "proxy", "trusted-host")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def pip_mounts(directory: Path) -> list[str]:
    """Mounts, ``HOST:CONTAINER:ro``, that make pip in a build find what pip here finds."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    values = dict(_carried(listed.stdout))
    file = (directory / "pip.conf").resolve()
    file.touch(mode=0o600)  # an index may be named with a password
    lines = (f"{key} = {value}".replace("\n", "\n    ") for key, value in values.items())
    file.write_text("\n".join(["[global]", *lines, ""]))
    local = {path for value in values.values() for word in value.split() if (path := _path(word)).exists()}
    if CERTIFICATES.exists():
        local.add(CERTIFICATES)
    return [f"{file}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in sorted(local))]


def _carried(listed: str) -> Iterator[tuple[str, str]]:
    """Of ``pip config list``, the environment's last: the last word counts."""
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in CARRIED:
            yield key, str(ast.literal_eval(value))


def _path(word: str) -> Path:
    """What to mount for a local path, or for a file URL of an index, whose links lead beside it."""
    if word.startswith("file://"):
        return Path(word.removeprefix("file://")).parent
    return Path(word if word.startswith("/") else "/nonexistent")
