"""A job's folder, its manifest and its index: what is written is read again, and what is not ours is refused."""

import errno
import fcntl
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mediround.annotate.errors import JobError, OtherRun
from mediround.annotate.files import UNFINISHED, atomic, is_as_named, locked, remove_unfinished
from mediround.annotate.index import parts, read_parts, write_part
from mediround.annotate.items import GivenReference, Item, Question, dialogue_json, item_id, questions_of
from mediround.annotate.job import Job, RunIdentity
from mediround.annotate.manifest import count_items, read_manifest, write_manifest
from mediround.annotate.rows import SCHEMA, Row, rows_of, table

IDENTITY = RunIdentity("m", "1", "ab" * 32, "rule 1", "referenced", 0.5)
QUESTIONS = (
    Question("liver", "Liver", "Segment the liver.", reference=GivenReference("file:///a", "cd" * 32, "Liver")),
    Question("wall", "Wall", "Its wall.", refer_to=0, answer="It is [SEG].", truth="file:///t"),
)
ROW = Row("i", "m", "k", 0, 1, "liver", "Liver", "Segment.", None, "", "mask", datetime(2026, 1, 2, tzinfo=UTC))


def an_item(number: int) -> Item:
    return Item(f"{number:032x}", "ff" * 32, "picture", "file:///x%FF", QUESTIONS, sha256="ff" * 32, size=9)


def test_a_dialogue_is_read_as_it_was_written() -> None:
    unnamed = (*QUESTIONS, replace(QUESTIONS[1], label="", truth=""))
    assert questions_of(dialogue_json(unnamed)) == unnamed


def test_an_item_is_named_by_content_and_not_by_place_or_target() -> None:
    moved = (replace(QUESTIONS[0], reference=replace(QUESTIONS[0].reference, uri="file:///b")), QUESTIONS[1])
    scored = (QUESTIONS[0], replace(QUESTIONS[1], truth=""))
    named = item_id("ff", 1, "", QUESTIONS)
    assert named == item_id("ff", 1, "", moved) == item_id("ff", 1, "", scored)
    others = [
        item_id("fe", 1, "", QUESTIONS),
        item_id("ff", 2, "", QUESTIONS),
        item_id("ff", 1, "lung", QUESTIONS),
    ]
    assert len({named, *others, item_id("ff", 1, "", QUESTIONS[:1])}) == 5


def test_a_manifest_is_read_in_pieces_as_it_was_written(tmp_path: Path) -> None:
    items = [replace(an_item(number), frame=number % 3 or None) for number in range(2500)]
    assert write_manifest(tmp_path / "manifest.parquet", items) == 2500
    read = list(read_manifest(tmp_path / "manifest.parquet"))
    assert [item for piece in read for item in piece] == items
    assert len(read) == 3
    assert count_items(tmp_path / "manifest.parquet") == 2500


def test_a_manifest_that_is_cut_off_or_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(path, [an_item(1)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(JobError, match="plan the job again"):
        list(read_manifest(path))
    write_part(tmp_path, [ROW]).replace(path)
    with pytest.raises(JobError, match="no manifest"):
        list(read_manifest(path))


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert [field.name for field in fields(Row)] == SCHEMA.names
    rows = [ROW, replace(ROW, round=1, score=0.5, x_min=1, counts="abc", wave=2)]
    write_part(tmp_path, rows)
    write_part(tmp_path, rows[:1])
    assert [rows_of(found) for _, found in read_parts(tmp_path)] == [rows, rows[:1]]
    assert rows_of(table(rows)) == rows


def test_an_index_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_part(tmp_path, [ROW])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(JobError, match="cut off"):
        list(read_parts(tmp_path))


def test_a_part_is_named_by_what_it_holds(tmp_path: Path) -> None:
    path = write_part(tmp_path, [ROW])
    assert is_as_named(path)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert is_as_named(path) is False
    assert is_as_named(path.rename(tmp_path / "part-1.parquet")) is None


def test_a_manifest_is_known_by_what_it_was(tmp_path: Path) -> None:
    job = Job.begin(tmp_path / "job")
    assert job.manifest_digest() is None
    with pytest.raises(JobError, match="plan the job first"):
        job.keep_manifest()
    write_manifest(job.manifest, [an_item(1)])
    kept = job.keep_manifest()
    job.take_up(IDENTITY)
    assert job.manifest_digest() == kept


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "file") as unfinished:
        unfinished.write_bytes(b"half")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / f"part-1.parquet{UNFINISHED}ab").touch()
    assert parts(tmp_path) == []
    (tmp_path / f"file{UNFINISHED}ab").touch()
    assert remove_unfinished(tmp_path / "file") == 1
    assert remove_unfinished(tmp_path) == 1


def test_a_disk_that_locks_no_files_is_told_from_one_that_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with locked(tmp_path / "a.lock") as ours, locked(tmp_path / "a.lock") as theirs:
        assert (ours, theirs) == (True, False)
    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(JobError, match="must be on a disk that locks files"), locked(tmp_path / "a.lock"):
        pass


def test_a_job_goes_on_with_its_run_and_leaves_it_only_when_told(tmp_path: Path) -> None:
    job = Job.begin(tmp_path / "job")
    with pytest.raises(JobError, match="no run yet"):
        job.current()
    first = job.take_up(IDENTITY)
    assert Job.begin(tmp_path / "job").take_up(IDENTITY) == first == job.current()
    other = replace(IDENTITY, model_digest="cd" * 32)
    with pytest.raises(OtherRun, match="--new-run"):
        job.take_up(other)
    assert job.current() == first
    second = job.take_up(other, new=True)
    assert job.runs() == [second, first]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(JobError, match=r"must hold job\.json"):
        Job.begin(tmp_path)
    (tmp_path / "job.json").write_text('{"format": 7}')
    with pytest.raises(JobError, match="format 7"):
        Job.open(tmp_path)
