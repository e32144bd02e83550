"""``mediround annotate`` from its arguments to its exit codes, against a scripted server."""

import argparse
import errno
import io
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mediround import _annotate_values
from mediround.__main__ import main
from mediround.annotate.command.codes import guarded
from mediround.annotate.files import UNFINISHED, locked, writing
from mediround.annotate.job import Job
from mediround.annotate.ledger import opened
from mediround.annotate.manifest import read_manifest
from mediround.testing import DESCRIPTION, Script, ScriptedServer, serve


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with serve(Script()) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    for number in range(5):
        held = io.BytesIO()
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(held, "PNG")
        (made / f"{number}.png").write_bytes(held.getvalue())
    return made


def plan(folder: Path, server: ScriptedServer, *more: str) -> int:
    job = ["--job", str(folder.parent / "job"), "--server", server.address]
    return main(["annotate", "plan", str(folder), "--template", "brain-t1-thalami", *job, *more])


def run(folder: Path, server: ScriptedServer, *more: str) -> int:
    return main(["annotate", "run", "--job", str(folder.parent / "job"), "--server", server.address, *more])


def test_a_folder_is_planned_run_and_told_of(
    folder: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(folder, server, "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["items"], planned["rounds"], planned["to_do"], planned["problems"]) == (5, 15, 5, {})
    assert planned["probed"] == 3
    assert run(folder, server) == 0
    assert main(["annotate", "status", "--job", str(folder.parent / "job"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["ok"], told["seconds_left"]) == (5, 0)
    assert told["items_per_second"] > 0


def test_planned_again_only_what_is_new_or_changed_is_to_do(
    folder: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(folder, server)
    run(folder, server)
    (folder / "new.png").write_bytes((folder / "0.png").read_bytes() + b"other bytes")
    capsys.readouterr()
    assert plan(folder, server, "--json") == 0
    assert json.loads(capsys.readouterr().out)["to_do"] == 1


def test_items_that_fail_are_an_exit_code(folder: Path, server: ScriptedServer) -> None:
    plan(folder, server)
    (folder / "3.png").write_bytes(b"changed")
    assert run(folder, server) == 3
    assert run(folder, server, "--retry-failed", "--max-failures", "0") == 4
    assert main(["annotate", "status", "--job", str(folder.parent / "job")]) == 3


def test_another_model_is_refused_without_new_run(
    folder: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(folder, server)
    with serve(Script(description=replace(DESCRIPTION, model_digest="ab" * 32))) as other:
        assert run(folder, other) == 2
        assert "--new-run" in capsys.readouterr().err
        assert plan(folder, other) == 2
        assert plan(folder, other, "--new-run") == 0
        assert run(folder, other) == 0
    assert len(list((folder.parent / "job" / "runs").iterdir())) == 2


@pytest.mark.parametrize("shard", ["", "0-of-2"])
def test_beside_a_run_nothing_is_planned(
    folder: Path, server: ScriptedServer, shard: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(folder, server)
    job = Job.open(folder.parent / "job")
    manifest, current = job.manifest.read_bytes(), job.current()
    (folder / "4.png").unlink()
    with opened(current, shard), serve(Script(description=replace(DESCRIPTION, model_digest="ab" * 32))) as other:
        assert plan(folder, server) == 4
        assert plan(folder, other, "--new-run") == 4
        assert run(folder, server, "--shard", "0/2") == 4, "as all that passes by itself"
    assert capsys.readouterr().err.count("another run is at work") == 3
    assert (job.manifest.read_bytes(), job.current(), job.runs()) == (manifest, current, [current])


def test_one_plan_is_at_work_at_a_time_and_removes_what_a_killed_one_left(
    folder: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(folder, server) == 0
    job = folder.parent / "job"
    left = job / f"manifest.parquet{UNFINISHED}0123"
    left.write_bytes(b"PAR1")
    with locked(job / "plan.lock"):
        assert plan(folder, server) == 4
    assert "another plan" in capsys.readouterr().err
    assert left.exists()
    assert plan(folder, server) == 0
    assert not left.exists()


def test_a_source_that_is_refused_leaves_the_current_run(folder: Path, server: ScriptedServer) -> None:
    plan(folder, server)
    job = Job.open(folder.parent / "job")
    current = job.current()
    with serve(Script(description=replace(DESCRIPTION, model_digest="ab" * 32))) as other:
        job_of = ["--job", str(job.folder), "--server", other.address]
        assert main(["annotate", "plan", str(folder / "nowhere"), *job_of, "--new-run"]) == 2
    assert job.current() == current


def test_what_cannot_be_run_is_said_in_a_line(
    folder: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, server) == 2
    assert "job.json" in capsys.readouterr().err
    assert main(["annotate", "plan", str(folder), "--job", str(folder), "--server", server.address]) == 2
    assert plan(folder, server, "--root", "x", "--window", "nonsense") == 0


def test_a_folder_for_temporary_files_that_is_full_is_said_with_the_fix(
    folder: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stood in for by databases that may have no more pages than they have."""
    plan(folder, server)
    run(folder, server)
    connect, full_ones = sqlite3.connect, "scratch"

    def full(place: object, *words: Any, **more: Any) -> sqlite3.Connection:
        database = connect(place, *words, **more)
        if full_ones in str(place):
            database.execute("PRAGMA max_page_count = 1")
        return database

    monkeypatch.setattr(sqlite3, "connect", full)
    capsys.readouterr()
    job = ["--job", str(folder.parent / "job")]
    for command in (
        ["status"],
        ["verify"],
        ["report", "--out", str(folder.parent / "report")],
        ["export", "--png"],
    ):
        assert main(["annotate", *command, *job]) == 4
        assert "set TMPDIR to a disk with room" in capsys.readouterr().err
    assert plan(folder, server) == 4
    assert "set TMPDIR to a disk with room" in capsys.readouterr().err
    full_ones = "ledger"
    Job.open(folder.parent / "job").current().ledger().unlink()
    assert run(folder, server) == 4
    assert "the ledger cannot be opened: its disk is full" in capsys.readouterr().err
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "nowhere"))
    assert main(["annotate", "status", *job]) == 4
    assert "set TMPDIR to a disk with room" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 4), (errno.ESTALE, 4), (errno.EACCES, 2)])
def test_what_a_machine_may_be_rid_of_is_tried_again(number: int, code: int, tmp_path: Path) -> None:
    def command() -> int:
        with writing(tmp_path / "kept"):
            raise OSError(number, os.strerror(number))

    assert guarded(command) == code


@pytest.mark.parametrize("text", ["3/3", "-1/3", "a/b", "1"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        _annotate_values.shard(text)


def test_hours_and_failures_are_read() -> None:
    assert _annotate_values.hours("20:00-06:30") == (1200, 390)
    assert _annotate_values.max_failures("5%") == (None, 0.05)
    assert _annotate_values.max_failures("7") == (7, None)
    for text in ("25:00-01:00", "10:00", "10:00-10:00"):
        with pytest.raises(argparse.ArgumentTypeError):
            _annotate_values.hours(text)


def test_a_review_says_what_comes_first(
    folder: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(folder, server)
    job = Job.open(folder.parent / "job")
    items = [item.item_id for piece in read_manifest(job.manifest) for item in piece]
    said = {"item_id": items[3], "verdict": "reject", "comment": "too small"}
    review = folder.parent / "review.json"
    review.write_text(json.dumps({"format": 1, "run_key": job.current().key, "items": [said]}))
    assert plan(folder, server, "--from", str(review)) == 0
    again = [item.item_id for piece in read_manifest(job.manifest) for item in piece]
    assert again == [items[3], *items[:3], items[4]]
    maybe = {"format": 1, "run_key": job.current().key, "items": [said | {"verdict": "maybe"}]}
    for values in ({"format": 2}, [], {"format": 1, "run_key": "other", "items": []}, maybe):
        review.write_text(json.dumps(values))
        assert plan(folder, server, "--from", str(review)) == 2
    assert "--from" in capsys.readouterr().err


def test_a_review_is_of_its_job_and_of_images_whatever_is_asked_of_them(
    folder: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(folder, server)
    run(folder, server)
    job = Job.open(folder.parent / "job")
    items = [item for piece in read_manifest(job.manifest) for item in piece]
    said = [{"item_id": name, "verdict": "reject", "comment": ""} for name in (items[3].item_id, "f" * 32)]
    review = folder.parent / "review.json"
    values = {"format": 1, "job": job.name, "run_key": job.current().key, "items": said}
    review.write_text(json.dumps(values))
    capsys.readouterr()
    for _ in range(2):  # the second time the manifest has its item no more
        assert plan(folder, server, "--from", str(review), "--template", "brain-t1-deep-nuclei") == 0
        assert "review     1 of 2 rejections" in capsys.readouterr().out
        assert next(read_manifest(job.manifest))[0].image_id == items[3].image_id
    review.write_text(json.dumps(values | {"job": "another"}))
    assert plan(folder, server, "--from", str(review)) == 2
    assert "one of this job's runs" in capsys.readouterr().err


def test_a_source_without_items_or_with_far_fewer_is_refused(
    folder: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(folder, server)
    run(folder, server)
    job = Job.open(folder.parent / "job")
    export = ["annotate", "export", "--png", "--job", str(job.folder)]
    assert main(export) == 0
    manifest, masks = job.manifest.read_bytes(), sorted(job.folder.rglob("masks/*/*.png"))
    empty = folder.rename(folder.with_name("away"))
    folder.mkdir()
    (folder / "notes.txt").write_text("not mounted")
    assert plan(folder, server) == plan(folder, server, "--allow-fewer") == 2
    told = capsys.readouterr().err
    assert told.count("no image: is it there, and mounted?") == 2
    assert "not taken  1 files or objects that are no image" in told
    for number in range(5):
        (folder / f"{number}.png").symlink_to("/nowhere" if number > 1 else empty / f"{number}.png")
    assert plan(folder, server) == 2
    assert "2 items that can be asked, fewer than half" in capsys.readouterr().err
    assert (job.manifest.read_bytes(), main(export)) == (manifest, 0)
    assert sorted(job.folder.rglob("masks/*/*.png")) == masks
    assert plan(folder, server, "--allow-fewer") == 0
    job.manifest.write_bytes(b"PAR1")
    assert plan(folder, server) == 0, "nothing is known of an earlier manifest that cannot be read"


def test_a_file_that_is_back_is_asked_again_as_the_words_say(
    folder: Path, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(folder, server)
    (folder / "3.png").rename(folder.parent / "3.png")
    assert run(folder, server) == 3
    assert main(["annotate", "status", "--job", str(folder.parent / "job")]) == 3
    assert capsys.readouterr().out.count("run --retry-failed` asks them again") == 2
    (folder.parent / "3.png").rename(folder / "3.png")
    assert plan(folder, server) == plan(folder, server, "--json") == 0
    printed = capsys.readouterr().out
    assert "failed     1 before, which `mediround annotate run --retry-failed` alone asks again" in printed
    assert json.loads(printed.splitlines()[-1])["failed"] == 1
    assert run(folder, server) == 3
    assert run(folder, server, "--retry-failed") == 0
