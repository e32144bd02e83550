"""``python -m serving --sessions.store sqlite`` as a process: killed, started again, and refused to start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.server_process import launched
from mediround import channels
from mediround.v1 import segmentation_pb2 as pb
from mediround.v1.segmentation_pb2_grpc import SegmentationServiceStub
from serving.bundle import Bundle
from tests.service.sessions import Caller, asks, bits_of, essence, refers_to, refused, request_id

FORCED = {"answer_mode": pb.ANSWER_MODE_FORCED, "answer": "It is [SEG]."}


async def test_kill_9_loses_no_round_that_was_answered(random_bundle: Bundle, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0f" * 32)
    flags = ["--sessions.store", "sqlite", "--sessions.path", str(tmp_path / "sessions.db")]
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


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--sessions.path", "{here}/no-database"], "SQLITE_NOTADB"),
        (["--sessions.path", "{here}/none/sessions.db"], "No such file or directory"),
        (["--sessions.path", "{here}/s.db", "--sessions.key-file", "{here}/no-database"], "64 hexadecimal digits"),
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
