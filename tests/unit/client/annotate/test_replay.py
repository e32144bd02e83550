"""Items of a run asked again: what differs is counted, from the run and from one time to the next."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mediround.__main__ import main
from mediround.annotate.errors import OtherRun
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run
from mediround.annotate.replay import replay, sample
from mediround.testing import DESCRIPTION, Answer, Script, ScriptedServer, serve
from tests.unit.client.annotate.jobs import IDENTITY, QUESTIONS, answered, disc, job_of, keep, picture

SERVED = replace(IDENTITY, model_digest=DESCRIPTION.model_digest)
MASKS = disc(5), disc(3)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    changing = [Answer(mask=disc(3)), Answer(mask=disc(4))] * 8
    script = Script(
        {
            QUESTIONS[0].question: Answer(mask=MASKS[0]),
            QUESTIONS[1].question: Answer(mask=MASKS[1]),
            "Another each time.": changing,
        }
    )
    with serve(script) as running:
        yield running


@pytest.fixture
def made(tmp_path: Path) -> tuple[Job, Run, list[Item]]:
    items = [picture(tmp_path / "images", number) for number in range(6)]
    job, run = job_of(tmp_path / "job", items, SERVED)
    keep(run, *(answered(item, run, MASKS) for item in items))
    return job, run, items


def test_a_sample_is_the_same_for_a_seed(made: tuple[Job, Run, list[Item]]) -> None:
    _, run, _ = made
    assert list(sample(run, 3, 1)) == list(sample(run, 3, 1)) != list(sample(run, 3, 2))
    assert len(sample(run, 100, 1)) == 6


def test_what_is_asked_again_is_what_was_found(
    made: tuple[Job, Run, list[Item]], server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    job, _, _ = made
    place = ["annotate", "verify", "--job", str(job.folder), "--server", server.address, "--replay", "3"]
    assert main([*place, "--json"]) == 0
    replayed = json.loads(capsys.readouterr().out)["replay"]
    assert (replayed["items"], replayed["rounds"], replayed["unlike"], replayed["other_waves"]) == (3, 6, 0, 0)
    assert replayed["other_masks"] == 0


def test_pixels_that_differ_from_the_run_are_counted(tmp_path: Path, server: ScriptedServer) -> None:
    item = picture(tmp_path / "images", 1)
    job, run = job_of(tmp_path / "job", [item], SERVED)
    nearly = MASKS[1].copy()
    nearly[np.nonzero(nearly)[0][0], np.nonzero(nearly)[1][0]] = False
    keep(run, answered(item, run, (MASKS[0], nearly)))
    found = replay(job, run, server.address, 1)
    assert (found.other_masks, found.other_pixels, found.largest_share) == (1, 1, 1 / nearly.size)
    assert found.passes(1 / nearly.size)
    assert not found.passes(0.5 / nearly.size)


def test_answers_that_change_each_time_and_other_waves_are_found(tmp_path: Path, server: ScriptedServer) -> None:
    item = picture(tmp_path / "images", 1, (replace(QUESTIONS[0], question="Another each time."), QUESTIONS[1]))
    job, run = job_of(tmp_path / "job", [item], SERVED)
    rows = answered(item, run, MASKS)
    keep(run, [rows[0], replace(rows[1], wave=7)])
    found = replay(job, run, server.address, 1)
    assert (found.unlike, found.other_waves) == (1, 1)
    assert not found.passes(1.0)


def test_sources_that_are_gone_are_counted_and_another_model_is_refused(
    made: tuple[Job, Run, list[Item]], server: ScriptedServer, tmp_path: Path
) -> None:
    job, run, _ = made
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    assert replay(job, run, server.address, 2).gone == 2
    other = job.take_up(IDENTITY, new=True)
    with pytest.raises(OtherRun, match="serve that one"):
        replay(job, other, server.address, 2)
