"""``python -m serving`` with a store for sessions as a process: killed, started again, and refused to start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from loadtest.server_process import launched
from mediround import channels
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.bundle import Bundle
from serving.stores.sessions import MemorySessions
from tests.conftest import REPOSITORY
from tests.scripted import redis
from tests.service.sessions import Caller, asks, bits_of, essence, refers_to, refused, request_id
from tests.unit.serving import kept

FORCED = {"answer_mode": pb.ANSWER_MODE_FORCED, "answer": "It is [SEG]."}


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Running]:
    with redis.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


def place_of(store: str, request: pytest.FixtureRequest) -> str:
    """A path, or the address of a Redis, where nothing is yet."""
    if store == "sqlite":
        return str(request.getfixturevalue("tmp_path") / "sessions.db")
    server = request.getfixturevalue("redis_server")
    server.client.flushall()
    return server.url


@pytest.mark.parametrize("store", ["sqlite", "redis"])
async def test_kill_9_loses_no_round_that_was_answered(
    random_bundle: Bundle, tmp_path: Path, store: str, request: pytest.FixtureRequest
) -> None:
    key = tmp_path / "key"
    key.write_text("0f" * 32)
    where = "--sessions.path" if store == "sqlite" else "--sessions.redis"
    flags = ["--sessions.store", store, where, place_of(store, request)]
    flags += ["--sessions.key-file", str(key), "--sessions.images", "encrypted"]
    same = request_id()
    with launched(random_bundle.directory, tmp_path / "first.log", flags) as server:
        async with channels.asynchronous(server.address, None) as channel:
            caller = Caller(SegmentationServiceStub(channel))
            await caller.open(keep=True)
            first = await caller.ask(asks(**FORCED))
            second = await caller.ask(refers_to(first), same)
            server.process.kill()
            server.process.wait()
    with launched(random_bundle.directory, tmp_path / "second.log", flags) as server:
        async with channels.asynchronous(server.address, None) as channel:
            caller = Caller(SegmentationServiceStub(channel), caller.session_id)
            rounds = await caller.rounds()
            assert [each.round_id for each in rounds] == [first.round_id, second.round_id]
            for each in (first, second):
                kept = (await caller.call("GetMask", round_id=each.round_id)).mask
                assert (bits_of(kept) == bits_of(each.mask)).all()
            again = await caller.ask(refers_to(first), same)
            assert essence([again]) == essence([second])
            third = await caller.ask(refers_to(second))
            whole = Caller(caller.stub)
            await whole.open()
            start = await whole.ask(asks(**FORCED))
            middle = await whole.ask(refers_to(start))
            assert essence([third]) == essence([await whole.ask(refers_to(middle))])
            await caller.call("CloseSession")
            assert (await refused(caller.call("GetSession"))).reason == "SESSION_CLOSED"


def killed(place: str, seconds: float) -> int:
    """How many changes a process had acknowledged when it was killed, so long after the first."""
    command = [sys.executable, "-m", "tests.unit.serving.kept", place]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(seconds)
        writer.kill()
        return int([first, *writer.stdout][-1])


@pytest.mark.parametrize(
    ("store", "seed"), [*(("sqlite", seed) for seed in range(8)), *(("redis", seed) for seed in (8, 9))]
)
async def test_a_writer_killed_at_any_moment_leaves_each_change_whole_or_not_at_all(
    store: str, seed: int, request: pytest.FixtureRequest
) -> None:
    place = place_of(store, request)
    acknowledged = killed(place, np.random.default_rng(seed).uniform(0, 0.1))
    expected = kept.new().record
    for number in range(acknowledged):
        expected = kept.step(expected, number)
    live = MemorySessions(8, 1 << 26, 60.0, lambda: 0.0, parks=True)
    with ThreadPoolExecutor(2) as executor:
        async with (
            kept.opened(place, live, executor) as opened,
            opened.exclusive("s", kept.CALLER) as held,
        ):
            found = kept.plain(held.record)
    assert found in (kept.plain(expected), kept.plain(kept.step(expected, acknowledged)))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sessions.path", "{here}/no-database"], "SQLITE_NOTADB"),
        (["--sessions.path", "{here}/none/sessions.db"], "No such file or directory"),
        (["--sessions.path", "{here}/s.db", "--sessions.key-file", "{here}/no-database"], "64 hexadecimal digits"),
        (
            ["--sessions.store", "redis", "--sessions.redis", "unix://{here}/none.sock"],
            "--sessions.redis cannot be used",
        ),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_with_one_line(
    random_bundle: Bundle, tmp_path: Path, flags: list[str], words: str
) -> None:
    (tmp_path / "no-database").write_bytes(b"x" * 4096)
    given = [each.format(here=tmp_path) for each in flags]
    command = [
        sys.executable,
        "-m",
        "serving",
        "--bundle",
        str(random_bundle.directory),
        "--sessions.store",
        "sqlite",
    ]
    ended = subprocess.run(
        [*command, "--listen", "127.0.0.1:0", *given], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
