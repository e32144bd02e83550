"""Sources: what becomes an item, and what is wrong with one that is said in it, while the rest goes on."""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from errno import EIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem
from pydicom.data import get_testdata_file

from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.items import Item
from mediround.annotate.loading import load
from mediround.annotate.manifest import write_manifest
from mediround.annotate.sources import listing
from mediround.annotate.sources.listing import SourceOptions, items_of
from mediround.annotate.sources.omissions import Omissions
from mediround.templates import load as template
from mediround.window import Window
from tests.unit.client.annotate.jobs import flat_png

TEMPLATE = SourceOptions(template("brain-t1-thalami"))
DIALOGUE = [
    {"question": "The left.", "name": "left", "answer": "It is [SEG].", "truth": "truth.png"},
    {"question": "Its wall.", "refer_to": 0},
    {"question": "What is this?", "reference": "mask.png"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    for number in range(4):
        (made / f"{number}.png").write_bytes(flat_png(number))
    (made / "mask.png").write_bytes(flat_png(255))
    return made


def codes(items: list[Item]) -> list[str]:
    return [item.problem.partition(":")[0] for item in items]


def test_a_folders_images_are_items_once_whatever_else_lies_there(folder: Path) -> None:
    (folder / "again.png").write_bytes(flat_png(0))
    (folder / "notes.txt").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere").symlink_to("n" * 300)
    os.mkfifo(folder / "pipe")
    named = os.fsencode(folder / "name-") + b"\xff.png"
    Path(os.fsdecode(named)).write_bytes(flat_png(9))
    items = list(items_of(str(folder), TEMPLATE))
    good = [item for item in items if not item.problem]
    assert len(good) == len({item.image_id for item in good}) == 6
    assert codes([item for item in items if item.problem]) == ["UNREADABLE"] * 2
    assert [load(item).image for item in good if "%FF" in item.uri] == [flat_png(9)]


def test_frames_of_dicom_files_are_items(folder: Path) -> None:
    for name in ("CT_small.dcm", "emri_small.dcm", "rtplan.dcm"):
        (folder / name).write_bytes(Path(str(get_testdata_file(name))).read_bytes())
    items = [item for item in items_of(str(folder), TEMPLATE) if item.kind == "dicom"]
    assert [item.frame for item in items] == [None, *range(1, 11)]
    assert len({item.item_id for item in items}) == 11
    assert load(items[3]).frame == 3


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_table_says_which_images_with_which_dialogues(folder: Path, form: str) -> None:
    rows = [
        {"image": "0.png", "dialogue": json.dumps(DIALOGUE)},
        {"image": "1.png", "template": "brain-t1-thalami"},
        {"image": "missing.png", "template": "brain-t1-thalami"},
        {"image": "2.png", "template": "no-such-template"},
        {"image": "3.png"},
        {"image": "", "template": "brain-t1-thalami"},
    ]
    path = folder / f"table.{form}"
    if form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ("image", "dialogue", "template"))
            writer.writeheader()
            writer.writerows(rows)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        names = ("image", "dialogue", "template")
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    items = list(items_of(str(path), SourceOptions()))
    assert codes(items) == ["", "", "NO_IMAGE", "BAD_DIALOGUE", "BAD_DIALOGUE", "NO_IMAGE"]
    first = items[0].questions
    assert [each.refer_to for each in first] == [None, 0, None]
    assert first[2].reference is not None
    assert first[0].truth.endswith("truth.png")
    assert load(items[0]).references[2].all()
    assert len({item.item_id for item in items}) == 6


@pytest.mark.parametrize(
    "dialogue",
    [
        [{"question": "a", "refer_to": 0}],
        [{"question": "a"}, {"question": "b", "refer_to": 1}],
        [{"question": "a", "refer_to": True}],
        [{"question": " "}],
        [{"question": "a", "name": "A b"}],
        [{"question": "a", "name": "x"}, {"question": "b", "name": "x"}],
        [{"question": "a", "answer": "b", "mode": "free"}],
        [{"question": "a", "segment": "Liver"}],
        [{"question": "a", "why": "b"}],
        [],
        {"question": "a"},
    ],
)
def test_a_wrong_dialogue_is_its_items_problem(folder: Path, dialogue: object) -> None:
    good = '[{"question": "a"}]'
    rows = [{"image": "0.png", "dialogue": json.dumps(dialogue)}, {"image": "1.png", "dialogue": good}]
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert codes(list(items_of(str(folder / "table.jsonl"), SourceOptions()))) == ["BAD_DIALOGUE", ""]


def test_a_data_set_in_the_medseg_form_has_answers_and_targets(folder: Path) -> None:
    turns = [
        {"from": "human", "value": "[IMAGE256:0.png]Segment the left."},
        {"from": "gpt", "value": "It is [MASK-DECODE:mask.png]."},
    ]
    good = {"task": "segmentation", "conversations": turns}
    (folder / "set.json").write_text(json.dumps([good, {"task": "other"}]))
    items = list(items_of(str(folder / "set.json"), SourceOptions()))
    assert codes(items) == ["", "BAD_DIALOGUE"]
    assert items[0].questions[0].answer == "It is [SEG]."
    assert items[0].questions[0].truth.endswith("mask.png")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("table.csv", b"picture\na.png\n", "column named image"),
        ("table.csv", b"image\n\xff\xfe\n", "UTF-8"),
        ("table.csv", b"image,question,question\n", "one column named question"),
        ("table.csv", b'image,question\na.png,b\nc.png,"d\ne.png,f\n', r"begins in line 3 .*: a quote must end"),
        ("table.csv", b'image,question\na.png,"b\nc.png,"d"\n', "begins in line 2 "),
        ("table.jsonl", b'{"image": "a"}\n[1]\n', "line 2"),
        ("table.parquet", b"PAR1 no", r"must be UTF-8 \.parquet"),
        ("set.json", b"{", "MR-MedSeg"),
        ("notes.txt", b"", "must end in"),
    ],
)
def test_a_source_that_is_none_is_refused_with_the_fix(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=words):
        list(items_of(str(tmp_path / name), SourceOptions()))


def test_a_folder_needs_a_template_and_a_source_must_be_there(folder: Path) -> None:
    with pytest.raises(SourceError, match="--template"):
        list(items_of(str(folder), SourceOptions()))
    with pytest.raises(SourceError, match="SOURCE must be"):
        list(items_of(str(folder / "nowhere"), TEMPLATE))


@pytest.mark.parametrize("named", ["image", "target"])
def test_a_data_set_of_a_store_names_no_file_of_this_machine(folder: Path, named: str) -> None:
    store = pytest.importorskip("fsspec").filesystem("memory")
    here = {"image": "0.png", "target": "mask.png"} | {named: (folder / "1.png").as_uri()}
    turns = [
        {"from": "human", "value": f"[IMAGE256:{here['image']}]Segment the left."},
        {"from": "gpt", "value": f"It is [MASK-DECODE:{here['target']}]."},
    ]
    store.pipe("/sets/0.png", flat_png(0))
    store.pipe("/sets/set.json", json.dumps([{"task": "segmentation", "conversations": turns}]).encode())
    assert codes(list(items_of("memory://sets/set.json", SourceOptions()))) == ["UNSUPPORTED"]


def test_a_source_that_fails_in_its_midst_is_told_as_that(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> Iterator[Item]:
        raise OSError(EIO, "Input/output error")
        yield

    monkeypatch.setattr(listing, "_items", failing)
    with pytest.raises(SourceError, match=r"source cannot be listed.*Input/output error"):
        write_manifest(folder / "manifest.parquet", items_of(str(folder), TEMPLATE))


def test_items_of_one_image_come_together_and_rejected_ones_first(folder: Path) -> None:
    rows = [
        {"image": f"{number}.png", "dialogue": json.dumps([{"question": words}])}
        for words in ("a", "b")
        for number in range(3)
    ]
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts: list[int] = []
    items = list(items_of(str(folder / "table.jsonl"), SourceOptions(listed=counts.append)))
    assert [item.uri[-5:] for item in items] == [f"{number}.png" for number in (0, 0, 1, 1, 2, 2)]
    assert counts == list(range(1, 7))
    urgent = SourceOptions(first=frozenset({items[4].image_id}))
    assert [item.uri[-5] for item in items_of(str(folder / "table.jsonl"), urgent)] == list("220011")


def test_an_object_stores_images_are_items_as_a_folders_are(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    ct = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
    for name, content in {"a b.png": flat_png(1), "b.dcm": ct, "c.txt": b"no image"}.items():
        store.pipe(f"/archive/{name}", content)
    items = list(items_of("memory://archive", TEMPLATE))
    assert [item.kind for item in items] == ["picture", "dicom"]
    assert [load(item).image for item in items] == [flat_png(1), ct]
    (folder / "same.png").write_bytes(flat_png(1))
    assert items[0].item_id in {item.item_id for item in items_of(str(folder), TEMPLATE)}
    store.pipe("/archive/a b.png", flat_png(2))
    with pytest.raises(ItemError, match="plan again"):
        load(items[0])
    for source in ("simplecache::memory://archive", "memory://empty", "nonsense://a"):
        with pytest.raises(SourceError):
            list(items_of(source, TEMPLATE))


WINDOWED = """
name = "ours"
modality = "CT"
body_part = "HEAD"
model = "m"
window = {{center = 40, width = 400.5{}}}
[[questions]]
name = "left"
question = "The left."
"""


@pytest.mark.parametrize(("function", "window"), [("", (40, 400.5)), (', function = "SIGMOID"', None)])
def test_a_templates_window_is_its_items(folder: Path, function: str, window: object) -> None:
    (folder / "ct.dcm").write_bytes(Path(str(get_testdata_file("CT_small.dcm"))).read_bytes())
    (folder / "ours.toml").write_text(WINDOWED.format(function))
    options = SourceOptions(template(folder / "ours.toml"))
    store = pytest.importorskip("fsspec").filesystem("memory")
    store.pipe("/windowed/ct.dcm", (folder / "ct.dcm").read_bytes())
    rows = [
        {"image": "ct.dcm", "template": "ours.toml"},
        {"image": "ct.dcm"},
        {"image": "ct.dcm", "window": "1"},
        {"image": "ct.dcm", "dialogue": '[{"question": "a"}]'},
    ]
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = load(next(item for item in items_of(str(folder), options) if item.kind == "dicom")).window
    assert seen == (window or Window(40, 400.5, "SIGMOID"))
    [stored] = items_of("memory://windowed", options)
    assert load(stored).window == seen
    of_rows = list(items_of(str(folder / "table.jsonl"), options))
    assert [load(item).window for item in of_rows] == [seen, 1, None], "the first two rows are one item"
    [said] = items_of("memory://windowed", replace(options, window="2"))
    assert load(said).window == 2
    assert len({stored.item_id, said.item_id, *(item.item_id for item in of_rows)}) == 4


def test_what_lies_in_a_folder_of_ours_is_no_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = pytest.importorskip("fsspec").filesystem("memory")
    disk = pytest.importorskip("fsspec.implementations.arrow").ArrowFSWrapper(LocalFileSystem())
    monkeypatch.setattr("mediround.annotate.remote._s3", lambda: disk)  # read as S3 is
    ours = {
        "job/job.json": b'{"format": 1, "current": null}',
        "alone/run.json": b'{"model_digest": "ab", "preprocessing": "rule"}',
        "report/mediround-report.txt": b"",
    }
    others = {"theirs/job.json": b'{"format": "A4"}', "broken/run.json": b"["}
    for number, (name, content) in enumerate((ours | others).items(), start=10):
        inside = f"{name.partition('/')[0]}/masks/{number}.png"
        for path, held in ((name, content), (inside, flat_png(number))):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(held)
            store.pipe(f"/kept/{path}", held)
    cut_off = Path(str(get_testdata_file("liver.dcm"))).read_bytes()[:900]
    (folder / "job" / "seg.dcm").write_bytes(cut_off)
    here, stores = str(folder), ("memory://kept", f"s3://{folder}")
    for source, references in ((here, None), (here, "seg"), *((each, None) for each in stores)):
        omissions = Omissions()
        options = replace(TEMPLATE, references=references, omissions=omissions)  # type: ignore[arg-type]  # as it says
        uris = [item.uri for item in items_of(source, options)]
        assert [uri[-6:] for uri in uris if "/masks/" in uri] == ["14.png", "13.png"], source
        assert (omissions.counts["ours"], omissions.counts["bad_segmentation"]) == (3, 0)
    assert list(items_of(str(folder / "job" / "masks"), TEMPLATE)), "what is named itself is planned"
