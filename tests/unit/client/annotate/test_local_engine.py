"""The local engine against a scripted server: all items once, whatever fails, and on a resume what is left."""

import asyncio
import gc
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediround import InvalidArgument, ResourceExhausted, Unavailable
from mediround.__main__ import main
from mediround.aio import AsyncClient
from mediround.annotate import ledger as ledgers
from mediround.annotate.annotating import Asking
from mediround.annotate.engines import asker
from mediround.annotate.engines.interface import Progress, RunOptions
from mediround.annotate.engines.local import LocalEngine
from mediround.annotate.engines.service import ServedRun, engine_records
from mediround.annotate.errors import JobError, OtherRun
from mediround.annotate.index import parts, read_parts
from mediround.annotate.items import Question
from mediround.annotate.job import Job, Run, RunIdentity
from mediround.annotate.manifest import read_manifest, write_manifest
from mediround.annotate.rows import Row, rows_of
from mediround.annotate.standing import standing
from mediround.annotate.verify import verify
from mediround.testing import DESCRIPTION, Answer, AskedQuestion, Reply, Script, ScriptedServer, serve
from tests.unit.client.annotate.items import an_item

ITEMS = 30
QUESTIONS = (
    Question("first", "First", "First.", answer="It is [SEG]."),
    Question("second", "Second", "Second.", refer_to=0, answer="It is [SEG]."),
)


def a_picture(width: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.zeros((8, width), np.uint8)).save(held, "PNG")
    return held.getvalue()


def answers(asked: AskedQuestion) -> Answer:
    if asked.width == 17:  # of one item
        raise InvalidArgument("image: must be another")
    return Answer()


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with serve(Script(answers)) as running:
        yield running


@pytest.fixture
def job(tmp_path: Path) -> Job:
    made = Job.begin(tmp_path / "job")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    items = [an_item(pictures / f"{number}.png", a_picture(9 + number), QUESTIONS) for number in range(ITEMS)]
    write_manifest(made.manifest, items)
    return made


@pytest.fixture
def run(job: Job) -> Run:
    return job.take_up(RunIdentity.of(DESCRIPTION, "referenced"))


def options(server: ScriptedServer, run: Run, **changed: object) -> RunOptions:
    asking = Asking(run.key, "referenced", 0.5)
    return replace(RunOptions(server.address, asking, in_flight=4), **changed)


def found(run: Run) -> list[Row]:
    return [row for _, table in read_parts(run.index) for row in rows_of(table)]


def watch(progress: Progress) -> None:
    assert progress.done <= progress.total


def test_every_item_is_in_the_index_once(server: ScriptedServer, job: Job, run: Run) -> None:
    summary = LocalEngine().run(job, run, options(server, run), watch)
    rows = found(run)
    assert sorted((row.item_id, row.round) for row in rows) == sorted({(row.item_id, row.round) for row in rows})
    assert len(rows) == ITEMS * 2
    assert (summary.progress.done, summary.progress.failed, summary.failures) == (
        ITEMS,
        1,
        {"INVALID_ARGUMENT": 1},
    )
    assert len(parts(run.index)) == 1  # merged


def test_a_second_start_asks_only_what_failed_where_told(server: ScriptedServer, job: Job, run: Run) -> None:
    LocalEngine().run(job, run, options(server, run), watch)
    before = len(server.asked)
    assert LocalEngine().run(job, run, options(server, run), watch).progress.here == 0
    again = LocalEngine().run(job, run, options(server, run, retry_failed=True), watch)
    assert (again.progress.here, again.progress.done, again.progress.failed) == (1, ITEMS, 1)
    assert len(server.asked) - before <= 2
    assert len(found(run)) == ITEMS * 2


def test_a_lost_ledger_is_made_again_from_the_index(server: ScriptedServer, job: Job, run: Run) -> None:
    LocalEngine().run(job, run, options(server, run), watch)
    run.ledger().write_bytes(b"no database at all" * 100)
    assert LocalEngine().run(job, run, options(server, run), watch).progress.here == 0
    for part in parts(run.index):
        part.unlink()
    assert LocalEngine().run(job, run, options(server, run), watch).progress.here == ITEMS
    assert len(found(run)) == ITEMS * 2


def test_shards_are_parts_of_one_run(server: ScriptedServer, job: Job, run: Run) -> None:
    def shard(i: int, n: int, **changed: object) -> Progress:
        return LocalEngine().run(job, run, options(server, run, shard=(i, n), **changed), watch).progress

    first = shard(0, 2)
    assert 0 < first.done == first.total < ITEMS
    others = [shard(i, 3) for i in range(3)]  # a site that has more machines now cuts it anew
    assert sum(each.done for each in others) == ITEMS
    assert all(each.total == each.done for each in others)
    assert first.here + sum(each.here for each in others) == ITEMS
    assert sum(shard(i, 2, retry_failed=True).here for i in range(2)) == 1
    assert LocalEngine().run(job, run, options(server, run), watch).progress.here == 0
    assert verify(job, run).problems == {}


def test_a_run_is_given_up_when_too_much_fails(server: ScriptedServer, job: Job, run: Run) -> None:
    for picture in list((job.folder.parent / "pictures").iterdir())[:20]:
        picture.write_bytes(b"changed")
    summary = LocalEngine().run(job, run, options(server, run, max_failures=3), watch)
    assert "--max-failures 3" in summary.stopped
    assert summary.progress.here < ITEMS
    kept = summary.progress.here
    assert len({row.item_id for row in found(run)}) == kept
    assert {(row.status, row.attempts) for row in found(run)} <= {("failed", 0), ("mask", 1), ("failed", 1)}
    assert {row.attempts for row in found(run) if row.error_code == "SOURCE_CHANGED"} == {0}
    assert verify(job, run).problems == {}


@pytest.mark.parametrize(
    "replies",
    [
        [ResourceExhausted("busy", retry_after=0.05)] * 20,
        [Unavailable("starting", retry_after=0.05)] * 20,
        [Answer(lost=True)] * 3,
    ],
)
def test_a_service_that_is_busy_or_gone_is_asked_again(job: Job, run: Run, replies: list[Reply]) -> None:
    busy = Script({"First.": [*replies, Answer()]})
    with serve(busy) as server:
        summary = LocalEngine().run(job, run, options(server, run), watch)
    assert (summary.progress.done, summary.progress.failed) == (ITEMS, 0)
    attempts = {row.item_id: row.attempts for row in found(run)}
    assert sum(attempts.values()) == ITEMS + len(replies)


def test_an_image_that_ends_the_service_each_time_fails_and_no_other(
    job: Job, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asker, "backoff", lambda _: 0.01)
    with serve(Script(lambda asked: Answer(lost=asked.width == 17))) as server:
        summary = LocalEngine().run(job, run, options(server, run), watch)
        asked = [each for each in server.asked if each.width == 17 and each.index == 0]
    assert (summary.progress.done, summary.failures) == (ITEMS, {"UNAVAILABLE": 1})
    assert len(asked) == 6  # the first time nobody had looked whether the service was ready
    assert {row.attempts for row in found(run) if row.status == "failed"} == {6}


def test_another_model_stops_the_run_and_nothing_of_it_is_kept(job: Job, run: Run) -> None:
    with (
        serve(Script(description=replace(DESCRIPTION, model_digest="ee" * 32))) as server,
        pytest.raises(OtherRun, match="--new-run"),
    ):
        LocalEngine().run(job, run, options(server, run), watch)
    assert found(run) == []


def test_a_run_of_another_rule_of_preprocessing_is_not_gone_on_with(job: Job, run: Run) -> None:
    """An upgraded client would mix images of two kinds."""
    former = job.take_up(replace(run.identity, preprocessing="rule 0"), new=True)
    with serve(Script()) as server, pytest.raises(OtherRun, match="rule 0"):
        LocalEngine().run(job, former, options(server, former), watch)
    assert found(former) == []


def test_a_refusal_of_another_model_is_not_kept(job: Job, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def began_with_the_runs(_: ServedRun) -> None:
        """The service was started anew since, with another."""

    def refuses(_: AskedQuestion) -> Answer:
        raise InvalidArgument("questions[0].text: must be other words")

    monkeypatch.setattr(ServedRun, "begin", began_with_the_runs)
    other = replace(DESCRIPTION, model_digest="ee" * 32)
    with serve(Script(refuses, description=other)) as server, pytest.raises(OtherRun, match="--new-run"):
        LocalEngine().run(job, run, options(server, run), watch)
    assert found(run) == []


@pytest.mark.parametrize(
    ("there", "shard", "free"),
    [
        ("", None, False),
        ("", (0, 2), False),
        ("0-of-2", None, False),
        ("0-of-2", (0, 2), False),
        ("0-of-2", (1, 3), False),  # another cut: they have items in common
        ("0-of-2", (1, 2), True),
    ],
)
def test_runs_that_share_items_do_not_share_a_folder(
    there: str, shard: tuple[int, int] | None, *, free: bool, server: ScriptedServer, job: Job, run: Run
) -> None:
    with ledgers.opened(run, "2-of-5"):
        """Ended: what it leaves locks nobody out."""
    chosen = options(server, run, shard=shard)
    with ledgers.opened(run, there):
        if free:
            assert LocalEngine().run(job, run, chosen, watch).stopped == ""
            return
        with pytest.raises(JobError, match="another run is at work"):
            LocalEngine().run(job, run, chosen, watch)


def test_what_is_no_longer_planned_or_another_shards_is_not_counted(
    server: ScriptedServer, job: Job, run: Run
) -> None:
    LocalEngine().run(job, run, options(server, run), watch)
    shards = [LocalEngine().run(job, run, options(server, run, shard=(n, 2)), watch) for n in range(2)]
    assert sorted((each.progress.failed, each.failures) for each in shards) == [
        (0, {}),
        (1, {"INVALID_ARGUMENT": 1}),
    ]
    items = [item for piece in read_manifest(job.manifest) for item in piece]
    new = an_item(job.folder / "new.png", a_picture(9 + ITEMS), QUESTIONS)
    write_manifest(job.manifest, [*items[:5], new])
    summary = LocalEngine().run(job, run, options(server, run), watch)
    ended = summary.progress
    assert (ended.failed, summary.failures) == (0, {})
    assert (ended.total, ended.done, ended.here) == (6, 6, 1)
    assert standing(job, run).finished.all == 6
    shard = LocalEngine().run(job, run, options(server, run, shard=(0, 2)), watch).progress
    assert (shard.done, shard.here) == (shard.total, 0)
    assert shard.total < 6


def test_what_was_read_ahead_in_vain_is_dropped_in_silence(
    server: ScriptedServer, job: Job, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    for picture in (job.folder.parent / "pictures").iterdir():
        picture.write_bytes(b"changed")
    assert LocalEngine().run(job, run, options(server, run, max_failures=0), watch).stopped
    gc.collect()
    assert not caplog.records


def test_engine_records_that_are_damaged_are_not_written_over(
    server: ScriptedServer, job: Job, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    LocalEngine().run(job, run, options(server, run, shard=(0, 9)), watch)
    kept = run.folder / "engines.json"
    kept.write_bytes(damaged := kept.read_bytes()[:-9])
    assert main(["annotate", "run", "--job", str(job.folder), "--server", server.address]) == 4
    assert kept.read_bytes() == damaged
    told = capsys.readouterr().err
    assert "stopped: engines.json: cannot be read; restore it, or move it away" in told
    assert "disk" not in told  # which has room
    with pytest.raises(JobError, match=r"engines\.json"):
        engine_records(run)


def test_processes_of_a_run_keep_their_engine_records_beside_one_anothers(run: Run) -> None:
    record = DESCRIPTION.engine_records[0]
    other = replace(DESCRIPTION, engine_records=(replace(record, digest="0f" * 32),))

    async def both(first: str, second: str) -> None:
        async with AsyncClient(first) as one, AsyncClient(second) as two:
            processes = [ServedRun(one, run), ServedRun(two, run)]  # neither knows of the other's
            for each in processes:
                await each.begin()

    with serve() as first, serve(Script(description=other)) as second:
        asyncio.run(both(first.address, second.address))
    assert set(json.loads((run.folder / "engines.json").read_text())) == {record.digest, "0f" * 32}
