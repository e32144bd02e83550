"""A log of JSON objects holds nothing else: neither what libraries write, nor the words of a failed start."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from loadtest.server_process import launched
from mediround import Client, InvalidArgument
from serving import stray_output
from serving.bundle import Bundle

NAME = "NAME^OF^A^PATIENT"
JSON = ["--log-format", "json"]


def objects(text: str) -> list[dict[str, object]]:
    """Raises ValueError for a line that is none."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(isinstance(line, dict) for line in found)
    return found


def broken_files() -> list[bytes]:
    """Cut anywhere, with a patient's name in their tags and their data."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[315] = NAME, NAME
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    whole = []
    for form, how in (
        ("TIFF", {"compression": "tiff_lzw", "tiffinfo": tags}),
        ("TIFF", {"compression": "jpeg", "tiffinfo": tags}),
        ("TIFF", {"compression": "tiff_deflate", "tiffinfo": tags}),
        ("TIFF", {"tiffinfo": tags}),
        ("JPEG", {"comment": NAME.encode()}),
        ("PNG", {}),
    ):
        file = BytesIO()
        noise.save(file, form, **how)
        whole.append(file.getvalue())
    rotten = bytearray(whole[0])
    rotten[5000:5400] = (NAME.encode() * 30)[:400]
    return [bytes(rotten), *(data[: int(len(data) * cut)] for data in whole for cut in (0.1, 0.5, 0.9, 0.999))]


def test_broken_files_and_a_taken_port(random_bundle: Bundle, tmp_path: Path) -> None:
    directory, log = random_bundle.directory, tmp_path / "server.log"
    with launched(directory, log, JSON) as server, Client(server.address) as client:
        for data in broken_files():
            with pytest.raises(InvalidArgument):
                client.open(data)
        client.open(np.ones((8, 8), np.uint8)).close()
        second = started("--bundle", str(directory), "--listen", server.address, *JSON)
    assert second.returncode == 2
    assert second.stdout == ""
    assert any("cannot serve" in str(line["message"]) for line in objects(second.stderr))
    assert any(str(line["message"]).startswith("serving ") for line in objects(log.read_text()))
    assert NAME not in log.read_text()


@pytest.mark.parametrize("flags", [["--listen", "nowhere"], ["--drain-seconds", "nan"], ["--bundle", "nowhere"]])
def test_a_start_that_is_refused(flags: list[str]) -> None:
    for form in (JSON, ["--log-format=json"]):
        ended = started("--bundle", "nowhere", *flags, *form)
        assert ended.returncode == 2
        [line] = objects(ended.stderr)
        assert line["level"] == "ERROR"


def test_the_environment_chooses_json_as_well() -> None:
    ended = started("--listen", "nowhere", environment={"MEDIROUND_LOG_FORMAT": "json"})
    assert objects(ended.stderr)


def started(*flags: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", *flags]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **(environment or {})}
    )


def test_what_c_code_and_children_write_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("stray-test")
    with stray_output.logged(log):
        ctypes.CDLL(None).dprintf(2, b"a line of C\n")
        subprocess.run(["sh", "-c", "echo of a child; printf unfinished >&2"], check=True)
    assert [record.getMessage() for record in caplog.records] == ["a line of C", "of a child", "unfinished"]


def test_a_flood_is_cut_and_never_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    with stray_output.logged(logging.getLogger("stray-test")):
        # Holds this interpreter's lock, so that nobody can read meanwhile.
        write = ctypes.PyDLL(None).write
        for _ in range(100):
            write(2, b"x" * 65_535 + b"\n", 65_536)
    assert 0 < sum(len(record.getMessage()) for record in caplog.records) < 6_553_600
