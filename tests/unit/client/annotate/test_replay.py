"""Items of a run asked again: what differs is counted, from the run and from one time to the next."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mediround.__main__ import main
from mediround.annotate.errors import JobError, OtherRun
from mediround.annotate.items import Item
from mediround.annotate.job import Job, Run, RunIdentity
from mediround.annotate.manifest import write_manifest
from mediround.annotate.replay import replay, sample
from mediround.testing import DESCRIPTION, Answer, Script, ScriptedServer, serve
from tests.unit.client.annotate.jobs import IDENTITY, QUESTIONS, answered, disc, job_of, keep, picture

SERVED = replace(IDENTITY, model_digest=DESCRIPTION.model_digest)
MASKS = disc(5), disc(3)
ROW, COLUMN = np.argwhere(MASKS[1])[0]
NEAR = np.zeros_like(MASKS[1])
NEAR[ROW, COLUMN] = True
"""The pixel of the second mask that is next to 0."""


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    changing = [Answer(mask=disc(3)), Answer(mask=disc(4))] * 8
    script = Script(
        {
            QUESTIONS[0].question: Answer(mask=MASKS[0]),
            QUESTIONS[1].question: Answer(mask=MASKS[1], near_zero=NEAR),
            "On the first.": Answer(mask=MASKS[1], near_zero=NEAR),
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
    job, run, items = made
    assert list(sample(job, run, 3, 1)) == list(sample(job, run, 3, 1)) != list(sample(job, run, 3, 2))
    assert len(sample(job, run, 100, 1)) == 6
    write_manifest(job.manifest, items[1:])
    assert sample(job, run, 100, 1).keys() == {item.item_id for item in items[1:]}


def test_what_is_asked_again_is_what_was_found(
    made: tuple[Job, Run, list[Item]], server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    job, _, _ = made
    place = ["annotate", "verify", "--job", str(job.folder), "--server", server.address, "--replay", "3"]
    assert main([*place, "--json"]) == 0
    replayed = json.loads(capsys.readouterr().out)["replay"]
    assert (replayed["items"], replayed["rounds"], replayed["unlike"], replayed["other_waves"]) == (3, 6, 0, 0)
    assert replayed["other_masks"] == 0


@pytest.mark.parametrize(("pixel", "beyond"), [((ROW, COLUMN), 0), ((ROW + 1, COLUMN), 1), ((0, 0), 1)])
def test_a_pixel_may_differ_from_the_run_where_its_logit_is_next_to_zero(
    tmp_path: Path,
    server: ScriptedServer,
    pixel: tuple[int, int],
    beyond: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    item = picture(tmp_path / "images", 1)
    job, run = job_of(tmp_path / "job", [item], SERVED)
    nearly = MASKS[1].copy()
    nearly[pixel] ^= True
    keep(run, answered(item, run, (MASKS[0], nearly)))
    found = replay(job, run, server.address, 1)
    assert (found.other_masks, found.other_pixels) == (1, 1)
    assert (found.beyond, found.beyond_pixels, found.passes) == (beyond, beyond, not beyond)
    place = ["annotate", "verify", "--job", str(job.folder), "--server", server.address, "--replay", "1"]
    assert main(place) == (3 if beyond else 0)
    words = f"in {beyond} rounds and {beyond} pixels by more than a logit within 0.0001 of 0"
    printed = capsys.readouterr().out
    assert f"1 masks and 1 pixels; {words}" in printed
    assert ("does not confirm" in printed) == bool(beyond)


def test_what_follows_a_mask_that_differs_is_not_judged(tmp_path: Path, server: ScriptedServer) -> None:
    """A question about the first round is asked with another crop, and those behind it read another dialogue."""
    questions = (
        QUESTIONS[0],
        replace(QUESTIONS[1], question="On the first."),
        replace(QUESTIONS[1], name="third", refer_to=1),
        replace(QUESTIONS[0], name="fourth"),
    )
    item = picture(tmp_path / "images", 1, questions)
    job, run = job_of(tmp_path / "job", [item], SERVED)
    nearly = MASKS[1] ^ NEAR
    rows = answered(item, run, (MASKS[0], nearly, disc(2), disc(1)))
    keep(run, [replace(row, wave=min(row.round, 2)) for row in rows])
    found = replay(job, run, server.address, 1)
    assert (found.other_masks, found.not_judged, found.beyond, found.passes) == (3, 2, 0, True)
    assert not replace(found, not_judged=3).passes, "one round alone was judged"


def test_other_words_are_not_the_runs(tmp_path: Path, server: ScriptedServer) -> None:
    item = picture(tmp_path / "images", 1)
    job, run = job_of(tmp_path / "job", [item], SERVED)
    rows = answered(item, run, MASKS)
    keep(run, [rows[0], replace(rows[1], corrected=True)])
    found = replay(job, run, server.address, 1)
    assert (found.other_masks, found.beyond, found.passes) == (0, 1, False)


def test_a_service_that_does_not_say_what_is_next_to_zero_is_refused(
    made: tuple[Job, Run, list[Item]], server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run, _ = made
    monkeypatch.setattr("mediround.testing._servicer.near_zero_of", lambda _: None)
    with pytest.raises(JobError, match="of this client's version or later"):
        replay(job, run, server.address, 1)


def test_answers_that_change_each_time_and_other_waves_are_found(tmp_path: Path, server: ScriptedServer) -> None:
    item = picture(tmp_path / "images", 1, (replace(QUESTIONS[0], question="Another each time."), QUESTIONS[1]))
    job, run = job_of(tmp_path / "job", [item], SERVED)
    rows = answered(item, run, MASKS)
    keep(run, [rows[0], replace(rows[1], wave=7)])
    found = replay(job, run, server.address, 1)
    assert (found.unlike, found.other_waves) == (1, 1)
    assert not found.passes


def test_sources_that_are_gone_are_counted_and_another_model_is_refused(
    made: tuple[Job, Run, list[Item]], server: ScriptedServer, tmp_path: Path
) -> None:
    job, run, _ = made
    paths = sorted((tmp_path / "images").iterdir())
    for path in paths[1:]:
        path.unlink()
    found = replay(job, run, server.address, 6)
    assert (found.items, found.gone, found.beyond, found.passes) == (1, 5, 0, False)
    other = job.take_up(IDENTITY, new=True)
    with pytest.raises(OtherRun, match="serve that one"):
        replay(job, other, server.address, 2)


@pytest.mark.parametrize(
    "refused",
    [(IDENTITY, "serve that one"), (replace(SERVED, preprocessing="rule 0"), "preprocessing rule 0")],
)
def test_what_cannot_be_replayed_is_told_before_the_run_is_read(
    made: tuple[Job, Run, list[Item]],
    server: ScriptedServer,
    refused: tuple[RunIdentity, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, (identity, words) = made[0], refused
    job.take_up(identity, new=True)
    monkeypatch.setattr("mediround.annotate.command.verify.verify", None)
    place = ["annotate", "verify", "--job", str(job.folder), "--server", server.address, "--replay", "1"]
    assert main(place) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_what_was_found_is_told_where_the_replay_fails(
    made: tuple[Job, Run, list[Item]],
    server: ScriptedServer,
    form: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, _, _ = made
    monkeypatch.setattr("mediround.testing._servicer.near_zero_of", lambda _: None)
    place = ["annotate", "verify", "--job", str(job.folder), "--server", server.address, "--replay", "1"]
    assert main([*place, *form]) == 2
    told = capsys.readouterr()
    assert "of this client's version or later" in told.err
    if form:
        found = json.loads(told.out)
        assert (found["items"], found["problems"], found["replay"]) == (6, {}, None)
    else:
        assert "nothing is wrong" in told.out
