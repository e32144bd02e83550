"""What is wrong with a run is found: each kind planted once, in a job that is made up."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mediround.__main__ import main
from mediround.annotate import ledger as ledgers
from mediround.annotate import verify as verifying
from mediround.annotate.exported import write_list
from mediround.annotate.index import WRITING, read_part, write_part
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.ledger import Ledger
from mediround.annotate.merging import merge
from mediround.annotate.rows import Row
from mediround.annotate.sorting import scratch
from mediround.annotate.verify import Verification, verify
from tests.unit.client.annotate.jobs import OTHER, QUESTIONS, answered, disc, failed, job_of, keep, picture

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


@pytest.mark.parametrize("there", [True, False])
def test_a_ledger_is_held_against_the_index_in_one_pass(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's steps grow with the items, and not with the items times the files."""
    _, run = job_of(tmp_path / "job", [])
    parts = {f"part-{number}.parquet": [f"{number}-{n}" for n in range(20)] for number in range(100)}
    with scratch(verifying._SCHEMA) as database, closing(ledgers._connected(run.ledger())) as known:
        for part, names in parts.items():
            rows = [(name, 1, part, "") for name in names]
            database.executemany("INSERT INTO found VALUES (?, ?, ?, ?)", rows)
            Ledger(known, ())._add(part, [(name, 1, "", 2, part) for name in names])
        monkeypatch.setattr(verifying, "files", lambda _: [run.index / part for part in parts] if there else [])
        found, steps = Verification(), Counter[str]()
        for each in (database, known):
            each.set_progress_handler(lambda: steps.update(["tens"]), 10)
        monkeypatch.setattr(ledgers, "looked_at", lambda _: nullcontext(Ledger(known, ())))
        verifying._ledgers(run, set(parts), database, found)
    assert found == Verification()
    assert 100 < steps["tens"] < 20 * 2000


def test_a_ledger_that_forgot_an_item_is_found(made: tuple[Job, Run], items: list[Item]) -> None:
    job, run = made
    with ledgers.opened(run) as ledger:
        ledger._database.execute("DELETE FROM items WHERE item_id = ?", (items[0].item_id,))
        ledger._database.commit()
    assert kinds(verify(job, run)) == {"ledger": [items[0].item_id]}
    run.ledger().write_bytes(b"no database")
    assert kinds(verify(job, run)) == {}


def test_a_run_that_is_at_work_beside_it_is_nothing_wrong(
    made: tuple[Job, Run], items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are written after the first are read, and while the ledger is."""
    job, run = made
    with ledgers.opened(run) as ledger:

        def writing(then: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*words: Any, **more: Any) -> Any:
                rows = answered(items[1], run, MASKS)
                ledger.add(write_part(run.index, rows), rows)
                return then(*words, **more)

            return wrapped

        monkeypatch.setattr("mediround.annotate.verify._totals", writing(verifying._totals))
        monkeypatch.setattr(Ledger, "parts", writing(Ledger.parts))
        assert kinds(verify(job, run)) == {}


def test_a_result_that_is_lost_with_its_file_is_missed_though_an_earlier_failure_stands(
    made: tuple[Job, Run], items: list[Item]
) -> None:
    job, run = made
    later = keep(run, answered(items[1], run, MASKS))
    with ledgers.opened(run):
        later.unlink()
    assert kinds(verify(job, run)) == {"file_lost": [later.name]}


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


def _unnamed(path: Path) -> Path:
    """A name that does not say what the file holds."""
    return path.rename(path.with_name(f"part-{path.name[-16:-14]}.parquet"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _in_a_shard(path: Path) -> None:
    (path.parent / "shard-0-of-2").mkdir()
    shutil.copy(path, path.parent / "shard-0-of-2" / path.name)


def _of_another_run(job: Job, run: Run, items: list[Item]) -> None:
    other = job.take_up(OTHER, new=True)
    shutil.copy(keep(other, answered(items[1], other, MASKS)), run.index)


HOSTILE: dict[str, tuple[Callable[[Job, Run, list[Item], Path], object], dict[str, int]]] = {
    "nothing in it": (
        lambda job, run, items, path: path.write_bytes(b""),
        {"file_changed": 1, "file_unreadable": 1},
    ),
    "cut off": (
        lambda job, run, items, path: _cut(_unnamed(path)),
        {"file_unreadable": 1},
    ),
    "twice": (lambda job, run, items, path: shutil.copy(path, path.with_name("part-9.parquet")), {"doubled": 1}),
    "twice under its name": (lambda job, run, items, path: _in_a_shard(path), {"doubled": 1}),
    "of another run": (
        lambda job, run, items, path: _of_another_run(job, run, items),
        {"other_run": 1, "model": 1},
    ),
    "no table": (lambda job, run, items, path: _unnamed(path).write_bytes(b"PAR1" * 9), {"file_unreadable": 1}),
    "another table": (
        lambda job, run, items, path: pq.write_table(pa.table({"item_id": ["a"]}), _unnamed(path)),
        {"file_unreadable": 1},
    ),
}


@pytest.mark.parametrize("planted", HOSTILE)
def test_a_part_of_the_index_that_cannot_be_trusted_is_found(
    planted: str, made: tuple[Job, Run], items: list[Item]
) -> None:
    job, run = made
    plant, expected = HOSTILE[planted]
    plant(job, run, items, sorted(run.index.iterdir())[1])
    problems = verify(job, run).problems
    assert {kind: problem.count for kind, problem in problems.items()} == expected


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


def export(job: Job, *kinds: str) -> int:
    chosen = [f"--{kind}" for kind in kinds or ("png", "coco", "labels")]
    return main(["annotate", "export", "--job", str(job.folder), *chosen])


@pytest.fixture
def exported(made: tuple[Job, Run]) -> tuple[Job, Run]:
    """As PNG (two items of two masks), as COCO JSON and as label maps (two cases)."""
    assert export(made[0]) == 3, "one image failed"
    return made


def mask_of(run: Run, item: Item) -> Path:
    return run.folder / "masks" / item.item_id[:2] / f"{item.item_id}-01-wall.png"


def list_of(run: Run, kind: str = "png") -> Path:
    [path] = (run.folder / "exports").glob(f"{kind}-*")
    return path


def test_exports_are_as_they_were_written(exported: tuple[Job, Run], items: list[Item]) -> None:
    job, run = exported
    found = verify(job, run)
    assert (found.problems, {kind: each.files for kind, each in found.exports.items()}) == (
        {},
        {"png": 4, "coco": 1, "labels": 5},
    )
    assert [each.behind for each in found.exports.values()] == [0, 0, 0]
    keep(run, answered(items[1], run, (MASKS[0], None)))
    found = verify(job, run)
    assert (found.problems, [each.behind for each in found.exports.values()]) == ({}, [1, 1, 1])


def test_objects_are_not_counted_where_there_are_none(
    exported: tuple[Job, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["annotate", "verify", "--job", str(exported[0].folder)]
    assert main([*place, "--stow", "http://127.0.0.1:1/dicom-web"]) == 2
    assert "export with --seg or --stow first" in capsys.readouterr().err


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"0")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


PLANTED: dict[str, tuple[Callable[[Run, Item], object], str]] = {
    "a byte more": (lambda run, item: _append(mask_of(run, item)), "export_changed"),
    "another byte": (lambda run, item: _flip(mask_of(run, item)), "export_changed"),
    "a folder in its place": (
        lambda run, item: (mask_of(run, item).unlink(), mask_of(run, item).mkdir()),
        "export_missing",
    ),
    "no file": (lambda run, item: mask_of(run, item).unlink(), "export_missing"),
    "no COCO": (lambda run, item: (run.folder / "coco.json").unlink(), "export_missing"),
    "a file beside": (
        lambda run, item: (run.folder / "labels/labelsTr/Anna.png").write_bytes(b"x"),
        "export_unlisted",
    ),
    "a list cut off": (lambda run, item: list_of(run).write_bytes(list_of(run).read_bytes()[:-9]), "export_list"),
    "a list's byte": (lambda run, item: _flip(list_of(run)), "export_list"),
    "a list without its name": (
        lambda run, item: list_of(run).rename(list_of(run).with_name("png-1.parquet")),
        "export_list",
    ),
    "a list of another export": (
        lambda run, item: shutil.copy(
            list_of(run, "coco"), list_of(run).with_name(list_of(run, "coco").name.replace("coco", "png"))
        ),
        "export_list",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_wrong_with_an_export_is_found_and_another_one_mends_it(
    planted: str, exported: tuple[Job, Run], items: list[Item], capsys: pytest.CaptureFixture[str]
) -> None:
    job, run = exported
    plant, kind = PLANTED[planted]
    plant(run, items[0])
    assert set(kinds(verify(job, run))) == {kind}
    assert main(["annotate", "verify", "--job", str(job.folder)]) == 3
    printed = capsys.readouterr().out
    assert f": {kind}: " in printed
    assert not {word for word in ("wall", "Anna", "images/") if word in printed}
    if planted in ("a file beside", "a folder in its place"):
        return  # what nobody wrote nobody removes
    export(job)
    assert kinds(verify(job, run)) == {}


def test_a_list_does_not_lead_out_of_its_folder(
    exported: tuple[Job, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run = exported
    list_of(run).unlink()
    for name in ("../../job.json", "masks/../../../job.json", "/etc/passwd", "index/part.parquet"):
        write_list(run, "png", [(name, "00" * 32, None, None)])
        assert set(kinds(verify(job, run))) == {"export_list"}
    export(job)
    assert (job.folder / "job.json").is_file()
    other = replace(run, identity=replace(run.identity, threshold=0.25))
    write_list(other, "png", [])
    assert kinds(verify(job, run)) == {"export_list": ["png"]}, "it is another run's"


def test_what_is_planned_no_more_is_stale_until_it_is_exported_again(
    exported: tuple[Job, Run], items: list[Item], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, run = job_of(tmp_path / "job", items[1:])
    gone = items[0].item_id
    stale = kinds(verify(job, run))["export_stale"]
    assert stale[0] == gone
    assert [name.partition("/")[0] for name in stale[1:]] == ["coco.json", "labels", "labels"]
    capsys.readouterr()
    assert export(job) == 3
    assert "2 files of an earlier export removed" in capsys.readouterr().out
    assert kinds(verify(job, run)) == {}
    assert not list((run.folder / "masks").rglob(f"{gone}*"))
    cases = {path.stem for path in (run.folder / "labels/labelsTr").iterdir()}
    assert {path.stem.removesuffix("_0000") for path in (run.folder / "labels/imagesTr").iterdir()} == cases
    assert len(cases) == json.loads((run.folder / "labels/dataset.json").read_text())["numTraining"] == 1


def test_another_result_makes_what_showed_the_earlier_one_stale(
    exported: tuple[Job, Run], items: list[Item]
) -> None:
    job, run = exported
    keep(run, answered(items[2], run, (MASKS[0], disc(4))))
    problems = verify(job, run).problems
    assert problems["export_stale"].count == 2 + 2 + 1
    assert set(problems["export_stale"].items) >= {items[2].item_id, "coco.json"}


def test_an_image_that_moved_makes_coco_stale_alone(
    exported: tuple[Job, Run], items: list[Item], tmp_path: Path
) -> None:
    moved = [replace(item, uri=item.uri.replace(".png", "-moved.png")) for item in items]
    job, run = job_of(tmp_path / "job", moved)
    assert kinds(verify(job, run)) == {"export_stale": ["coco.json"]}


def test_what_somebody_has_changed_is_not_removed(
    exported: tuple[Job, Run], items: list[Item], tmp_path: Path
) -> None:
    job, run = job_of(tmp_path / "job", items[1:])
    edited = mask_of(run, items[0])
    _append(edited)
    export(job, "png")
    assert edited.is_file()
    assert kinds(verify(job, run))["export_unlisted"] == ["masks"]


def test_an_export_that_was_killed_is_not_taken_for_a_whole_one(
    made: tuple[Job, Run], items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run = made

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mediround.annotate.outputs.kept.write_list", killed)
    assert export(job, "png") == 130
    assert set(kinds(verify(job, run))) == {"export_unlisted"}
    monkeypatch.undo()
    assert export(job, "png") == 0
    assert kinds(verify(job, run)) == {}


def test_an_earlier_list_that_was_left_beside_the_latest_is_found(
    exported: tuple[Job, Run], items: list[Item]
) -> None:
    job, run = exported
    earlier = list_of(run)
    content = earlier.read_bytes()
    keep(run, answered(items[1], run, (MASKS[0], None)))
    assert export(job, "png") == 0
    earlier.write_bytes(content)
    assert kinds(verify(job, run)) == {"export_list": ["png"]}
    assert export(job, "png") == 0
    assert kinds(verify(job, run)) == {}


def test_an_item_that_the_ledger_knows_is_missed_in_its_file(made: tuple[Job, Run], items: list[Item]) -> None:
    """A file whose name does not tell, written again without one of its items."""
    job, run = made
    path = sorted(run.index.iterdir())[0]
    path = path.rename(path.with_name("part-1.parquet"))
    with ledgers.opened(run):
        pass
    assert kinds(verify(job, run)) == {}
    found = read_part(path)
    pq.write_table(found.filter(pc.not_equal(found["item_id"], items[0].item_id)), path, **WRITING)
    assert kinds(verify(job, run)) == {"item_lost": [items[0].item_id]}


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
