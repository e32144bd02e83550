"""The accuracy gate on runs that are written by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from exporters.__main__ import main
from exporters.compare.gate import GateTolerance, GateVerdict, NotComparableError, judge, read
from exporters.errors import SourceError
from mediround import rle
from mediround.evaluate.ledger import ItemRecord, Ledger, RoundRecord, Run
from mediround.evaluate.metrics import overlap

RUN = Run("referenced", "given", "m", "1", "a" * 64, 0.6, True, "0.1.0", "a", "b")
DEFAULT = GateTolerance()
OTHER = replace(RUN, model_digest="b" * 64, vision_engine="c")
TARGET = np.zeros((10, 20), np.bool_)
TARGET[:5, :10] = True  # 50 of 200 pixels


def shifted(rows: int) -> RoundRecord:
    """The target moved down: each row flips 20 pixels and costs a fifth of the Dice."""
    mask = np.roll(TARGET, rows, axis=0)
    counts = rle.encode(mask).decode()
    return RoundRecord("mask", "It is [SEG].", 0.9, False, 10, 20, overlap(mask, TARGET), counts)


NO_MASK = RoundRecord("no_mask", "No.", None, False, 10, 20, overlap(None, TARGET), None)


def written(directory: Path, run: Run, items: list[list[RoundRecord]], data: str = "d" * 64) -> Path:
    """A finished run; the path of its report."""
    directory.mkdir()
    with Ledger(directory / "results.jsonl", run) as ledger:
        for number, rounds in enumerate(items):
            ledger.append(ItemRecord(f"key {number}", number, tuple(rounds)))
    keys = [f"key {number}" for number in range(2)]
    report = {"run": asdict(run), "data": {"digest": data, "keys": keys}}
    (directory / "report.json").write_text(json.dumps(report))
    return directory / "report.json"


def judged(tmp_path: Path, candidate: list[list[RoundRecord]], tolerance: GateTolerance = DEFAULT) -> GateVerdict:
    baseline = written(tmp_path / "baseline", RUN, [[shifted(0), shifted(0)], [shifted(0)]])
    return judge(read(baseline), read(written(tmp_path / "candidate", OTHER, candidate)), tolerance)


def test_equal_masks_pass(tmp_path: Path) -> None:
    verdict = judged(tmp_path, [[shifted(0), shifted(0)], [shifted(0)]], GateTolerance(0, 0))
    assert not verdict.problems
    assert not verdict.most_moved(10)
    assert (verdict.overall.masks, verdict.overall.flipped_share) == (3, 0)


def test_a_loss_of_dice_over_all_and_in_a_round_fails(tmp_path: Path) -> None:
    verdict = judged(tmp_path, [[shifted(0), shifted(1)], [shifted(0)]], GateTolerance(dice=0.05, flipped=1))
    assert verdict.overall.loss == pytest.approx(0.2 / 3, abs=1e-6)
    assert [change.loss for change in verdict.by_round] == pytest.approx([0, 0.2], abs=1e-6)
    assert len(verdict.problems) == 2
    assert "all rounds: Dice fell from 1.0000 to 0.9333" in verdict.problems[0]
    assert "round 1: Dice fell from 1.0000 to 0.8000" in verdict.problems[1]


def test_one_round_index_can_fail_alone(tmp_path: Path) -> None:
    verdict = judged(tmp_path, [[shifted(0), shifted(1)], [shifted(0)]], GateTolerance(dice=0.1, flipped=1))
    assert len(verdict.problems) == 1
    assert verdict.problems[0].startswith("round 1:")


def test_flipped_pixels_fail(tmp_path: Path) -> None:
    verdict = judged(tmp_path, [[shifted(0), shifted(0)], [shifted(2)]], GateTolerance(dice=1, flipped=0.06))
    assert verdict.overall.flipped_share == 40 / 600
    assert len(verdict.problems) == 1
    assert "6.6667% of the pixels flipped (tolerated: 6.0000%)" in verdict.problems[0]
    (moved,) = verdict.most_moved(10)
    assert (moved.item, moved.round, moved.flipped) == (1, 0, 40)


def test_a_mask_that_is_no_longer_there_flips_its_pixels(tmp_path: Path) -> None:
    verdict = judged(tmp_path, [[shifted(0), shifted(0)], [NO_MASK]], GateTolerance(dice=1, flipped=0.05))
    assert verdict.overall.answered_otherwise == 1
    assert len(verdict.problems) == 1


def test_a_better_candidate_passes_in_dice(tmp_path: Path) -> None:
    baseline = read(written(tmp_path / "a", RUN, [[shifted(3)]]))
    candidate = read(written(tmp_path / "b", OTHER, [[shifted(1)]]))
    assert not judge(baseline, candidate, GateTolerance(dice=0, flipped=1)).problems


def test_an_item_that_failed_in_the_candidate_fails(tmp_path: Path) -> None:
    verdict = judged(tmp_path, [[shifted(0), shifted(0)]])
    assert verdict.problems == ("1 items of the baseline have no result: see the candidate's failures",)


@pytest.mark.parametrize(
    ("run", "data", "words"),
    [
        (RUN, "e" * 64, "different data"),
        (replace(OTHER, policy="off"), "d" * 64, "policy is referenced in the baseline and off"),
        (replace(OTHER, answers="free"), "d" * 64, "answers is given in the baseline and free"),
    ],
)
def test_runs_of_other_data_or_settings_are_not_compared(tmp_path: Path, run: Run, data: str, words: str) -> None:
    baseline = read(written(tmp_path / "a", RUN, [[shifted(0)]]))
    candidate = read(written(tmp_path / "b", run, [[shifted(0)]], data))
    with pytest.raises(NotComparableError, match=words):
        judge(baseline, candidate, GateTolerance())


def test_runs_without_a_common_item_are_not_compared(tmp_path: Path) -> None:
    baseline = read(written(tmp_path / "a", RUN, [[shifted(0)]]))
    candidate = read(written(tmp_path / "b", OTHER, []))
    with pytest.raises(NotComparableError, match="no item"):
        judge(baseline, candidate, GateTolerance())


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    baseline = read(written(tmp_path / "a", RUN, [[shifted(0)]]))
    candidate = read(written(tmp_path / "b", OTHER, [[replace(shifted(0), counts="oops")]]))
    with pytest.raises(SourceError, match="item 0, round 0: a stored mask is damaged"):
        judge(baseline, candidate, GateTolerance())


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"report\.json: cannot be read"):
        read(tmp_path / "report.json")
    report = written(tmp_path / "a", RUN, [])
    report.write_text("{}")
    with pytest.raises(SourceError, match="is no report"):
        read(report)


def test_the_command_prints_what_moved_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = written(tmp_path / "a", RUN, [[shifted(0), shifted(0)]])
    candidate = written(tmp_path / "b", OTHER, [[shifted(0), shifted(1)]])
    paths = ["--baseline", str(baseline), "--candidate", str(candidate)]
    assert main(["gate", *paths]) == 1
    shown = capsys.readouterr().out
    assert "round   1: 1 masks, Dice 1.0000 -> 0.8000, 10.0000% of pixels flipped" in shown
    assert "moved: item 0, round 1: 20 of 200 pixels" in shown
    assert "FAILED: round 1" in shown
    assert main(["gate", *paths, "--max-dice-loss", "0.5", "--max-flipped", "0.5"]) == 0
    assert "passed" in capsys.readouterr().out
    assert main(["gate", "--baseline", str(baseline), "--candidate", str(tmp_path / "none")]) == 2
