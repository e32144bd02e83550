"""A base image made of Debian's packages, for where no registry is within reach.

Knows Debian and the Python that it has. Does not know what is built on it.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from deploy.images.buildah import Buildah

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
KEPT = "/usr/share/doc/*/copyright"


def base_name() -> str:
    """Another one for other choices."""
    choices = repr((SUITE, PACKAGES, LEFT_OUT, KEPT))
    return f"localhost/mediround-base:{SUITE}-{hashlib.sha256(choices.encode()).hexdigest()[:12]}"


def ensure_base(buildah: Buildah, directory: Path) -> str:
    """The name of the base image; made once for each choice above.

    Raises:
        subprocess.CalledProcessError: mmdebstrap could not; it has said why.
    """
    name = base_name()
    if not buildah.exists(name):
        archive = directory / "base.tar"
        options = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT] + [f"--dpkgopt=path-include={KEPT}"]
        packages = "--include=" + ",".join(PACKAGES)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", packages, *options, SUITE, str(archive)]
        subprocess.run(command, check=True)  # noqa: S603  # our own words alone
        buildah.import_root(archive, name)
        archive.unlink()
    return name
