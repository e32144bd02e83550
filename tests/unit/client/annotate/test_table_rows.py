"""Tables as others write them: columns of their own for questions, several rows a dialogue, in a store."""

import csv
import datetime as dt
import decimal
import io
import json
import uuid
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mediround.annotate.errors import SourceError
from mediround.annotate.items import Item
from mediround.annotate.loading import load
from mediround.annotate.sources import listing
from mediround.annotate.sources.listing import SourceOptions, items_of
from mediround.annotate.sources.omissions import Omissions, kept
from tests.unit.client.annotate.jobs import flat_png

Rows = list[dict[str, object]]
CHAIN: Rows = [
    {"id": "a", "image": "0.png", "question": "The left.", "answer": "It is [SEG].", "truth": "mask.png"},
    {"id": "b", "image": "1.png", "question": "The liver.", "name": "liver"},
    {"id": "a", "image": "0.png", "question": "Its wall.", "reference": "0"},
    {"id": "a", "image": "0.png", "question": "What is this?", "reference": "mask.png", "mode": "free"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, value in (("0.png", 0), ("1.png", 1), ("mask.png", 255)):
        (tmp_path / name).write_bytes(flat_png(value))
    return tmp_path


def table(rows: Rows, form: str) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if form == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    held = io.BytesIO()
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), held)
    return held.getvalue()


def listed(folder: Path, rows: Rows, form: str = "jsonl") -> list[Item]:
    path = folder / f"table.{form}"
    path.write_bytes(table(rows, form))
    return list(items_of(str(path), SourceOptions()))


def codes(items: list[Item]) -> list[str]:
    return [item.problem.partition(":")[0] for item in items]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_rows_of_one_id_are_one_dialogue(folder: Path, form: str) -> None:
    first, second = listed(folder, CHAIN, form)
    assert (first.source_id, second.source_id) == ("a", "b")
    assert (first.problem, second.problem) == ("", "")
    assert [each.question for each in first.questions] == ["The left.", "Its wall.", "What is this?"]
    assert [each.refer_to for each in first.questions] == [None, 0, None]
    assert first.questions[0].answer == "It is [SEG]."
    assert first.questions[0].truth.endswith("mask.png")
    assert first.questions[2].mode == "free"
    assert load(first).references[2].all()
    assert second.questions[0].name == "liver"


def test_rows_of_one_image_are_one_dialogue_in_the_order_of_round(folder: Path) -> None:
    rows: Rows = [
        {"image": "0.png", "round": 1, "question": "Its wall.", "reference": 0},
        {"image": "1.png", "question": "The liver."},
        {"image": "0.png", "round": 0, "question": "The left."},
    ]
    first, second = listed(folder, rows)
    assert [each.question for each in first.questions] == ["The left.", "Its wall."]
    assert [each.question for each in second.questions] == ["The liver."]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ([{"question": "a", "reference": "0"}], "BAD_DIALOGUE"),
        ([{"question": "a"}, {"question": "b", "reference": "2"}], "BAD_DIALOGUE"),
        ([{"question": "a"}, {"question": "b", "reference": "none.png"}], "NO_REFERENCE"),
        ([{"question": "a", "round": 0}, {"question": "b", "round": 0}], "BAD_DIALOGUE"),
        ([{"question": "a", "round": 0}, {"question": "b"}], "BAD_DIALOGUE"),
        ([{"question": "a"}, {"question": "b", "image": "1.png"}], "DUPLICATE_ID"),
        ([{"question": "a"}, {"template": "brain-t1-thalami"}], "BAD_DIALOGUE"),
        ([{"question": "a", "dialogue": '[{"question": "b"}]'}], "BAD_DIALOGUE"),
        ([{"question": "a", "template": "brain-t1-thalami"}], "BAD_DIALOGUE"),
        ([{"question": f"{number}"} for number in range(300)], "BAD_DIALOGUE"),
        ([{"question": "\ud800"}], "BAD_DIALOGUE"),
        ([{"question": "a", "image": "\ud800"}], "BAD_DIALOGUE"),
        ([{"dialogue": '[{"question": "\\ud800"}]'}], "BAD_DIALOGUE"),
        ([{"template": "none.toml"}], "SOURCE_GONE"),
        ([{"question": "a", "image": "none.png"}], "NO_IMAGE"),
        ([{"question": "a", "image": "ftp://host/0.png"}], "UNSUPPORTED"),
    ],
)
def test_wrong_rows_are_their_items_problem(folder: Path, wrong: Rows, code: str) -> None:
    items = listed(folder, [*({"id": "x", "image": "0.png"} | row for row in wrong), *CHAIN[1:2]])
    assert codes(items) == [code, ""]


def test_an_id_that_comes_again_with_another_dialogue_fails_and_the_first_stands(folder: Path) -> None:
    rows: Rows = [{"id": "x", "image": f"{n}.png", "template": "brain-t1-thalami"} for n in (0, 0, 1)]
    (folder / "table.jsonl").write_bytes(table(rows, "jsonl"))
    omissions = Omissions()
    items = list(items_of(str(folder / "table.jsonl"), SourceOptions(omissions=omissions)))
    assert codes(items) == ["", "DUPLICATE_ID"]
    assert [item.source_id for item in items] == ["x", "x"]
    assert omissions.counts == {"repeated": 1, "no_row": 1}, "the mask"


def test_of_many_rows_of_one_id_none_is_lost(folder: Path) -> None:
    row = {"id": "x", "image": "0.png", "template": "brain-t1-thalami"}
    items = listed(folder, [row | {"window": f"{n}"} for n in range(300)])
    assert codes(items) == ["", *["DUPLICATE_ID"] * 299]
    questions: Rows = [{"id": "x", "image": "0.png", "question": f"{n}"} for n in range(300)]
    questions[-1] |= {"image": "1.png", "truth": "mask.png"}
    (folder / "table.jsonl").write_bytes(table(questions, "jsonl"))
    omissions = Omissions()
    items = list(items_of(str(folder / "table.jsonl"), SourceOptions(omissions=omissions)))
    assert codes(items) == ["BAD_DIALOGUE"]
    assert not omissions.counts, "its files have a row"


def test_of_ids_that_ask_the_same_all_are_kept(folder: Path) -> None:
    (folder / "copy.png").write_bytes(flat_png(0))
    rows = [{"id": n, "image": n, "template": "brain-t1-thalami"} for n in ("0.png", "1.png", "copy.png")]
    rows.append(rows[0] | {"id": "again"})
    (folder / "table.jsonl").write_bytes(table([*rows], "jsonl"))
    with kept(folder / "not_taken.csv") as omissions:
        items = list(items_of(str(folder / "table.jsonl"), SourceOptions(omissions=omissions)))
    assert [item.source_id for item in items] == ["0.png", "1.png"]
    with (folder / "not_taken.csv").open(newline="") as file:
        found = {(each["reason"], each["source_id"], each["item_id"]) for each in csv.DictReader(file)}
    same = items[0].item_id
    assert found == {("same_image", "copy.png", same), ("repeated", "again", same), ("no_row", "", "")}


def test_a_row_with_more_columns_than_the_header_fails_alone(folder: Path) -> None:
    text = 'id,image,question\na,0.png,The left, upper lobe.\n\nb,1.png,"The left, upper lobe."\n'
    (folder / "table.csv").write_text(text)
    first, second = items_of(str(folder / "table.csv"), SourceOptions())
    assert (first.source_id, first.uri[-5:], second.problem) == ("a", "0.png", "")
    assert first.problem.startswith("BAD_DIALOGUE: the row has more columns than the header")
    assert second.questions[0].question == "The left, upper lobe."


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_whole_numbers_may_be_written_as_fractions(folder: Path, form: str) -> None:
    rows: Rows = [
        {"image": "0.png", "frame": 1.0, "round": 1.0, "question": "Its wall.", "reference": 0.0},
        {"image": "0.png", "frame": 1.0, "round": 0.0, "question": "The left.", "reference": None},
    ]
    [item] = listed(folder, rows, form)
    assert item.problem == ""
    assert [each.refer_to for each in item.questions] == [None, 0]


def test_values_that_are_no_text_are_written_as_such_or_refused(folder: Path) -> None:
    day = dt.date(2026, 1, 2)
    known = uuid.UUID(int=7)
    for value, text in ((day, "2026-01-02"), (decimal.Decimal("1.50"), "1.50"), (7, "7"), (known, str(known))):
        [item] = listed(folder, [{"image": "0.png", "question": "The left.", "id": value}], "parquet")
        assert item.source_id == text
    dialogue = [{"question": "The left."}, {"question": "Its wall.", "refer_to": 0}]
    for form in ("jsonl", "parquet"):
        [item] = listed(folder, [{"image": "0.png", "dialogue": dialogue}], form)
        assert [each.refer_to for each in item.questions] == [None, 0]
        of_others: Rows = [{"image": "0.png", "question": "a", "note": {"of": "others"}}]
        assert codes(listed(folder, of_others, form)) == [""]
    for wrong in (b"a", {"a": 1}, ["a"], dt.timedelta(1)):
        with pytest.raises(SourceError, match="column question must hold text or numbers: write its"):
            listed(folder, [{"image": "0.png", "question": wrong}], "parquet")
    assert codes(listed(folder, [{"image": "0.png", "question": ["a"]}, *CHAIN[1:2]])) == ["BAD_DIALOGUE", ""]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_table_of_a_store_names_its_images_there_or_anywhere(folder: Path, form: str) -> None:
    store = pytest.importorskip("fsspec").filesystem("memory")
    rows: Rows = [
        *CHAIN,
        {"id": "c", "image": "memory://elsewhere/2.png", "question": "The heart."},
        {"id": "d", "image": (folder / "0.png").as_uri(), "question": "What this machine's user may read."},
        {"id": "e", "image": "0.png", "template": (folder / "own.toml").as_uri()},
        {"id": "f", "image": "0.png", "template": str(folder / "own")},
    ]
    shipped = files("mediround.templates").joinpath("shipped", "brain-t1-thalami.toml").read_bytes()
    for name in ("own.toml", "own"):
        (folder / name).write_bytes(shipped)
    for name in ("0.png", "1.png", "mask.png"):
        store.pipe(f"/rows/{name}", (folder / name).read_bytes())
    store.pipe("/elsewhere/2.png", flat_png(2))
    store.pipe(f"/rows/table.{form}", table(rows, form))
    items = list(items_of(f"memory://rows/table.{form}", SourceOptions()))
    assert codes(items) == ["", "", "", "UNSUPPORTED", "UNSUPPORTED", "SOURCE_GONE"]
    assert [load(item).image for item in items[:3]] == [flat_png(0), flat_png(1), flat_png(2)]
    assert load(items[0]).references[2].all()
    local = {item.item_id for item in listed(folder, CHAIN, form)}
    assert {item.item_id for item in items[:2]} == local
    elsewhere = SourceOptions(root="memory://rows")
    (folder / "other.jsonl").write_bytes(table(CHAIN, "jsonl"))
    assert {item.item_id for item in items_of(str(folder / "other.jsonl"), elsewhere)} == local


def test_a_table_of_a_store_that_is_not_there_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    store = pytest.importorskip("fsspec").filesystem("memory")
    store.pipe("/large/table.csv", b"image\n" * 1000)
    with pytest.raises(SourceError, match="see address"):
        list(items_of("memory://large/none.csv", SourceOptions()))
    with pytest.raises(SourceError, match="no store"):
        list(items_of("ftp://large/none.csv", SourceOptions()))
    monkeypatch.setattr(listing, "MAX_TABLE_BYTES", 999)
    with pytest.raises(SourceError, match="split it"):
        list(items_of("memory://large/table.csv", SourceOptions()))
