"""Which plans are served, and which are refused: by their sidecars, against the repository and the host."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exporters.errors import SourceError
from exporters.tensorrt.memory import TRITON, GpuMemory, require_room
from exporters.tensorrt.plans import (
    Host,
    PlanError,
    Recipe,
    beside,
    check,
    check_repository,
    place,
    read,
    served_name,
    write,
)

GRAPH, BUNDLE = "a" * 64, "b" * 64
HOST = Host("tensorrt", "11.4.0.106", "9.0")
CONTENT = b"a plan"
GIB = 1 << 30
ACTIVATION = 3 * GIB
"""Bytes."""


def recipe(**changes: object) -> Recipe:
    said: dict[str, object] = {
        "model": "mask_decoder",
        "graph": GRAPH,
        "bundle": BUNDLE,
        "precision": "fp16",
        "runtime": HOST.runtime,
        "version": HOST.version,
        "capability": HOST.capability,
        "batch": 16,
        "prompts": 8,
        "profile": {"threshold": ((1, 1), (4, 1), (16, 8))},
    }
    return Recipe.model_validate(said | changes)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write(CONTENT, recipe(), ACTIVATION, tmp_path / "plans")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One model, as the repository writes it."""
    return configured(tmp_path / "repository", "mask_decoder", GRAPH)


def configured(repository: Path, model: str, graph: str, batch: int = 16, prompts: int = 8) -> Path:
    (repository / model).mkdir(parents=True, exist_ok=True)
    (repository / model / "config.pbtxt").write_text(
        f"max_batch_size: {batch}\n"
        f'parameters {{ key: "max_prompts" value {{ string_value: "{prompts}" }} }}\n'
        f'parameters {{ key: "graph_sha256" value {{ string_value: "{graph}" }} }}\n'
    )
    return repository


def test_its_name_says_what_it_is(plan: Path) -> None:
    assert plan.name == "mask_decoder-aaaaaaaaaaaa-fp16-trt11.4.0.106-sm90.plan"


def test_it_is_served_where_it_belongs(plan: Path, repository: Path) -> None:
    at = place(plan, repository, HOST)
    assert at == repository / "mask_decoder" / "1" / "model_sm90.plan"
    assert at.read_bytes() == CONTENT
    assert list(check_repository(repository, HOST)) == [at]


def test_triton_gets_one_name_for_an_architecture_that_its_configuration_does_not_list() -> None:
    assert served_name("7.5") == "model.plan"
    assert served_name("12.0") == "model_sm120.plan"


@pytest.mark.parametrize(
    ("host", "graph", "words"),
    [
        (replace(HOST, version="11.5.0"), GRAPH, "TensorRT version 11.4.0.106, not 11.5.0"),
        (replace(HOST, capability="8.9"), GRAPH, "GPU architecture 9.0, not 8.9"),
        (replace(HOST, runtime="tensorrt_rtx"), GRAPH, "runtime tensorrt, not tensorrt_rtx"),
        (HOST, "c" * 64, "graph aaaaaaaaaaaa, not cccccccccccc"),
    ],
)
def test_it_is_refused_elsewhere(plan: Path, host: Host, graph: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        check(plan, graph, host)


def test_every_difference_is_named_at_once(plan: Path) -> None:
    with pytest.raises(PlanError, match=r"graph .*; TensorRT version .*; GPU architecture"):
        check(plan, "c" * 64, replace(HOST, version="10.0", capability="8.0"))


def test_a_plan_of_other_bytes_is_refused(plan: Path) -> None:
    plan.write_bytes(b"another")
    with pytest.raises(PlanError, match="other bytes"):
        check(plan, GRAPH, HOST)


def test_a_plan_without_a_sidecar_is_refused(plan: Path, repository: Path) -> None:
    beside(plan).unlink()
    with pytest.raises(PlanError, match="has no sidecar"):
        place(plan, repository, HOST)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"plan": "short"}', "null", "\x00", "[" * 100_000])
def test_a_sidecar_that_is_none_is_refused(plan: Path, text: str) -> None:
    beside(plan).write_text(text)
    with pytest.raises(PlanError, match="not a plan's sidecar"):
        read(plan)


def test_a_sidecar_that_is_too_large_is_refused(plan: Path) -> None:
    beside(plan).write_text(" " * (1 << 20) + "{}")
    with pytest.raises(PlanError, match="larger than"):
        read(plan)


def test_a_sidecar_cannot_lead_out_of_the_repository(plan: Path, repository: Path) -> None:
    said = json.loads(beside(plan).read_text())
    beside(plan).write_text(json.dumps(said | {"model": "../../elsewhere"}))
    with pytest.raises(PlanError, match=r"sidecar \(model\)"):
        place(plan, repository, HOST)


def test_a_plan_that_takes_less_than_the_configuration_allows_is_refused(plan: Path, repository: Path) -> None:
    configured(repository, "mask_decoder", GRAPH, batch=32)
    with pytest.raises(PlanError, match="batches of 16 and 8 prompts"):
        place(plan, repository, HOST)
    configured(repository, "mask_decoder", GRAPH, prompts=9)
    with pytest.raises(PlanError, match="allows more"):
        place(plan, repository, HOST)


def test_what_is_refused_is_not_placed(plan: Path, repository: Path) -> None:
    configured(repository, "mask_decoder", "c" * 64)
    with pytest.raises(PlanError):
        place(plan, repository, HOST)
    assert not (repository / "mask_decoder" / "1").exists()


def test_a_repository_that_was_written_for_another_graph_since_is_refused(plan: Path, repository: Path) -> None:
    place(plan, repository, HOST)
    configured(repository, "mask_decoder", "c" * 64)
    with pytest.raises(PlanError, match="graph aaaaaaaaaaaa, not cccccccccccc"):
        list(check_repository(repository, HOST))


def test_another_models_plan_is_refused(plan: Path, repository: Path) -> None:
    at = place(plan, repository, HOST)
    folder = configured(repository, "image_encoder", GRAPH) / "image_encoder" / "1"
    folder.mkdir()
    for path in (at, beside(at)):
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(PlanError, match="is a plan of mask_decoder, not of image_encoder"):
        list(check_repository(repository, HOST))


def test_a_missing_plan_is_named(repository: Path) -> None:
    with pytest.raises(PlanError, match=r"mask_decoder: no model_sm90.plan"):
        list(check_repository(repository, HOST))


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no model"):
        list(check_repository(tmp_path, HOST))


def test_a_repository_without_a_digest_is_refused(plan: Path, repository: Path) -> None:
    """The committed one is for no graph yet."""
    (repository / "mask_decoder" / "config.pbtxt").write_text("max_batch_size: 16\n")
    with pytest.raises(SourceError, match="no graph_sha256"):
        place(plan, repository, HOST)


def test_a_second_placement_replaces_the_first(plan: Path, repository: Path, tmp_path: Path) -> None:
    place(plan, repository, HOST)
    again = write(b"again", recipe(workspace=1 << 30), None, tmp_path / "others")
    assert place(again, repository, HOST).read_bytes() == b"again"
    assert plan.read_bytes() == CONTENT


def test_what_fits_is_summed(plan: Path) -> None:
    words = require_room([plan, plan], GpuMemory(80 * GIB, language=0.7))
    assert words == (
        "63.0 of the GPU's 80.0 GiB: vLLM (70%) 56.0 GiB, weights 0.0 GiB, activations 6.0 GiB, "
        "Triton itself, about 1.0 GiB"
    )


def test_what_fits_alone_does_not_fit_beside_the_language_half(plan: Path) -> None:
    """To the byte: three plans' activations, their weights and Triton itself."""
    three = [plan] * 3
    needed = 3 * (ACTIVATION + len(CONTENT)) + TRITON
    assert require_room(three, GpuMemory(needed))
    with pytest.raises(PlanError, match=r"has 10\.0 GiB, and 10\.0 GiB would be taken"):
        require_room(three, GpuMemory(needed - 1))
    with pytest.raises(PlanError, match=r"19\.2 GiB would be taken \(vLLM \(92%\) 9\.2 GiB"):
        require_room(three, GpuMemory(needed, language=0.92))


def test_a_plan_that_does_not_say_what_it_takes_is_refused(tmp_path: Path) -> None:
    silent = write(CONTENT, recipe(), None, tmp_path)
    with pytest.raises(PlanError, match="does not say what memory it takes"):
        require_room([silent], GpuMemory(80 * GIB))
