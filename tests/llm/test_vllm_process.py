"""Real vLLM behind the language server: a round through three processes, and the death of the engine's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from loadtest.server_process import Launched, free_port, launched
from mediround import Client, Unavailable
from serving.bundle import Bundle
from tests.contract.conftest import needs_vllm
from tests.llm.test_process import ENGINE_DIED, IMAGE, NOT_SERVING, SERVING, START_FAILED, health_of, until


def engine_processes(server: Launched) -> list[int]:
    """vLLM's children of the language server."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text().startswith("VLLM")]


def test_vllms_own_reason_is_what_its_owner_reads(random_bundle: Bundle) -> None:
    """It is raised in a process of vLLM's: here, for a cache that does not hold one prompt."""
    needs_vllm()
    command = [
        sys.executable,
        "-m",
        "serving.llm",
        "--bundle",
        str(random_bundle.directory),
        "--listen",
        "127.0.0.1:0",
    ]
    flags = ["--engine", "vllm-cpu", "--vllm.kv-cache-bytes", str(1 << 20)]
    ended = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == START_FAILED
    [line] = [each for each in ended.stderr.splitlines() if "cannot serve: " in each]
    assert "vLLM does not start: To serve at least one request" in line
    assert line.endswith("(the cache's bytes: --vllm.kv-cache-bytes)")
    assert "root cause" not in line


def test_a_killed_engine_ends_its_server_and_no_session(random_bundle: Bundle, tmp_path: Path) -> None:
    needs_vllm()
    log, port = tmp_path / "language.log", free_port()
    measured = ["--metrics-listen", f"127.0.0.1:{port}"]
    with ExitStack() as stack:
        language = stack.enter_context(
            launched(random_bundle.directory, log, ["--engine", "vllm-cpu", *measured], 240, module="serving.llm")
        )
        flags = ["--language", f"grpc://{language.address}"]
        server = stack.enter_context(launched(random_bundle.directory, tmp_path / "server.log", flags))
        client = stack.enter_context(Client(server.address, timeout=60))
        session = client.open(IMAGE)
        first = session.ask("Segment the liver.", mode="forced")
        second = session.ask("Segment the tumor in it.", refer_to=first, mode="grammar")
        assert second.mask is not None
        assert second.cache.cached_tokens > 0
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:  # loopback
            told = answer.read().decode()
        assert re.search(r"^vllm:prefix_cache_hits_total\{.*\} [1-9]", told, re.MULTILINE)  # vLLM's own
        assert 'mediround_engine_up{engine="language"} 1.0' in told
        engines = engine_processes(language)
        for pid in engines:  # stopped first, so that the round is on its way when they die
            os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(session.ask, "Segment the vessel.", mode="forced")
            time.sleep(0.5)
            for pid in engines:
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(Unavailable) as lost:
                asked.result()
        assert lost.value.retry_after > 0
        assert language.process.wait(60) == ENGINE_DIED
        until(lambda: health_of(server.address, "language") == NOT_SERVING)
        assert health_of(server.address) == SERVING
        stack.enter_context(
            launched(
                random_bundle.directory, tmp_path / "next.log", module="serving.llm", address=language.address
            )
        )
        until(lambda: health_of(server.address, "language") == SERVING)
        assert session.ask("Segment the vessel.", mode="forced").index == 2
    assert "the engine has died" in log.read_text()
