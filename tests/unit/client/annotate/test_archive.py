"""A DICOMweb archive as a source, and answers of it that do not end, are too large, or of another form."""

import copy
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pydicom
import pytest
from pydicom.data import get_testdata_file

from mediround.annotate import dicomweb
from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.items import Item
from mediround.annotate.loading import load
from mediround.annotate.sources.listing import SourceOptions, items_of
from mediround.annotate.sources.omissions import Omissions
from mediround.templates import load as template
from mediround.window import Window
from tests.unit.client.annotate.archive import FakeArchive, archive


@pytest.fixture
def running() -> Iterator[FakeArchive]:
    names = ("CT_small.dcm", "emri_small.dcm", "rtplan.dcm")
    with archive(*(pydicom.dcmread(str(get_testdata_file(name))) for name in names)) as server:
        yield server


def listed(source: str, omissions: Omissions) -> list[Item]:
    return list(items_of(source, SourceOptions(template("brain-t1-thalami"), omissions=omissions)))


def drip(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece
        time.sleep(0.05)


def test_an_archives_images_are_items_and_other_objects_are_counted(running: FakeArchive) -> None:
    omissions = Omissions()
    items = listed(running.address, omissions)
    assert [item.frame for item in items] == [None, *range(1, 11)]
    assert dict(omissions.counts) == {"no_image": 1}
    assert [item.uri for item in listed(f"{running.address}?Modality=CT", omissions)] == [items[0].uri]
    image = load(items[0]).image
    assert isinstance(image, pydicom.Dataset)
    assert image.SOPInstanceUID == items[0].instance


def test_answers_that_are_too_large_or_do_not_end_are_refused(
    running: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = listed(f"{running.address}?Modality=CT", Omissions())[0]
    monkeypatch.setattr(dicomweb, "MAX_FILE_BYTES", 1 << 20)
    monkeypatch.setattr(dicomweb, "MAX_PAGE_BYTES", 1 << 20)
    running.body = itertools.repeat(b" " * 9999)
    with pytest.raises(SourceError, match="narrow the query"):
        listed(running.address, Omissions())
    running.body = itertools.repeat(b" " * 9999)
    with pytest.raises(ItemError, match="at most 1 MiB") as large:
        load(item)
    assert large.value.code == "TOO_LARGE"
    monkeypatch.setattr(dicomweb, "MAX_PAGE_SECONDS", 0.3)
    monkeypatch.setattr(dicomweb, "MAX_INSTANCE_SECONDS", 0.3)
    running.body = drip(b" ")
    with pytest.raises(SourceError, match="takes longer"):
        listed(running.address, Omissions())
    running.body = drip(b" ")
    with pytest.raises(ItemError, match="for fewer at once: then `run --retry-failed`") as slow:
        load(item)
    assert slow.value.code == "TOO_SLOW"


@pytest.mark.parametrize(
    "page", [{}, 7, [7], [{"0020000E": 7}], [{"0020000E": {"Value": {}}}], [{"0020000D": {"Value": ["\ud800"]}}]]
)
def test_an_answer_of_another_form_is_refused(running: FakeArchive, page: object) -> None:
    running.body = iter([json.dumps(page).encode()])
    with pytest.raises(SourceError, match="as DICOMweb does"):
        listed(running.address, Omissions())
    running.body = iter([b"[" * 100_000])
    with pytest.raises(SourceError, match="as DICOMweb does"):
        listed(running.address, Omissions())


def test_an_archive_whose_pages_do_not_end_is_refused(
    running: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.heeds_offset = False
    with pytest.raises(SourceError, match="offset"):
        listed(running.address, Omissions())
    running.heeds_offset, running.most = True, 1
    monkeypatch.setattr(dicomweb, "MAX_PAGES", 2)
    with pytest.raises(SourceError, match="at most 2 pages"):
        listed(running.address, Omissions())


def test_an_archive_that_gives_fewer_at_once_than_it_is_asked_for_is_listed_whole(running: FakeArchive) -> None:
    running.most = 2
    first = running.instances[0]
    running.instances += [copy.deepcopy(first) for _ in range(4)]
    for number, one in enumerate(running.instances[3:]):
        one.SOPInstanceUID = f"{first.SOPInstanceUID}.{number}"
    assert len(listed(running.address, Omissions())) == 15
    objects = [running.instances[0], *running.instances[3:]]
    assert dicomweb.store(running.address, objects) == "", "it has them all, and none is sent"


@pytest.mark.parametrize(
    ("query", "words"),
    [("Modality=MR&Modality=CT", "each attribute once"), ("Modality=CT&limit=1", "no limit")],
)
def test_a_query_that_qido_has_no_words_for_is_refused(running: FakeArchive, query: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        listed(f"{running.address}?{query}", Omissions())


def test_a_series_beyond_memory_is_refused(running: FakeArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb, "MAX_INSTANCES", 0)
    with pytest.raises(SourceError, match="at most 0 instances"):
        listed(running.address, Omissions())


def test_an_instance_without_a_uid_is_an_item_that_fails(running: FakeArchive) -> None:
    del running.instances[0].SOPInstanceUID
    assert [item.problem.partition(":")[0] for item in listed(f"{running.address}?Modality=CT", Omissions())] == [
        "BAD_DICOM"
    ]


def test_a_templates_window_is_how_an_archives_images_are_seen(running: FakeArchive) -> None:
    windowed = replace(template("brain-t1-thalami"), window=Window(40, 400))
    [item] = items_of(f"{running.address}?Modality=CT", SourceOptions(windowed))
    assert (item.window, load(item).window) == ("40,400", (40, 400))
