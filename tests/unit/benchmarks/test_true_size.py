"""What ``make true-size`` calls agreement, and what it asks of a machine. The whole of it runs in tests/llm."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.true_size import __main__ as command
from benchmarks.true_size import needs, verdict
from benchmarks.true_size.recording import Recording, recorded
from benchmarks.true_size.relay import Recorder
from exporters.modules.heads import Judge
from serving.bundle import Bundle
from serving.llm.onnx import OnnxLanguage
from tests.scripted.prompts import draft

LOOP = {
    "features_fp32": np.array([[3.0, 4.0], [0.0, 1.0]], np.float32),
    "features_bf16": np.array([[3.0, 4.1], [0.0, 1.1]], np.float32),
    "scores_served": np.array([0.5, 0.7], np.float32),
    "scores_fp32": np.array([0.5, 0.7], np.float32),
    "scores_bf16": np.array([0.5, 0.7], np.float32),
    "logits_fp32": np.array([[0.0, 1.0, 0.9, 5.0], [2.0, 1.0, 0.0, 5.0]], np.float32),
    "logits_bf16": np.array([[0.0, 1.0, 0.9, 5.0], [2.0, 1.0, 0.1, 5.0]], np.float32),
}
NEVER = (3,)


def test_a_feature_may_be_twice_as_far_off_as_bfloat16s() -> None:
    served = np.array([[3.0, 4.19], [0.0, 1.21]], np.float32)
    assert [each.agrees for each in verdict.features(served, LOOP)] == [True, False]
    assert not any(each.agrees for each in verdict.features(np.full((2, 2), np.nan, np.float32), LOOP))


def test_a_score_is_the_judges_of_the_feature_that_was_served() -> None:
    served = np.array([0.50005, 0.7002], np.float32)
    assert [each.agrees for each in verdict.scores(served, LOOP)] == [True, False]
    assert not any(each.agrees for each in verdict.scores(np.full(2, np.nan, np.float32), LOOP))


@pytest.mark.parametrize(
    ("ids", "agree"), [((1, 0), (True, True)), ((2, 1), (False, False)), ((0, 0), (False, True))]
)
def test_a_word_is_the_likeliest_or_ties_with_it(ids: tuple[int, ...], agree: tuple[bool, ...]) -> None:
    """In the first place bfloat16 is not off at all, so that there is no tie; token 3 is never generated."""
    assert tuple(each.agrees for each in verdict.words(np.array(ids), NEVER, LOOP)) == agree


def test_a_tie_is_within_twice_bfloat16s_error() -> None:
    noisy = LOOP | {"logits_bf16": LOOP["logits_fp32"] + np.float32(0.06)}
    assert [each.agrees for each in verdict.words(np.array([2, 1]), NEVER, noisy)] == [True, False]


async def _recorded(bundle: Bundle) -> Recording:
    """Three rounds on the ONNX engine; the last is answered in its own words."""
    recorder = Recorder(OnnxLanguage(bundle, 2, 0))
    first = draft(bundle.manifest).say(1, 2, 3).read()
    second = first.close().refer(1).say(4, 5).read()
    third = second.close().refer(2).say(6)
    for prompt in (first.prompt(), second.prompt()):
        await recorder.complete(prompt)
    await recorder.complete(third.prompt(max_new_tokens=4, ensure_seg=True))
    await recorder.close()
    return recorded(recorder.passes, (0.1, 0.2, 0.3), bundle.manifest)


async def test_the_plain_loop_computes_what_the_graphs_compute(random_bundle: Bundle, tmp_path: Path) -> None:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("the plain loop needs transformers, which comes with vLLM: make env-vllm")
    from benchmarks.true_size.loop import Loop  # noqa: PLC0415  # transformers comes with vLLM

    (await _recorded(random_bundle)).save(tmp_path / "recording.npz")
    recording = Recording.load(tmp_path / "recording.npz")
    tokens = random_bundle.manifest.tokens
    results = {
        name: value.numpy()
        for name, value in Loop(random_bundle.vllm_model(), random_bundle.manifest, recording).run().items()
    }
    assert recording.words > 1
    np.testing.assert_allclose(results["features_fp32"], recording.features, atol=1e-4)
    off = np.abs(results["features_bf16"] - results["features_fp32"]).max()
    assert 1e-4 < off < 1, "bfloat16 is another computation, of the same thing"
    generated = recording.token_ids[-recording.words :]
    findings = list(verdict.words(generated, (tokens.bos, tokens.bbox, tokens.crop), results))
    assert all(each.agrees and each.value == 0 for each in findings)


async def test_rounds_that_do_not_continue_one_another_are_no_dialogue(random_bundle: Bundle) -> None:
    recorder = Recorder(OnnxLanguage(random_bundle, 2, 0))
    begun = draft(random_bundle.manifest)
    for each in (begun.say(1).read(), begun.say(2).read()):
        await recorder.complete(each.prompt())
    await recorder.close()
    with pytest.raises(ValueError, match="does not begin with"):
        recorded(recorder.passes, (0.1, 0.2), random_bundle.manifest)


def test_the_judge_is_the_published_one(tmp_path: Path) -> None:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("the plain loop needs transformers, which comes with vLLM: make env-vllm")
    from benchmarks.true_size.loop import judged  # noqa: PLC0415  # transformers comes with vLLM

    judge, features = Judge().eval(), torch.randn(3, 256)
    np.savez(tmp_path / "judge.npz", **{name: value.numpy() for name, value in judge.state_dict().items()})
    torch.testing.assert_close(judged(tmp_path / "judge.npz", features), judge(features).detach())


def test_a_machine_that_lacks_something_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda _: SimpleNamespace(free=21e9))
    monkeypatch.setattr(needs, "available_memory", lambda: 8_000_000_000)
    monkeypatch.setattr(sys, "argv", ["true_size", "--out", str(tmp_path)])
    assert command.main() == command.LACKING
    said = capsys.readouterr()
    assert "needs 35.0 GB of disk and 20 GB of free memory" in said.out
    assert "21.0 GB are free: free some, or --consume the checkpoint" in said.err
    assert "8.0 GB are free: end programs" in said.err
    assert list(tmp_path.iterdir()) == []
    assert not any("disk" in line for line in needs.lacking("mediround-7b", tmp_path, consume=True))
