"""What is wrong with a run is found: each kind planted once, in a job that is made up."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mediround.__main__ import main
from mediround.annotate import ledger as ledgers
from mediround.annotate.index import write_part
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.merging import merge
from mediround.annotate.rows import Row
from mediround.annotate.verify import Verification, verify
from tests.unit.client.annotate.jobs import QUESTIONS, answered, disc, failed, job_of, keep, picture

MASKS = (disc(5), disc(3))


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return [picture(tmp_path / "images", number) for number in range(3)]


@pytest.fixture
def made(tmp_path: Path, items: list[Item]) -> tuple[Job, Run]:
    """Two items with masks and one that failed, in two files."""
    job, run = job_of(tmp_path / "job", items)
    keep(run, answered(items[0], run, MASKS), failed(items[1], run))
    keep(run, answered(items[2], run, MASKS))
    return job, run


def kinds(found: Verification) -> dict[str, list[str]]:
    return {kind: problem.items for kind, problem in found.problems.items()}


def test_nothing_is_wrong_with_a_run_as_it_was_written(made: tuple[Job, Run]) -> None:
    found = verify(*made, complete=True)
    assert found == Verification(items=3, ok=2, failed=1, rounds=6, masks=4, files=2)


def test_an_item_that_was_asked_again_counts_once(made: tuple[Job, Run], items: list[Item]) -> None:
    job, run = made
    keep(run, answered(items[1], run, (MASKS[0], None)))
    found = verify(job, run)
    assert (found.problems, found.ok, found.failed, found.superseded) == ({}, 3, 0, 1)
    with ledgers.opened(run) as ledger:
        merge(run.index, ledger)
    found = verify(job, run)
    assert (found.problems, found.ok, found.superseded, found.files) == ({}, 3, 0, 1)


def test_an_item_without_rows_is_counted_and_wrong_only_where_all_must_be_there(
    made: tuple[Job, Run], tmp_path: Path, items: list[Item]
) -> None:
    job, run = job_of(tmp_path / "job", [*items, picture(tmp_path / "images", 9)])
    assert kinds(found := verify(job, run)) == {}
    assert found.not_finished == 1
    assert kinds(verify(job, run, complete=True)) == {"not_finished": [picture(tmp_path / "images", 9).item_id]}
    job, run = job_of(tmp_path / "job", items[:1])
    assert (verify(job, run).problems, verify(job, run).left_over) == ({}, 2)


def test_any_byte_that_changes_is_found(made: tuple[Job, Run]) -> None:
    job, run = made
    path = sorted(run.index.iterdir())[0]
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        changed = bytearray(content)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        assert verify(job, run).problems["file_changed"].items == [path.name]
    path.write_bytes(content[:-30])
    assert set(kinds(verify(job, run))) == {"file_changed", "file_unreadable"}


def test_a_byte_of_a_page_is_found_where_the_name_does_not_tell(made: tuple[Job, Run]) -> None:
    job, run = made
    path = sorted(run.index.iterdir())[0]
    path = path.rename(path.with_name("part-1.parquet"))
    assert verify(job, run).unnamed == 1
    content = bytearray(path.read_bytes())
    content[60] ^= 0x10
    path.write_bytes(content)
    assert verify(job, run).problems


def test_a_manifest_that_changed_is_found(made: tuple[Job, Run]) -> None:
    job, run = made
    content = bytearray(job.manifest.read_bytes())
    content[-10] ^= 0x10
    job.manifest.write_bytes(content)
    assert "manifest" in verify(job, run).problems


def test_a_file_that_is_lost_is_missed_by_the_ledger(made: tuple[Job, Run]) -> None:
    job, run = made
    with ledgers.opened(run):
        pass
    lost = sorted(run.index.iterdir())[1]
    lost.unlink()
    found = verify(job, run)
    assert (kinds(found), found.not_finished) == ({"file_lost": [lost.name]}, 1)


def test_a_ledger_that_forgot_an_item_is_found(made: tuple[Job, Run], items: list[Item]) -> None:
    job, run = made
    with ledgers.opened(run) as ledger:
        ledger._database.execute("DELETE FROM items WHERE item_id = ?", (items[0].item_id,))
        ledger._database.commit()
    assert kinds(verify(job, run)) == {"ledger": [items[0].item_id]}
    run.ledger().write_bytes(b"no database")
    assert kinds(verify(job, run)) == {}


def test_an_item_twice_is_found(made: tuple[Job, Run], items: list[Item]) -> None:
    job, run = made
    path = sorted(run.index.iterdir())[1]
    copied = Path(shutil.copy(path, path.with_name(path.name.replace("part-", "part-9"))))
    assert kinds(verify(job, run)) == {"doubled": [items[2].item_id]}
    copied.unlink()
    rows = answered(items[2], run, MASKS)
    path.unlink()
    keep(run, rows, answered(items[0], run, MASKS), rows)
    assert items[2].item_id in kinds(verify(job, run))["doubled"]


NO_MASK: dict[str, Any] = {
    **dict.fromkeys(("x_min", "y_min", "x_max", "y_max", "counts")),
    "mask_digest": "",
    "area": 0,
}
CHANGES: dict[str, Callable[[list[Row]], list[Row]]] = {
    "other_run": lambda rows: [rows[0], replace(rows[1], run_key="other")],
    "rounds": lambda rows: rows[:1],
    "dialogue": lambda rows: [replace(rows[0], question="Another."), rows[1]],
    "model": lambda rows: [replace(row, model_digest="ef" * 32) for row in rows],
    "status": lambda rows: [rows[0], replace(rows[1], error_code="UNREADABLE")],
    "reference": lambda rows: [replace(rows[0], status="no_mask", **NO_MASK), rows[1]],
    "values": lambda rows: [replace(rows[0], score=1.5), rows[1]],
    "mask": lambda rows: [rows[0], replace(rows[1], counts="0")],
    "measures": lambda rows: [rows[0], replace(rows[1], area=rows[1].area + 1)],
    "mask_digest": lambda rows: [rows[0], replace(rows[1], mask_digest=rows[0].mask_digest)],
}


@pytest.mark.parametrize("kind", CHANGES)
def test_rows_that_are_not_as_they_must_be_are_found(kind: str, tmp_path: Path, items: list[Item]) -> None:
    job, run = job_of(tmp_path / "job", items)
    keep(run, answered(items[0], run, MASKS), CHANGES[kind](answered(items[1], run, MASKS)))
    assert kinds(verify(job, run)) == {kind: [items[1].item_id]}


def test_a_mask_is_not_made_larger_than_any_image(tmp_path: Path, items: list[Item]) -> None:
    job, run = job_of(tmp_path / "job", items)
    rows = answered(items[0], run, MASKS)
    keep(run, [replace(rows[0], height=1 << 30, width=1 << 30, counts="0" * 20), rows[1]])
    assert kinds(verify(job, run)) == {"mask": [items[0].item_id]}


def test_the_command_names_items_and_no_places(
    made: tuple[Job, Run], items: list[Item], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job, run = made
    assert main(["annotate", "verify", "--job", str(job.folder)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    rows = answered(picture(tmp_path / "images", 7, QUESTIONS), run, MASKS)
    write_part(run.index, [replace(row, area=1) for row in rows])
    assert main(["annotate", "verify", "--job", str(job.folder), "--json"]) == 3
    printed = capsys.readouterr().out
    assert json.loads(printed)["problems"]["measures"] == {"count": 1, "items": [rows[0].item_id]}
    assert main(["annotate", "verify", "--job", str(job.folder)]) == 3
    assert str(tmp_path) not in printed + capsys.readouterr().out
