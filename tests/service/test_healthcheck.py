"""``python -m serving.healthcheck`` against the real service."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from serving.api.server import Server, serving
from tests.service.certificates import Authority
from tests.service.harness import Stage


async def probe(*flags: str) -> tuple[int, str, str]:
    """Exit status and what was said, to each of the streams."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serving.healthcheck", *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode().strip(), err.decode().strip()


async def test_a_server_that_serves(server: Server) -> None:
    assert await probe("--address", server.address) == (0, "SERVING", "")


async def test_whatever_proxy_the_host_has(
    server: Server, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port}")
    assert await probe("--address", server.address) == (0, "SERVING", "")


async def test_a_service_that_it_does_not_have(server: Server) -> None:
    assert await probe("--address", server.address, "--service", "other") == (1, "NOT_FOUND", "")


async def test_nobody_there(free_port: int) -> None:
    status, said, _ = await probe("--address", f"127.0.0.1:{free_port}", "--timeout", "2")
    assert status == 1
    assert said in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize(
    ("flag", "value", "named"), [("--address", "x", "address"), ("--tls.ca", "/none", "/none")]
)
async def test_settings_that_cannot_be_used(flag: str, value: str, named: str) -> None:
    status, said, told = await probe(flag, value)
    assert (status, said) == (2, "")
    assert named in told
    assert "\n" not in told


async def test_over_tls(stage: Stage, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl command to make certificates with")
    ours, theirs = Authority.make(tmp_path / "ours"), Authority.make(tmp_path / "theirs")
    async with serving(stage.service, tls=ours.server()) as server:
        address = ("--address", server.address, "--timeout", "3")
        assert (await probe(*address, "--tls.ca", str(ours.certificate)))[0] == 0
        assert (await probe(*address, "--tls.ca", str(theirs.certificate)))[0] == 1
        assert (await probe(*address))[0] == 1
