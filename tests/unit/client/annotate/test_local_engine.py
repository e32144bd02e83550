"""The local engine against a scripted server: all items once, whatever fails, and on a resume what is left."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediround import InvalidArgument, ResourceExhausted, Unavailable
from mediround.annotate import ledger as ledgers
from mediround.annotate.annotating import Asking
from mediround.annotate.engines.interface import Progress, RunOptions
from mediround.annotate.engines.local import LocalEngine
from mediround.annotate.errors import JobError, OtherRun
from mediround.annotate.index import parts, read_parts, write_part
from mediround.annotate.items import Question
from mediround.annotate.job import Job, Run, RunIdentity
from mediround.annotate.manifest import write_manifest
from mediround.annotate.merging import settle
from mediround.annotate.rows import Row, rows_of
from mediround.testing import DESCRIPTION, Answer, AskedQuestion, Reply, Script, ScriptedServer, serve
from tests.unit.client.annotate.items import an_item

ITEMS = 30
QUESTIONS = (
    Question("first", "First", "First.", answer="It is [SEG]."),
    Question("second", "Second", "Second.", refer_to=0, answer="It is [SEG]."),
)


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
    items = []
    for number in range(ITEMS):
        held = io.BytesIO()
        Image.fromarray(np.zeros((8, 9 + number), np.uint8)).save(held, "PNG")
        items.append(an_item(pictures / f"{number}.png", held.getvalue(), QUESTIONS))
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
    done = [LocalEngine().run(job, run, options(server, run, shard=(i, 3)), watch).progress for i in range(3)]
    assert sum(each.done for each in done) == ITEMS
    assert all(each.total == each.done for each in done)
    assert LocalEngine().run(job, run, options(server, run), watch).progress.here == 0


def test_a_run_is_given_up_when_too_much_fails(server: ScriptedServer, job: Job, run: Run) -> None:
    for picture in list((job.folder.parent / "pictures").iterdir())[:20]:
        picture.write_bytes(b"changed")
    summary = LocalEngine().run(job, run, options(server, run, max_failures=3), watch)
    assert "--max-failures 3" in summary.stopped
    assert summary.progress.here < ITEMS
    kept = summary.progress.here
    assert len({row.item_id for row in found(run)}) == kept


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


def test_another_model_stops_the_run_and_nothing_of_it_is_kept(job: Job, run: Run) -> None:
    with (
        serve(Script(description=replace(DESCRIPTION, model_digest="ee" * 32))) as server,
        pytest.raises(OtherRun, match="--new-run"),
    ):
        LocalEngine().run(job, run, options(server, run), watch)
    assert found(run) == []


def test_two_runs_do_not_share_a_folder(server: ScriptedServer, job: Job, run: Run) -> None:
    with ledgers.opened(run), pytest.raises(JobError, match="another run is at work"):
        LocalEngine().run(job, run, options(server, run), watch)


def test_parts_that_a_merge_left_are_removed(server: ScriptedServer, job: Job, run: Run) -> None:
    LocalEngine().run(job, run, options(server, run), watch)
    rows = found(run)
    (merged,) = parts(run.index)
    part = write_part(run.index, rows[:2])
    with ledgers.opened(run) as ledger:
        assert ledger.totals().all == ITEMS
        assert ledger.current(part.name) == {rows[0].item_id}
    LocalEngine().run(job, run, options(server, run), watch)
    assert len(found(run)) == ITEMS * 2
    assert merged not in parts(run.index)
    settle(run.index)
    assert len(found(run)) == ITEMS * 2
