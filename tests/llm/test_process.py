"""Orchestrator and language servers as processes: starting in any order, and dying by ``kill -9``."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loadtest.server_process import Launched, free_port, launched
from mediround import Client, Unavailable
from serving.bundle import Bundle
from tests.conftest import REPOSITORY

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
IMAGE = np.random.default_rng(0).integers(1, 256, (64, 64, 3), np.uint8)
ENGINE_DIED, START_FAILED = 1, 2


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def health_of(address: str, service: str = "") -> int | None:
    """None: nobody answers."""
    with grpc.insecure_channel(address) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=service)
            return health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status
        except grpc.RpcError:
            return None


def until(happened: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def language_server(stack: ExitStack, bundle: Bundle, log: Path, address: str = "") -> Launched:
    return stack.enter_context(launched(bundle.directory, log, module="serving.llm", address=address))


def orchestrator(stack: ExitStack, bundle: Bundle, log: Path, *servers: Launched) -> Launched:
    language = "grpc://" + ",".join(server.address for server in servers)
    return stack.enter_context(launched(bundle.directory, log, ["--language", language]))


def kill(server: Launched) -> None:
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(20)


def test_a_session_survives_the_death_of_the_only_language_server(
    stack: ExitStack, random_bundle: Bundle, tmp_path: Path
) -> None:
    first = language_server(stack, random_bundle, tmp_path / "first.log")
    server = orchestrator(stack, random_bundle, tmp_path / "server.log", first)
    client = stack.enter_context(Client(server.address, timeout=60))
    session = client.open(IMAGE)
    earlier = session.ask("Segment the liver.", mode="forced")
    # Stopped first, so that the round is on its way when the process dies.
    first.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(session.ask, "Segment the tumor in it.", refer_to=earlier, mode="forced")
        time.sleep(0.5)
        kill(first)
        with pytest.raises(Unavailable) as lost:
            asked.result()
    assert lost.value.retry_after > 0
    until(lambda: health_of(server.address, "language") == NOT_SERVING)
    assert health_of(server.address) == SERVING
    with pytest.raises(Unavailable):
        session.ask("Segment the tumor in it.", refer_to=earlier, mode="forced")
    language_server(stack, random_bundle, tmp_path / "second.log", first.address)
    until(lambda: health_of(server.address, "language") == SERVING)
    later = session.ask("Segment the tumor in it.", refer_to=earlier, mode="forced")
    assert later.index == 1
    assert later.reference is not None
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_sessions_go_on_with_the_second_language_server(
    stack: ExitStack, random_bundle: Bundle, tmp_path: Path
) -> None:
    servers = [language_server(stack, random_bundle, tmp_path / f"{i}.log") for i in range(2)]
    server = orchestrator(stack, random_bundle, tmp_path / "server.log", *servers)
    client = stack.enter_context(Client(server.address, timeout=60))
    sessions = [client.open(IMAGE) for _ in range(6)]
    for session in sessions:
        session.ask("Segment the liver.", mode="forced")
    kill(servers[0])
    for session in sessions:
        try:
            result = session.ask("Segment the tumor in it.", refer_to=0, mode="forced")
        except Unavailable as lost:  # the round that met the death
            time.sleep(lost.retry_after)
            result = session.ask("Segment the tumor in it.", refer_to=0, mode="forced")
        assert result.index == 1
    assert health_of(server.address, "language") == SERVING


def test_the_orchestrator_waits_for_its_language_server(
    stack: ExitStack, random_bundle: Bundle, tmp_path: Path
) -> None:
    language, address = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    starting = launched(
        random_bundle.directory, tmp_path / "server.log", ["--language", f"grpc://{language}"], address=address
    )
    with ThreadPoolExecutor(1) as pool:
        ready = pool.submit(stack.enter_context, starting)
        until(lambda: health_of(address) == NOT_SERVING)
        assert health_of(address, "language") == NOT_SERVING
        language_server(stack, random_bundle, tmp_path / "language.log", language)
        assert ready.result().address == address
    with Client(address, timeout=60) as client:
        assert client.describe().language_engine == "grpc/onnxruntime/CPUExecutionProvider"


def test_it_can_be_stopped_while_it_waits(random_bundle: Bundle, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "serving", "--bundle", str(random_bundle.directory), "--listen", address]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--language", f"grpc://127.0.0.1:{free_port()}"], stderr=log, cwd=REPOSITORY
        )
        until(lambda: health_of(address) == NOT_SERVING)
        process.terminate()
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_a_language_server_with_another_bundle_is_refused(
    stack: ExitStack, random_bundle: Bundle, tmp_path: Path
) -> None:
    language = language_server(stack, random_bundle, tmp_path / "language.log")
    command = [sys.executable, "-m", "serving", "--bundle", "models/mediround-lite", "--listen", "127.0.0.1:0"]
    ended = subprocess.run(
        [*command, "--language", f"grpc://{language.address}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
    )
    assert ended.returncode == START_FAILED
    assert f"language server {language.address}: it serves bundle" in ended.stderr
    assert random_bundle.digest[:12] in ended.stderr
    assert "Traceback" not in ended.stderr


def test_sigterm_drains_a_language_server(stack: ExitStack, random_bundle: Bundle, tmp_path: Path) -> None:
    language = language_server(stack, random_bundle, tmp_path / "language.log")
    language.process.terminate()
    assert language.process.wait(30) == 0
    assert "draining" in (tmp_path / "language.log").read_text()


def test_a_dead_engine_ends_its_process_for_the_supervisor(
    stack: ExitStack, random_bundle: Bundle, tmp_path: Path
) -> None:
    log = tmp_path / "language.log"
    language = stack.enter_context(launched(random_bundle.directory, log, module="tests.llm.mortal"))
    server = orchestrator(stack, random_bundle, tmp_path / "server.log", language)
    client = stack.enter_context(Client(server.address, timeout=60))
    session = client.open(IMAGE)
    session.ask("Segment the liver.", mode="forced")
    language.process.send_signal(signal.SIGUSR1)
    with pytest.raises(Unavailable):
        session.ask("Segment the tumor in it.", mode="forced")
    assert language.process.wait(30) == ENGINE_DIED
    assert "the engine has died" in log.read_text()
    assert "Traceback" not in log.read_text()
    until(lambda: health_of(server.address, "language") == NOT_SERVING)
    assert health_of(server.address) == SERVING


def test_a_language_server_refuses_an_open_bind(random_bundle: Bundle) -> None:
    command = [sys.executable, "-m", "serving.llm", "--bundle", str(random_bundle.directory)]
    ended = subprocess.run(
        [*command, "--listen", "0.0.0.0:0"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == START_FAILED
    assert "--allow-insecure-bind" in ended.stderr
