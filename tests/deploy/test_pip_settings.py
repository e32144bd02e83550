"""pip's settings, carried into a build."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from deploy.images import pip_settings


def test_what_is_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, wheels = tmp_path / "pypi" / "simple", tmp_path / "wheels"
    index.mkdir(parents=True)
    wheels.mkdir()
    listed = (
        f":env:.find-links='{wheels}'\n:env:.disable-pip-version-check='1'\n"
        f"global.extra-index-url='file://{index} https://anna:secret@mirror.example/simple'\n"
        "global.find-links='/elsewhere'\n"
    )
    done = subprocess.CompletedProcess([], 0, listed, "")
    monkeypatch.setattr(subprocess, "run", lambda *command, **how: done)
    monkeypatch.setattr(pip_settings, "CERTIFICATES", tmp_path / "none")
    file = tmp_path / "pip.conf"
    assert pip_settings.pip_mounts(tmp_path) == [
        f"{file}:/etc/pip.conf:ro",
        f"{index.parent}:{index.parent}:ro",
        f"{wheels}:{wheels}:ro",
    ]
    assert file.read_text() == (
        "[global]\n"
        f"extra-index-url = file://{index} https://anna:secret@mirror.example/simple\n"
        f"find-links = {wheels}\n"
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
