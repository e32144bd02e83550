"""The numbers of the published code, from the very classes that serve."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from demo.triton.server import Triton
from exporters.__main__ import main
from exporters.cli import engines
from exporters.compare.golden import RecordedDialogue, read_golden
from exporters.compare.parity import ParityReport, ParityTolerance, replay
from serving.bundle import IMAGE_ENCODER, Bundle
from serving.llm.onnx import OnnxLanguage
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU, VllmOptions
from serving.ports import Completion, Prompt
from serving.runtime.slab import Slab
from serving.stores.embeddings import MemoryEmbeddings
from serving.vision.interface import encoder_interface
from serving.vision.onnx import ImageEncoder, OnnxVision
from serving.vision.openvino import OpenVinoEncoder
from serving.vision.triton.engine import TritonOptions, TritonVision, mask_slab
from tests.conftest import GOLDEN
from tests.contract.conftest import needs_vllm

ENGINES = [
    "onnx",
    "openvino",
    "vllm",
    "vllm with chosen rows",
    "vllm compiled",
    "vllm compiled with chosen rows",
    "triton",
]


@pytest.fixture(scope="module", params=ENGINES)
def report(request: pytest.FixtureRequest, golden_bundle: Bundle, golden_directory: Path) -> ParityReport:
    if request.param.startswith("vllm"):
        started = "compiled_vllm" if "compiled" in request.param else "on_vllm"
        return request.getfixturevalue(started)["rows" in request.param]  # type: ignore[no-any-return]  # of a fixture
    dialogues = read_golden(golden_directory)
    if request.param == "triton":
        server: Triton = request.getfixturevalue("golden_triton")
        return asyncio.run(on_triton(golden_bundle, dialogues, server))
    if request.param == "openvino":
        path, interface = golden_bundle.path(IMAGE_ENCODER), encoder_interface(golden_bundle.manifest.image)
        return asyncio.run(on_onnx(golden_bundle, dialogues, OpenVinoEncoder(path, interface, 2, "f32")))
    return asyncio.run(on_onnx(golden_bundle, dialogues))


@pytest.fixture(scope="module")
def on_vllm(golden_bundle: Bundle, golden_directory: Path) -> tuple[ParityReport, ParityReport]:
    """Without and with chosen rows, of one start; in float32 on the CPU, all dialogues at once."""
    return asyncio.run(both_ways(golden_bundle, list(read_golden(golden_directory)), ON_CPU))


@pytest.fixture(scope="module")
def compiled_vllm(golden_bundle: Bundle, golden_directory: Path) -> tuple[ParityReport, ParityReport]:
    """The same of a start that compiles the model, as one on a GPU does."""
    compiled = replace(ON_CPU, eager=False)
    return asyncio.run(both_ways(golden_bundle, list(read_golden(golden_directory)), compiled))


async def on_onnx(
    bundle: Bundle, dialogues: Iterable[RecordedDialogue], encoder: ImageEncoder | None = None
) -> ParityReport:
    language, vision = OnnxLanguage(bundle, 2, 1 << 28), OnnxVision(bundle, 2, encoder=encoder)
    report = await replay(bundle, language, vision, dialogues, ParityTolerance())
    await language.close()
    await vision.close()
    return report


async def both_ways(
    bundle: Bundle, dialogues: Sequence[RecordedDialogue], options: VllmOptions
) -> tuple[ParityReport, ParityReport]:
    needs_vllm()
    choosing = await VllmLanguage.start(bundle, options)
    apart = replace(options, chosen_rows=False)
    plain, vision = VllmLanguage(choosing._core, bundle.manifest, apart), OnnxVision(bundle, threads=2)
    started, reports = choosing.counts.requests, []
    for engine in (plain, choosing):
        language = Tenant(engine)
        reports.append(await replay(bundle, language, vision, dialogues, ParityTolerance()))
    await choosing.close()
    await vision.close()
    assert choosing.counts.requests - started < plain.counts.requests == len(reports[0].rounds)
    return reports[0], reports[1]


class Tenant:
    """A tenant for each engine: neither finds rows in the other's prefixes."""

    def __init__(self, engine: VllmLanguage) -> None:
        self.description, self.runtimes, self._engine = engine.description, engine.runtimes, engine

    async def complete(self, prompt: Prompt) -> Completion:
        return await self._engine.complete(replace(prompt, tenant=f"{prompt.tenant} {id(self)}"))

    async def close(self) -> None:
        """Its owner does."""


async def on_triton(bundle: Bundle, dialogues: Iterable[RecordedDialogue], server: Triton) -> ParityReport:
    """The vision half in Triton, embeddings and masks in shared memory, all dialogues at once."""
    image = bundle.manifest.image
    slab, masks = Slab(8, image.embedding, image.embedding_dtype), mask_slab(bundle, 4)
    options = TritonOptions(admin_key=server.admin_key)
    language = OnnxLanguage(bundle, 2, 1 << 28)
    vision = TritonVision(bundle, server.address, options, embeddings=slab, masks=masks)
    store = MemoryEmbeddings.of(image, slab.nbytes, slab)
    report = await replay(bundle, language, vision, dialogues, ParityTolerance(), store)
    await language.close()
    await vision.close()
    slab.close()
    masks.close()
    assert (vision.counts.encodes_by_value, vision.counts.decodes_by_value) == (0, 0)
    return report


def test_every_recorded_round_is_replayed(report: ParityReport) -> None:
    assert len(report.rounds) == 20
    assert {parity.dialogue for parity in report.rounds} == set(range(5))


def test_token_ids_crops_and_boxes_are_exact(report: ParityReport) -> None:
    assert all(parity.token_ids_equal for parity in report.rounds)
    compared = [parity.reference_equal for parity in report.rounds if parity.reference_equal is not None]
    assert len(compared) >= 10
    assert all(compared)


def test_features_and_scores(report: ParityReport) -> None:
    assert max(parity.feature_diff for parity in report.rounds) <= 1e-4
    assert max(parity.raw_feature_diff or 0.0 for parity in report.rounds) <= 1e-4
    scores = [parity.score_diff for parity in report.rounds if parity.score_diff is not None]
    assert len(scores) >= 10
    assert max(scores) <= 1e-4


def test_masks_differ_at_most_where_the_logit_is_zero(report: ParityReport) -> None:
    assert max(parity.largest_flipped_logit for parity in report.rounds) < 1e-4
    assert report.passed


def test_some_rounds_are_corrected_and_some_are_not(report: ParityReport) -> None:
    assert {parity.corrected for parity in report.rounds} == {True, False}


def test_a_wrong_recording_fails(golden_bundle: Bundle, golden_directory: Path) -> None:
    """The comparison can fail: a feature that is off by ten times the tolerance does not pass."""
    first = next(read_golden(golden_directory))
    rounds = tuple(replace(recorded, feature=recorded.feature + 1e-3) for recorded in first.rounds)
    report = asyncio.run(on_onnx(golden_bundle, [replace(first, rounds=rounds)]))
    assert not report.passed


def test_a_directory_in_another_form_is_no_failed_parity(
    random_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["parity", "--bundle", str(random_bundle.directory), "--golden", str(tmp_path)])
    assert code == 2
    assert "expected.npz is missing" in capsys.readouterr().err


def test_the_command_asks_triton(
    golden_bundle: Bundle,
    golden_directory: Path,
    golden_triton: Triton,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MEDIROUND_TRITON__ADMIN_KEY", golden_triton.admin_key)
    asked = ["parity", "--bundle", str(golden_bundle.directory), "--golden", str(golden_directory)]
    assert main([*asked, "--vision", f"triton://{golden_triton.address}"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["engines"][0].startswith("onnxruntime/")
    assert report["engines"][1].startswith("triton/2.51")
    assert (report["passed"], len(report["rounds"])) == (True, 20)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--provider", "cuda"), "CUDAExecutionProvider"),
        (("--vision", "triton://192.0.2.1:8001"), "beyond loopback"),
        (("--vision", "tritonserver"), "must be onnx"),
        (("--vision", "triton://127.0.0.1:9"), "does not serve the bundle after 0.1 s"),
    ],
)
def test_the_command_says_which_engine_is_not_there(
    random_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.setattr(engines, "TRITON_SECONDS", 0.1)
    asked = ["parity", "--bundle", str(random_bundle.directory), "--golden", str(GOLDEN)]
    assert main([*asked, *more]) == 2
    assert words in capsys.readouterr().err
