"""What of an item is read once for all items of its image, and held no longer than it should be."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pydicom
import pytest
from pydicom.data import get_testdata_file

from mediround.annotate import dicomweb, loading
from mediround.annotate.errors import ItemError
from mediround.annotate.held import Held
from mediround.annotate.loading import load
from mediround.annotate.sources.listing import SourceOptions, items_of
from mediround.templates import load as template
from tests.unit.client.annotate.archive import archive

TEMPLATE = SourceOptions(template("brain-t1-thalami"))
MULTI_FRAME = str(get_testdata_file("emri_small.dcm"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses of what is read."""
    found: list[str] = []

    def telling(real: Callable[[str], object]) -> Callable[[str], object]:
        def told(uri: str) -> object:
            found.append(uri)
            return real(uri)

        return told

    for module, name in ((loading, "read"), (dicomweb, "retrieve")):
        monkeypatch.setattr(module, name, telling(getattr(module, name)))
    return found


@pytest.fixture(params=["file", "archive"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        (tmp_path / "image.dcm").write_bytes(Path(MULTI_FRAME).read_bytes())
        yield str(tmp_path)
    else:
        with archive(pydicom.dcmread(MULTI_FRAME)) as server:
            yield server.address


def test_an_object_is_read_once_for_all_its_frames(source: str, reads: list[str]) -> None:
    items = list(items_of(source, TEMPLATE))
    reads.clear()
    with ThreadPoolExecutor(len(items)) as threads:
        loaded = list(threads.map(load, items))
    assert [each.frame for each in loaded] == list(range(1, 11))
    assert len({id(each.image) for each in loaded}) == len(reads) == 1


def test_a_file_that_is_another_or_gone_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(Path(MULTI_FRAME).read_bytes())
    item = next(items_of(str(tmp_path), TEMPLATE))
    path.write_bytes(b"another")
    with pytest.raises(ItemError, match="plan again"):
        load(item)
    path.write_bytes(Path(MULTI_FRAME).read_bytes())
    assert load(item).frame == 1
    path.unlink()
    with pytest.raises(ItemError, match="no longer there"):
        load(item)


@pytest.mark.parametrize("window", ["40,400,CUBIC", "40,0,SIGMOID", "40,a", "40,a,LINEAR"])
def test_a_window_that_is_none_is_said_with_the_fix(tmp_path: Path, window: str) -> None:
    (tmp_path / "image.dcm").write_bytes(Path(MULTI_FRAME).read_bytes())
    with pytest.raises(ItemError, match="window must be") as wrong:
        load(next(items_of(str(tmp_path), replace(TEMPLATE, window=window))))
    assert wrong.value.code == "BAD_WINDOW"


def test_so_many_and_so_large_values_are_held_and_the_last_always() -> None:
    made: list[str] = []
    held = Held[str](2, 10)

    def get(key: str, size: int) -> None:
        def make() -> tuple[str, int]:
            made.append(key)
            return key, size

        assert held.get(key, make) == key

    for key, size in (("a", 5), ("b", 5), ("a", 5), ("c", 5), ("a", 5), ("b", 5)):
        get(key, size)
    assert made == ["a", "b", "c", "b"], "the one not asked for longest is dropped"
    get("large", 99)
    get("large", 99)
    get("b", 5)
    assert made[4:] == ["large", "b"]


def test_a_value_is_made_by_one_thread_while_others_wait() -> None:
    held, begun, made = Held[int](1, 1), Barrier(8), list[int]()

    def make() -> tuple[int, int]:
        made.append(7)
        return 7, 1

    def get(_: int) -> int:
        begun.wait()
        return held.get("a", make)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(get, range(8))) == [7] * 8
    assert made == [7]
