"""The file that lets a run go on: torn lines, other runs, damage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mediround import EngineRecord, Library, PixelRecord, RuntimeRecord, rle
from mediround.evaluate.ledger import ItemRecord, Ledger, RoundRecord, Run, RunError, read_records, read_run
from mediround.evaluate.metrics import Overlap
from tests.scripted.medseg import rectangle

VLLM, CPU = RuntimeRecord("vllm", "0.32.0", "cpu", "float32", runner="v1"), RuntimeRecord("onnxruntime", threads=2)
PIXELS = PixelRecord((Library("pillow", "13"), Library("opencv", "5")), "none")
RECORD = EngineRecord("e" * 64, "m", "1", "d" * 64, "0.1.0", PIXELS, VLLM, CPU, CPU)
RUN = Run("referenced", "given", "m", "1", "d" * 64, 0.6, True, "0.1.0", "a", "b", (RECORD,))
COUNTS = rle.encode(rectangle()).decode()
MASK = RoundRecord("mask", "It is [SEG].", 0.7, False, 48, 64, Overlap(256, 256, 256), COUNTS)
NO_MASK = RoundRecord("no_mask", "No.", None, False, 48, 64, Overlap(0, 256, 0), None)


def record(key: str) -> ItemRecord:
    return ItemRecord(key, 0, (MASK, NO_MASK))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    with Ledger(path, RUN) as begun:
        begun.append(record("a"))
        begun.append(record("b"))
    return path


def test_what_is_written_is_read(path: Path) -> None:
    assert list(read_records(path)) == [record("a"), record("b")]
    np.testing.assert_array_equal(MASK.mask(), rectangle())
    assert not NO_MASK.mask().any()


def test_a_run_is_read_with_its_engines(path: Path) -> None:
    assert read_run(path) == RUN


def test_a_run_goes_on(path: Path) -> None:
    with Ledger(path, RUN) as again:
        assert again.finished.keys() == {"a", "b"}
        assert again.finished["a"].rounds[0].counts is None  # figures alone stay in memory
        again.append(record("c"))
    assert [item.key for item in read_records(path)] == ["a", "b", "c"]


def test_a_torn_line_is_cut_off(path: Path) -> None:
    with path.open("a") as stream:
        stream.write('{"key":"c","item":2,"rou')
    with Ledger(path, RUN) as again:
        assert again.finished.keys() == {"a", "b"}
        again.append(record("c"))
    assert [item.key for item in read_records(path)] == ["a", "b", "c"]


def test_a_run_torn_in_its_first_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"run":{"pol')
    with Ledger(path, RUN) as begun:
        begun.append(record("a"))
    assert [item.key for item in read_records(path)] == ["a"]


def test_another_run_is_not_mixed_in(path: Path) -> None:
    with pytest.raises(RunError, match=r"another policy, model_digest; choose another --out"):
        Ledger(path, replace(RUN, policy="off", model_digest="e" * 64))
    faster = replace(RECORD, language=replace(VLLM, precision="bfloat16"))
    with pytest.raises(RunError, match=r"another engine_records; choose another --out"):
        Ledger(path, replace(RUN, engine_records=(faster,)))


@pytest.mark.parametrize("line", ["{}", "x", '{"key":"c","item":1,"rounds":[{}]}'])
def test_a_damaged_line_is_named(path: Path, line: str) -> None:
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(RunError, match="line 4 is malformed"):
        Ledger(path, RUN)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("hello\n")
    with pytest.raises(RunError, match="move it away"):
        Ledger(path, RUN)
