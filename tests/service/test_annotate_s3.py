"""Object stores as sources, against a server that speaks S3: moto, in an environment of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow.fs import S3FileSystem

from loadtest.server_process import free_port
from mediround.__main__ import main
from mediround.annotate import remote
from mediround.testing import Script, serve
from tests.conftest import REPOSITORY
from tests.required import unavailable

PROGRAM = REPOSITORY / "build" / "s3" / "bin" / "moto_server"
START_SECONDS = 60


def png(value: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(held, "PNG")
    return held.getvalue()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    if not PROGRAM.exists():
        unavailable("s3", "build/s3 is not installed: make build/s3/.installed")
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with subprocess.Popen(
        [PROGRAM, "-H", "127.0.0.1", "-p", str(port)], env=clean, stderr=subprocess.DEVNULL
    ) as moto:
        try:
            _wait(f"http://127.0.0.1:{port}/moto-api/", moto)
            yield f"http://127.0.0.1:{port}"
        finally:
            moto.kill()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    last = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < last:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310  # of this machine
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("moto did not start")


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With images below it. The caller's environment names server, region and credentials, as S3's users do."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    remote._s3.cache_clear()
    host = endpoint.removeprefix("http://")
    store = S3FileSystem(endpoint_override=host, scheme="http", allow_bucket_creation=True)
    store.create_dir("archive")
    for number, name in enumerate(("a b.png", "ü.png", "below/100%.png", "below/copy.png", "notes.txt")):
        with store.open_output_stream(f"archive/{name}") as file:
            file.write(png(min(number, 2)) if name.endswith("png") else b"no image")
    rows = [
        {"id": "x", "image": "a b.png", "question": "The left."},
        {"id": "x", "image": "a b.png", "question": "What is this?", "reference": "below/copy.png"},
        {"id": "y", "image": "s3://archive/gone.png", "question": "The left."},
    ]
    with store.open_output_stream("archive/rows/table.jsonl") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    yield "s3://archive"
    remote._s3.cache_clear()


def test_images_of_a_bucket_are_planned_and_run(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(Script()) as server:
        job = ["--job", str(tmp_path / "job"), "--server", server.address]
        plan = ["annotate", "plan", bucket, "--template", "brain-t1-thalami", *job]
        assert main([*plan, "--json"]) == 0
        planned = json.loads(capsys.readouterr().out)
        assert (planned["items"], planned["problems"]) == (3, {})
        assert planned["not_taken"] == {"no_image": 2, "same_image": 1}
        assert main(["annotate", "run", *job]) == 0


def test_a_table_of_a_bucket_names_images_and_masks_there(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(Script()) as server:
        job = ["--job", str(tmp_path / "job"), "--server", server.address]
        source = ["annotate", "plan", f"{bucket}/rows/table.jsonl", "--root", bucket, "--json"]
        assert main([*source, *job]) == 0
        planned = json.loads(capsys.readouterr().out)
        assert (planned["items"], planned["rounds"], planned["problems"]) == (2, 2, {"SOURCE_GONE": 1})
        assert main(["annotate", "run", *job]) == 3


@pytest.mark.parametrize("source", ["s3://archive/none", "s3://no-such-bucket", "s3://archive/none.csv"])
def test_what_is_not_there_is_refused(
    bucket: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(Script()) as server:
        job = ["--job", str(tmp_path / "job"), "--server", server.address]
        assert main(["annotate", "plan", source, "--template", "brain-t1-thalami", *job]) == 2
    assert "see address" in capsys.readouterr().err
