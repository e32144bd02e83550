"""``python -m serving --vision triton://`` with a real Triton: killed under a session, and of another bundle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from demo.triton.server import Installation, Triton, triton
from loadtest.server_process import free_port, launched
from mediround import Client, Unavailable
from serving.bundle import Bundle
from tests.llm.test_process import IMAGE, NOT_SERVING, SERVING, START_FAILED, health_of, until


def test_a_triton_that_is_killed_and_comes_back_ends_no_session(
    random_bundle: Bundle, installation: Installation, random_repository: Path, tmp_path: Path
) -> None:
    port, key = free_port(), "same-key"
    run = partial(triton, random_repository, installation=installation, grpc_port=port, admin_key=key)
    with ExitStack() as stack:
        first = stack.enter_context(run(tmp_path / "1.log"))
        flags, environment = ["--vision", f"triton://127.0.0.1:{port}"], {"MEDIROUND_TRITON__ADMIN_KEY": key}
        log = tmp_path / "server.log"
        server = stack.enter_context(launched(random_bundle.directory, log, flags, environment=environment))
        client = stack.enter_context(Client(server.address, timeout=60))
        session = client.open(IMAGE)
        asked = session.ask("Where?", mode="forced")
        until(lambda: health_of(server.address, "vision") == SERVING)

        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
        for _ in range(2):
            with pytest.raises(Unavailable) as lost:
                session.ask("And there?", refer_to=asked, mode="forced")
            assert retry_seconds(lost.value) > 0
        until(lambda: health_of(server.address, "vision") == NOT_SERVING)
        assert health_of(server.address) == SERVING

        stack.enter_context(run(tmp_path / "2.log"))
        until(lambda: health_of(server.address, "vision") == SERVING)
        answered = session.ask("And there?", refer_to=asked, mode="forced")
        assert answered.index == 1
        assert answered.cache.embedding_hit
        with client.open(IMAGE) as unharmed:
            first_round = unharmed.ask("Where?", mode="forced")
            expected = unharmed.ask("And there?", refer_to=first_round, mode="forced")
        assert np.array_equal(asked.mask, first_round.mask)
        assert np.array_equal(answered.mask, expected.mask)
    assert "Traceback" not in log.read_text()


def retry_seconds(told: Unavailable) -> float:
    """Of its RetryInfo; the client's own number is 1 where there is none."""
    failure = told.__cause__
    assert isinstance(failure, grpc.RpcError)
    details = dict(failure.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status_pb2.Status.FromString(details).details)
    return info.retry_delay.ToNanoseconds() / 1e9


def test_a_triton_of_another_bundle_ends_the_start_with_one_line(
    random_bundle: Bundle, random_triton: Triton, tmp_path: Path
) -> None:
    other = tmp_path / "bundle"
    shutil.copytree(random_bundle.directory, other)
    manifest = json.loads((other / "manifest.json").read_text())
    with (other / "image_encoder.onnx").open("ab") as stream:
        stream.write(b"\x12\x04more")  # another producer_name: still a graph
    manifest["files"]["image_encoder.onnx"] = hashlib.sha256(
        (other / "image_encoder.onnx").read_bytes()
    ).hexdigest()
    (other / "manifest.json").write_text(json.dumps(manifest))
    flags = ["--bundle", str(other), "--listen", "127.0.0.1:0", "--vision", f"triton://{random_triton.address}"]
    ended = subprocess.run(
        [sys.executable, "-m", "serving", *flags],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"MEDIROUND_TRITON__ADMIN_KEY": random_triton.admin_key},
    )
    assert ended.returncode == START_FAILED
    (line,) = [line for line in ended.stderr.splitlines() if "cannot serve" in line]
    assert "image_encoder: the graph's SHA-256 is" in line
    assert "mask_decoder" not in line
    assert "Traceback" not in ended.stderr
