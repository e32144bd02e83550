"""A run that is killed, whose service is started again, or whose disk is full: nothing is lost, nothing twice.

The command in a process of its own against a scripted server in this one, which counts what it is asked. A few
kills in CI; ``make chaos`` makes more. The seed is printed.
"""

import io
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediround.annotate.index import read_parts
from mediround.annotate.items import Question
from mediround.annotate.job import Job, Run, RunIdentity
from mediround.annotate.manifest import write_manifest
from mediround.annotate.recording import ITEMS_A_PART
from mediround.annotate.rows import Row, rows_of
from mediround.testing import DESCRIPTION, Answer, AskedQuestion, Script, ScriptedServer, serve
from tests.unit.client.annotate.items import an_item

KILLS = 5 * int(os.environ.get("CHAOS_SEEDS", "0")) or 3
ITEMS, IN_FLIGHT, KILLS_A_JOB = 120, 4, 3
QUESTIONS = (
    Question("first", "First", "First.", answer="It is [SEG]."),
    Question("second", "Second", "Second.", refer_to=0, answer="It is [SEG]."),
)
OF_ITS_TIME = {"seconds", "seconds_queue", "seconds_encode", "seconds_language", "seconds_decode"}
FULL_AT = 1 << 10
"""Bytes that a file may have once the disk is full: less than a part of the index has."""
UNCOMMITTED = 3 * ITEMS_A_PART
"""Items that are finished and not yet in a part: one that is being written, and two parts' worth that wait."""


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with serve(Script(lambda asked: Answer(delay=0.02 * (asked.index == 0)))) as running:
        yield running


def a_job(folder: Path, items: int = ITEMS) -> tuple[Job, Run]:
    folder.mkdir()
    job = Job.begin(folder / "job")
    found = []
    for number in range(items):
        held = io.BytesIO()
        Image.fromarray(np.zeros((80, 40 + number), np.uint8)).save(held, "PNG")
        found.append(an_item(folder / f"{number}.png", held.getvalue(), QUESTIONS))
    write_manifest(job.manifest, found)
    return job, job.take_up(RunIdentity.of(DESCRIPTION, "referenced"))


def started(job: Job, server: ScriptedServer, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mediround", "annotate", "run", "--job", str(job.folder)]
    command += ["--server", server.address, "--in-flight", str(IN_FLIGHT), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(run: Run) -> list[Row]:
    return [row for _, table in read_parts(run.index) for row in rows_of(table)]


def plain(run: Run) -> list[Row]:
    """What must be the same of two runs."""
    once = {"request_id": "", "finished": datetime(2026, 1, 1, tzinfo=UTC), **dict.fromkeys(OF_ITS_TIME)}
    return sorted((replace(row, **once) for row in rows(run)), key=lambda row: (row.item_id, row.round))


def kept(run: Run) -> set[str]:
    return {row.item_id for row in rows(run)}


def items_asked(asked: tuple[AskedQuestion, ...]) -> int:
    return sum(each.index == 0 for each in asked)


def kill_once(server: ScriptedServer, job: Job, run: Run, after: int) -> int | None:
    """Kill a run when so many more questions have come; how many items of these are not kept. None: it ended."""
    begun, had = len(server.asked), len(kept(run))
    process = started(job, server)
    while len(server.asked) < begun + after and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.communicate()
    time.sleep(0.1)  # what is on its way to the server arrives
    if process.returncode != -signal.SIGKILL:
        return None
    return items_asked(server.asked[begun:]) - (len(kept(run)) - had)


def finish(server: ScriptedServer, job: Job, *more: str) -> None:
    process = started(job, server, *more)
    said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def test_runs_that_are_killed_lose_nothing_and_ask_nothing_twice_that_is_kept(
    server: ScriptedServer, tmp_path: Path
) -> None:
    unkilled, of_unkilled = a_job(tmp_path / "unkilled")
    finish(server, unkilled)
    seed = int(os.environ.get("KILL_SEED", time.time_ns() % 1_000_000))
    print(f"KILL_SEED={seed}")
    drawn, killed, number = np.random.default_rng(seed), 0, 0
    while killed < KILLS:
        number += 1
        job, run = a_job(tmp_path / str(number))
        begun, again = len(server.asked), 0
        for _ in range(min(KILLS_A_JOB, KILLS - killed)):
            lost = kill_once(server, job, run, int(drawn.integers(1, ITEMS)))
            if lost is None:
                break
            assert 0 <= lost <= IN_FLIGHT + UNCOMMITTED
            killed, again = killed + 1, again + lost
        finish(server, job)
        assert plain(run) == plain(of_unkilled)
        assert items_asked(server.asked[begun:]) == ITEMS + again
        assert not list(job.folder.rglob("*unfinished*"))
    print(f"{killed} kills, {number} jobs")


def test_a_run_that_is_told_to_stop_keeps_what_is_under_way(server: ScriptedServer, tmp_path: Path) -> None:
    job, run = a_job(tmp_path / "made")
    begun = len(server.asked)
    process = started(job, server)
    while len(server.asked) < begun + 20:
        time.sleep(0.002)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert items_asked(server.asked[begun:]) == len(kept(run)) < ITEMS
    finish(server, job)
    assert items_asked(server.asked[begun:]) == ITEMS == len(kept(run))


def test_a_full_disk_ends_a_run_with_words_and_what_is_finished_stays(
    server: ScriptedServer, tmp_path: Path
) -> None:
    job, run = a_job(tmp_path / "made")
    begun = len(server.asked)
    process = started(job, server)
    while len(server.asked) < begun + ITEMS:
        time.sleep(0.002)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL_AT, FULL_AT))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 4, said
    assert "what is finished stays" in said
    assert len(kept(run)) < ITEMS
    assert not list(job.folder.rglob("*unfinished*"))
    finish(server, job)
    assert len(rows(run)) == ITEMS * len(QUESTIONS)
