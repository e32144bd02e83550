"""``mediround evaluate`` through a real server over scripted engines."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mediround.__main__ import main
from mediround.evaluate import EvaluationReport, Options, RunError, evaluate_async
from mediround.evaluate.ledger import read_records
from serving.api.server import Server, serving
from serving.errors import EngineFault, Unavailable
from tests.scripted.medseg import Item, dialogue, rectangle, write
from tests.service.harness import Stage
from tests.service.harness import stage as build_stage

GIVEN = Options(concurrency=2, timeout=20)
FREE = Options(answers="free", concurrency=2, timeout=20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


async def evaluated(
    server: Server, items: object, root: Path, out: Path, options: Options = GIVEN
) -> EvaluationReport:
    return await evaluate_async(server.address, write(root, items), root, out, options)


async def test_the_report_equals_what_the_results_say(server: Server, root: Path, out: Path) -> None:
    report = await evaluated(server, [dialogue([None, 0, 0]), dialogue([None])], root, out)
    assert [figures.rounds for figures in report.by_round] == [2, 1, 1]
    records = list(read_records(out / "results.jsonl"))
    rounds = [found for record in records for found in record.rounds]
    dices = []
    for found in rounds:
        mask, target = found.mask(), rectangle()
        dices.append(2 * (mask & target).sum() / (mask.sum() + target.sum()))
    assert report.overall is not None
    assert report.overall.dice == pytest.approx(sum(dices) / 4, abs=1e-6)
    assert report.overall.corrected == sum(found.corrected for found in rounds)
    assert report.judge is not None
    assert report.judge.rounds + report.judge_left_out == 4
    assert report.judge_left_out == report.overall.corrected
    assert json.loads((out / "report.json").read_text())["overall"]["dice"] == report.overall.dice
    assert "Dice" in (out / "report.txt").read_text()
    for name in ("rounds.png", "reliability.png"):
        with Image.open(out / name) as plot:
            assert plot.size[0] > 300


async def test_known_answers_are_read_in_waves_and_free_ones_round_by_round(
    server: Server, stage: Stage, root: Path, tmp_path: Path
) -> None:
    items = [dialogue([None, 0, 0, 0])]
    await evaluated(server, items, root, tmp_path / "given")
    assert len(stage.language.script.asked("complete")) == 2
    await evaluated(server, items, root, tmp_path / "free", FREE)
    assert len(stage.language.script.asked("complete")) == 2 + 4


@pytest.mark.parametrize("policy", ["referenced", "always", "off"])
async def test_a_policy_means_the_same_in_both_modes(
    policy: str, executor: Executor, root: Path, tmp_path: Path
) -> None:
    """With a judge that always fires, who is corrected says who was judged."""
    staged = build_stage(executor)
    staged.vision._judge = lambda feature: 0.1
    expected = {"referenced": [True, False, False], "always": [True] * 3, "off": [False] * 3}[policy]
    async with serving(staged.service) as server:
        for answers in ("given", "free"):
            await evaluated(
                server, [dialogue([None, 0, None])], root, tmp_path / answers, Options(policy, answers)
            )
            (record,) = read_records(tmp_path / answers / "results.jsonl")
            assert [found.corrected for found in record.rounds] == expected


def unheard(item: Item, turn: int) -> Item:
    """The scripted model answers this turn without a mask."""
    value = item["conversations"][turn]["value"]
    item["conversations"][turn]["value"] = value.replace("Segment", "hear me?")
    return item


async def test_no_mask_counts_as_an_empty_prediction_and_on_its_own(server: Server, root: Path, out: Path) -> None:
    item = unheard(dialogue([None, 0, 1, 0, None]), turn=2)
    report = await evaluated(server, [item], root, out, FREE)
    (record,) = read_records(out / "results.jsonl")
    statuses = [found.status for found in record.rounds]
    assert statuses == ["mask", "no_mask", "not_asked", "mask", "mask"]
    assert report.overall is not None
    assert (report.overall.no_mask, report.overall.not_asked, report.overall.rounds) == (1, 1, 5)
    assert report.by_round[1].dice == report.by_round[2].dice == 0
    dices = [found.overlap.dice for found in record.rounds]
    assert report.overall.dice == pytest.approx(sum(dices) / 5)
    assert not report.failures


async def test_bad_items_are_listed_with_file_and_item_and_the_rest_goes_on(
    server: Server, root: Path, out: Path
) -> None:
    odd = dialogue([None])
    odd["conversations"].pop()
    long = dialogue([None])
    long["conversations"][0]["value"] += " too long" * 20
    items = [
        dialogue([None]),
        odd,
        dialogue([None], target="none.png"),
        dialogue([None], target="../outside.png"),
        dialogue([None], target="small.png"),
        dialogue([None] * 7),
        "nothing",
        long,
    ]
    Image.fromarray(rectangle(8, 8)).save(root / "small.png")
    report = await evaluated(server, items, root, out)
    failed = [(failure.item, Path(failure.file).name) for failure in report.failures]
    assert failed[:6] == [
        (1, "dialogues.json"),
        (2, "none.png"),
        (3, "outside.png"),
        (4, "small.png"),
        (5, "dialogues.json"),
        (6, "dialogues.json"),
    ]
    assert report.failures[6].file == server.address
    assert "InvalidArgument" in report.failures[6].problem
    assert (report.data.items, report.data.evaluated) == (8, 1)


async def test_nothing_is_reported_when_nothing_could_be_evaluated(server: Server, root: Path, out: Path) -> None:
    report = await evaluated(server, ["nothing"], root, out)
    assert report.overall is None
    assert not (out / "rounds.png").exists()


async def test_an_engine_fault_fails_its_item_alone_and_is_tried_again_by_the_next_run(
    server: Server, stage: Stage, root: Path, out: Path
) -> None:
    items = [dialogue([None]), dialogue([None, 0])]
    stage.language.script.fail_next("complete", EngineFault("broken"))
    first = await evaluated(server, items, root, out)
    assert len(first.failures) == 1
    assert "ServerFault" in first.failures[0].problem
    second = await evaluated(server, items, root, out)
    assert not second.failures
    assert second.data.evaluated == 2


async def test_a_busy_server_is_asked_again(server: Server, stage: Stage, root: Path, out: Path) -> None:
    stage.language.script.fail_next("complete", Unavailable("busy", 0.01))
    report = await evaluated(server, [dialogue([None])], root, out)
    assert not report.failures


async def test_an_interrupted_run_goes_on_where_it_was(
    server: Server, stage: Stage, root: Path, tmp_path: Path
) -> None:
    items = [dialogue([None, 0] + [None] * number) for number in range(4)]
    out, whole = tmp_path / "out", tmp_path / "whole"
    run = asyncio.create_task(evaluated(server, items, root, out, Options(concurrency=1, timeout=20)))
    await stage.language.script.reached("complete", 5)  # two passes an item
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    finished = [record.key for record in read_records(out / "results.jsonl")]
    assert 1 <= len(finished) < 4
    assert not (out / "report.json").exists()
    report = await evaluated(server, items, root, out)
    keys = [record.key for record in read_records(out / "results.jsonl")]
    assert keys[: len(finished)] == finished
    assert len(keys) == len(set(keys)) == 4  # what was finished did not run again
    assert report == await evaluated(server, items, root, whole)


async def test_changed_settings_or_another_model_are_not_mixed(
    server: Server, executor: Executor, root: Path, out: Path
) -> None:
    items = [dialogue([None])]
    await evaluated(server, items, root, out)
    with pytest.raises(RunError, match="another policy; choose another --out"):
        await evaluated(server, items, root, out, Options("off"))
    async with serving(build_stage(executor, model_digest="e" * 64).service) as other:
        with pytest.raises(RunError, match="another model_digest, engine_records; choose another --out"):
            await evaluated(other, items, root, out)


async def test_engines_that_change_during_a_run_end_it(
    server: Server, stage: Stage, root: Path, out: Path
) -> None:
    """As a language server does that comes back with another version."""
    stage.language.script.hold("complete")
    run = asyncio.create_task(evaluated(server, [dialogue([None])], root, out))
    await stage.language.script.reached("complete")
    stage.language.runtime = replace(stage.language.runtime, version="2")
    stage.language.script.let_go("complete")
    with pytest.raises(RunError, match="engines changed during the run"):
        await run


async def test_changed_pictures_run_again(server: Server, root: Path, out: Path) -> None:
    first = await evaluated(server, [dialogue([None])], root, out)
    data = write(root, [dialogue([None])], seed=1)
    second = await evaluate_async(server.address, data, root, out, GIVEN)
    assert first.data.digest != second.data.digest
    assert len(list(read_records(out / "results.jsonl"))) == 2
    assert second.overall is not None
    assert second.overall.rounds == 1


async def test_an_image_is_uploaded_once_and_requests_in_flight_are_bounded(
    server: Server, stage: Stage, root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    put = stage.uploads.put
    monkeypatch.setattr(stage.uploads, "put", lambda key, rgb: (sent.append(key), put(key, rgb)))
    stage.language.script.delay_s = 0.1
    items = [dialogue([None] * number) for number in range(1, 7)]
    await evaluated(server, items, root, out, Options(concurrency=3, timeout=20))
    assert len(sent) == 1
    assert 1 < stage.language.script.most_running["complete"] <= 3


@pytest.fixture
async def arguments(server: Server, root: Path, out: Path) -> list[str]:
    data = write(root, [dialogue([None]), "nothing"])
    return ["evaluate", "--server", server.address, "--data", str(data), "--root", str(root), "--out", str(out)]


async def test_the_command_says_by_its_exit_code_how_it_went(
    arguments: list[str], root: Path, out: Path, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(main, arguments) == 1
    shown = capsys.readouterr().out
    assert "failed: item 1," in shown
    assert "gIoU" in shown
    write(root, [dialogue([None])])
    assert await asyncio.to_thread(main, arguments) == 0
    (root / "dialogues.json").write_text("{")
    assert await asyncio.to_thread(main, arguments) == 2
    assert "is not JSON" in capsys.readouterr().err
    write(root, [dialogue([None])])
    arguments[2] = f"127.0.0.1:{free_port}"
    assert await asyncio.to_thread(main, arguments) == 2
    assert "is --server right?" in capsys.readouterr().err


async def test_a_server_that_goes_away_ends_the_run(stage: Stage, root: Path, out: Path) -> None:
    stage.language.script.hold("complete")
    async with serving(stage.service, drain_seconds=0.1) as server:
        options = Options(concurrency=1, timeout=20, attempts=1)
        run = asyncio.create_task(evaluated(server, [dialogue([None])] * 3, root, out, options))
        await stage.language.script.reached("complete")
    with pytest.raises(RunError, match="run again with the same --out"):
        await run
