"""Parts made few, while a run is at work and when it ends: nothing is lost or doubled, wherever it ends."""

import sqlite3
from pathlib import Path

import pytest

from mediround.annotate import ledger as ledgers
from mediround.annotate import merging, recording
from mediround.annotate.current import current_rows
from mediround.annotate.engines.interface import Progress
from mediround.annotate.engines.local import LocalEngine
from mediround.annotate.errors import JobError, Stopped
from mediround.annotate.index import parts, steady, write_part
from mediround.annotate.job import Job, Run
from mediround.annotate.ledger import Ledger
from mediround.annotate.merging import settle
from mediround.testing import ScriptedServer
from tests.unit.client.annotate import test_local_engine as local
from tests.unit.client.annotate.jobs import answered, disc, job_of, keep, picture

ITEMS, found, options, watch = local.ITEMS, local.found, local.options, local.watch
job, run, server = local.job, local.run, local.server  # fixtures


def test_parts_that_a_merge_left_are_removed(server: ScriptedServer, job: Job, run: Run) -> None:
    LocalEngine().run(job, run, options(server, run), watch)
    rows = found(run)
    (merged,) = parts(run.index)
    part = write_part(run.index, rows[:2])
    with ledgers.opened(run) as ledger:
        assert ledger.counted([row.item_id for row in rows]).all == ITEMS
        assert ledger.places([rows[0].item_id]) == {rows[0].item_id: part.name}
    LocalEngine().run(job, run, options(server, run), watch)
    assert len(found(run)) == ITEMS * 2
    assert merged not in parts(run.index)
    settle(run.index)
    assert len(found(run)) == ITEMS * 2


@pytest.fixture
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "ITEMS_A_PART", 1)
    monkeypatch.setattr(merging, "PARTS_AT_MOST", 4)


@pytest.mark.usefixtures("many_parts")
def test_parts_are_merged_while_a_run_is_at_work(server: ScriptedServer, job: Job, run: Run) -> None:
    most = 0

    def seen(progress: Progress) -> None:
        nonlocal most
        most = max(most, len(parts(run.index)))

    LocalEngine().run(job, run, options(server, run), seen)
    assert most < 10
    assert len({(row.item_id, row.round) for row in found(run)}) == len(found(run)) == ITEMS * 2
    (one,) = parts(run.index)
    LocalEngine().run(job, run, options(server, run), watch)
    assert parts(run.index) == [one]  # nothing is new


@pytest.mark.usefixtures("many_parts")
@pytest.mark.parametrize("step", [(Ledger, "merged"), (Path, "unlink")])
def test_a_run_that_ends_amid_merging_loses_and_doubles_nothing(
    step: tuple[type, str], server: ScriptedServer, job: Job, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the ledger is told, or after it, before all parts are removed."""
    owner, name = step
    original = getattr(owner, name)

    def ends(self: object, *words: object, **more: object) -> object:
        if isinstance(self, Path) and not (self.name.startswith("part-") and self.suffix == ".parquet"):
            return original(self, *words, **more)
        raise JobError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, ends)
        with pytest.raises(Stopped, match="killed"):
            LocalEngine().run(job, run, options(server, run), watch)
    kept = {row.item_id for row in found(run)}
    assert 0 < len(kept) < ITEMS
    names = [rows[0].item_id for rows in current_rows(run)]
    assert sorted(names) == sorted(kept)
    ended = LocalEngine().run(job, run, options(server, run), watch).progress
    assert ended.here == ITEMS - len(kept)
    assert len({(row.item_id, row.round) for row in found(run)}) == len(found(run)) == ITEMS * 2


def test_nothing_is_merged_that_somebody_reads_or_the_ledger_does_not_know(
    server: ScriptedServer, job: Job, run: Run, many_parts: None
) -> None:
    run.index.mkdir(parents=True)
    with steady(run.index):
        LocalEngine().run(job, run, options(server, run), watch)
    assert len(parts(run.index)) == ITEMS
    rows = found(run)
    with ledgers.opened(run) as ledger:
        unknown = write_part(run.index, rows[:2])  # by an actor, just now
        merging.merge(run.index, ledger)
        assert len(parts(run.index)) == 2
        assert unknown in parts(run.index)
        assert ledger.take_up().parts == 1


@pytest.fixture
def two_parts(tmp_path: Path) -> Run:
    """Of an item each, which nothing has merged."""
    items = [picture(tmp_path / "images", number) for number in range(2)]
    _, run = job_of(tmp_path / "made", items)
    for item in items:
        keep(run, answered(item, run, (disc(5), disc(3))))
    return run


def test_a_bit_that_changed_is_not_merged_as_if_it_were_true(two_parts: Run) -> None:
    """Rows that are written again have new checksums: nobody could see it afterwards."""
    with ledgers.opened(two_parts) as ledger:
        part = parts(two_parts.index)[0]
        content = bytearray(part.read_bytes())
        content[content.index(b"It is [SEG].") + 3] ^= 1
        part.write_bytes(content)
        with pytest.raises(JobError, match="damaged"):
            merging.merge(two_parts.index, ledger)
    assert len(parts(two_parts.index)) == 2


def test_a_file_that_is_cut_off_is_named_before_anything_is_removed_or_merged(two_parts: Run) -> None:
    with ledgers.opened(two_parts) as ledger:
        merging.merge(two_parts.index, ledger)
        (merged,) = parts(two_parts.index)
        merged.write_bytes(merged.read_bytes()[:-9])
        for step in (lambda: settle(two_parts.index), lambda: merging.merge(two_parts.index, ledger)):
            with pytest.raises(JobError, match=rf"{merged.name}: is cut off .* move it away"):
                step()
    assert parts(two_parts.index) == [merged]


def test_places_of_any_number_of_items_are_told(two_parts: Run) -> None:
    with ledgers.opened(two_parts) as ledger:
        ledger._database.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1000)
        known = [name for name, _, _ in ledger.items()]
        assert set(ledger.places([known[0], *(f"{number:032x}" for number in range(2500)), known[1]])) == set(
            known
        )
