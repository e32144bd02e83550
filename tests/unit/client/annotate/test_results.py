"""A run's results together: of shards, and of one image, whatever the order of its frames and dialogues."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from mediround.annotate import results as reading
from mediround.annotate.index import read_part, write_part
from mediround.annotate.items import Item
from mediround.annotate.outputs.grouping import images
from mediround.annotate.results import Result, results
from mediround.annotate.sorting import scratch
from tests.unit.client.annotate.jobs import answered, disc, job_of, picture

SHARDS, ROUNDS = 7, 3


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    return [picture(tmp_path / "images", number) for number in range(SHARDS * ROUNDS)]


def test_a_file_of_each_shard_is_read_once(
    tmp_path: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run = job_of(tmp_path / "job", items)
    for shard in range(SHARDS):
        rows = [row for item in items[shard::SHARDS] for row in answered(item, run, (disc(5), disc(3)))]
        write_part(run.shard_index(f"{shard}-of-{SHARDS}"), rows)
    read: Counter[str] = Counter()

    def counted(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
        read[path.name] += 1
        return read_part(path, columns)

    monkeypatch.setattr(reading, "read_part", counted)
    found = list(results(job, run))
    assert [each.item.item_id for each in found] == [item.item_id for item in items]
    assert all(each.answered for each in found)
    assert (len(read), read.total()) == (SHARDS, SHARDS)
    read.clear()
    monkeypatch.setattr(reading, "_HELD_BYTES", 1)
    assert list(results(job, run)) == found
    assert read.total() == len(items)


def test_an_image_comes_once_with_all_that_was_found_on_it(tmp_path: Path, items: list[Item]) -> None:
    """As a table has it whose rows name frame 1, frame 2, and frame 1 again for another dialogue."""
    _, run = job_of(tmp_path / "job", items)
    first, other = items[:2]
    shown = [
        replace(first, item_id=f"{number:032x}", frame=frame, window=window)
        for number, (frame, window) in enumerate(((1, ""), (2, ""), (1, ""), (1, "0/80"), (2, "")))
    ]
    masks = disc(5), disc(3)
    found = [Result(item, tuple(answered(item, run, masks))) for item in (*shown[:4], other)]
    found.insert(4, Result(shown[4], ()))
    found.insert(1, Result(replace(first, image_id="", problem="BAD_FRAME: there is none"), ()))
    made = list(images(found[:6]))
    assert [(each.item.frame, each.item.window, len(each.rows), each.complete) for each in made] == [
        (1, "", 4, True),
        (2, "", 2, False),
        (1, "0/80", 2, True),
    ]
    assert len({each.name for each in images(found)}) == 4


def test_a_scratch_database_is_one_transaction() -> None:
    with scratch("CREATE TABLE values_ (value TEXT)") as database:
        assert database.in_transaction
        database.execute("INSERT INTO values_ VALUES ('a')")
        assert database.in_transaction
