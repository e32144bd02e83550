"""A second model: the bundled one under another version, so that its digest is another.

Knows bundles' manifests. Does not know what is compared.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

MANIFEST = "manifest.json"


def write_other(bundle: Path, out: Path) -> Path:
    """A bundle of the same weights, and of another digest: results must agree."""
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(bundle, out, ignore=shutil.ignore_patterns("slices", "training"))
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["version"] = f"{manifest['version']}-again"
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return out
