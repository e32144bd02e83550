"""What of a source becomes no item is counted and kept, in memory that does not grow with the source."""

import csv
import inspect
import json
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from mediround.__main__ import main
from mediround.annotate.items import Item, Question
from mediround.annotate.sources import beside, listing
from mediround.annotate.sources.listing import SourceOptions, items_of
from mediround.annotate.sources.omissions import Omissions
from mediround.templates import load
from mediround.testing import Script, serve
from tests.unit.client.annotate.jobs import flat_png

TEMPLATE = load("brain-t1-thalami")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    (made / "below").mkdir(parents=True)
    for number in range(3):
        (made / f"{number}.png").write_bytes(flat_png(number))
    (made / "below" / "copy.png").write_bytes(flat_png(0))
    (made / "notes.txt").write_text("no image")
    (made / "plan.dcm").write_bytes(Path(str(get_testdata_file("rtplan.dcm"))).read_bytes())
    (made / "loop").symlink_to(made)
    return made


def too_deep(folder: Path) -> None:
    """Folders whose path is longer than the system takes: root may list any other."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def listed(source: Path) -> tuple[list[Item], dict[str, int]]:
    omissions = Omissions()
    items = list(items_of(str(source), SourceOptions(TEMPLATE, omissions=omissions)))
    return items, {str(reason): count for reason, count in omissions.counts.items()}


def test_a_folders_other_files_copies_links_and_closed_folders_are_counted(folder: Path) -> None:
    too_deep(folder)
    items, counts = listed(folder)
    assert [item.problem for item in items] == ["", "", ""]
    assert counts == {"no_image": 2, "same_image": 1, "linked_folder": 1, "unlistable_folder": 1}


def test_paths_deeper_than_pythons_stack_are_listed(folder: Path) -> None:
    deep = folder.joinpath(*["d"] * 200)
    deep.mkdir(parents=True)
    (deep / "image.png").write_bytes(flat_png(9))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        assert len(listed(folder)[0]) == 4
    finally:
        sys.setrecursionlimit(limit)


def test_a_large_folder_is_listed_in_the_order_of_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [item.uri for item in listed(folder)[0]]
    monkeypatch.setattr("mediround.annotate.sorting.IN_MEMORY", 2)
    assert [item.uri for item in listed(folder)[0]] == names


@pytest.mark.parametrize("form", ["csv", "json"])
def test_images_without_a_row_and_rows_that_come_again_are_counted(folder: Path, form: str) -> None:
    (folder / "truth.png").write_bytes(flat_png(255))
    if form == "csv":
        dialogue = json.dumps([{"question": "Segment it.", "truth": "truth.png"}])
        with (folder / "table.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "dialogue"), *[("below/../0.png", dialogue)] * 2])
    else:
        turns = [
            {"from": "human", "value": "[IMAGE256:0.png]Segment it."},
            {"from": "gpt", "value": "It is [MASK-DECODE:truth.png]."},
        ]
        (folder / "table.json").write_text(json.dumps([{"task": "segmentation", "conversations": turns}] * 2))
    items, counts = listed(folder / f"table.{form}")
    assert len(items) == 1
    assert counts == {"repeated": 1, "no_row": 3, "linked_folder": 1}


def test_a_folder_of_millions_beside_a_table_is_searched_in_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "MOST_READ", 2)
    (folder / "table.csv").write_text("image\n0.png\n")
    assert listed(folder / "table.csv")[1]["not_searched"] == 1


def test_plan_says_what_is_not_taken_and_keeps_where_it_lies(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = folder.parent / "job"
    with serve(Script()) as server:
        command = ["annotate", "plan", str(folder), "--template", TEMPLATE.name, "--job", str(job)]
        for more in ([], ["--json"]):
            assert main([*command, "--server", server.address, *more]) == 0
    printed, errors = capsys.readouterr()
    assert "not taken  2 files or objects that are no image" in printed
    assert json.loads(printed.splitlines()[-1])["not_taken"] == {
        "no_image": 2,
        "same_image": 1,
        "linked_folder": 1,
    }
    assert "warning: 1 links to folders" in errors
    assert "notes" not in printed + errors
    with (job / "not_taken.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert {(each["reason"], each["uri"].rpartition("/")[2]) for each in kept} == {
        ("no_image", "notes.txt"),
        ("no_image", "plan.dcm"),
        ("same_image", "copy.png"),
        ("linked_folder", "loop"),
    }


def test_memory_does_not_grow_with_the_items(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = (Question("left", "left", "The left."),)

    def scripted(source: str, _: SourceOptions) -> Iterator[Item]:
        for number in range(int(source)):
            yield Item(f"{number:032x}", f"{number:064x}", "picture", f"file:///{number}.png", questions)

    def peak(count: int) -> int:
        tracemalloc.start()
        assert sum(1 for _ in items_of(str(count), SourceOptions())) == count
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    monkeypatch.setattr(listing, "_items", scripted)
    peak(10)
    assert peak(6_000) < peak(1_000) + 100_000
