"""The service that ``mediround annotate --engine embedded`` starts: it answers, and ends with who started it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import EntryPoints
from pathlib import Path
from typing import Any

import pytest

from mediround import Client
from mediround.annotate.engines import embedded as module
from mediround.annotate.engines.embedded import embedded
from mediround.annotate.errors import AnnotateError
from serving.bundle import Bundle

PROGRAM = """
import sys, time
from pathlib import Path
from mediround.annotate.engines.embedded import embedded
with embedded(Path(sys.argv[1]), 1) as (address, _):
    print(address, flush=True)
    time.sleep(600)
"""


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), 1.0):
        return True
    return False


def wait_for_end(address: str) -> None:
    deadline = time.monotonic() + 60.0
    while listens(address) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not listens(address)


def test_it_serves_while_the_block_runs(random_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIROUND_LISTEN", "nowhere")  # of another server
    monkeypatch.setenv("MEDIROUND_ENGINES__THREADS", "2")
    with embedded(random_bundle.directory) as (address, _), Client(address) as client:
        served = client.describe()
        assert served.model_digest == random_bundle.digest
        assert {record.language.threads for record in served.engine_records} == {2}
    assert not listens(address)


def test_it_ends_with_who_started_it(random_bundle: Bundle) -> None:
    command = [sys.executable, "-c", PROGRAM, str(random_bundle.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        address = owner.stdout.readline().strip()
        assert listens(address)
        owner.send_signal(signal.SIGKILL)
    wait_for_end(address)


def test_one_that_ends_by_itself_is_started_again_and_says_so_where_it_cannot_be(
    random_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[subprocess.Popen[str]] = []

    class Noted(subprocess.Popen[str]):
        def __init__(self, *values: Any, **named: Any) -> None:
            super().__init__(*values, **named)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    bundle = shutil.copytree(random_bundle.directory, tmp_path / "bundle")
    with embedded(bundle, 1) as (address, ended), Client(address) as client:
        started[0].kill()
        started[0].wait()
        client.wait_until_ready()
        assert client.describe().model_digest == random_bundle.digest
        assert not ended.done()
        assert "the service ended and is started again: exit code -9" in caplog.text
        (bundle / "manifest.json").unlink()
        started[1].kill()
        assert "did not start again: exit code 2" in ended.result(60)
    assert len(started) == 3


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AnnotateError, match="must have --bundle DIR"), embedded(None):
        pass
    with pytest.raises(AnnotateError, match=r"did not start: .*manifest\.json"), embedded(tmp_path):
        pass
    monkeypatch.setattr(module, "entry_points", lambda **_: EntryPoints())
    with pytest.raises(AnnotateError, match=r"mediround-serving .* pip install"), embedded(tmp_path):
        pass
