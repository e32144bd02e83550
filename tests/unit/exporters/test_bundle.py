"""A bundle as a whole: whatever the checkpoint's form, the same bytes; and nothing, unless all of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from exporters import bundle as writing
from exporters import disk
from exporters.bundle import DEFAULTS, Sources, write_bundle
from exporters.checkpoint.model import ImageNetworks
from exporters.checkpoint.published import PEFT_PREFIX
from exporters.checkpoint.tensor_files import read_tensors
from exporters.errors import DiskFullError, IncompleteCheckpointError, NotACheckpointError, UnsupportedSourceError
from exporters.onnx import export
from serving.bundle import LANGUAGE_GRAPHS, Bundle, BundleError, load_bundle
from serving.llm.onnx import OnnxLanguage
from tests.conftest import REPOSITORY
from tests.unit.exporters.conftest import Made

State = dict[str, Tensor]
FORVLLM = replace(DEFAULTS, language="vllm", vllm_dtype="float32")


@pytest.fixture(autouse=True)
def quick(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """No graph is traced, and the image half is built once: what is in them is shown elsewhere."""
    image = ImageNetworks(made.model.image_encoder, made.model.mask_decoder, made.model.heads)
    monkeypatch.setattr(writing, "build_image_networks", lambda _checkpoint, half: image)
    monkeypatch.setattr(export, "export", lambda graph, path, storage: path.write_bytes(b"\x08\x07"))


def sources(made: Made, checkpoint: Path | None = None) -> Sources:
    return Sources(checkpoint or made.directory, made.directory / "llava_med", made.directory / "clip")


def quiet(_step: str) -> None: ...


def merged(state: State, *, base_layer: str = ".base_layer.", prefix: str = PEFT_PREFIX) -> State:
    """Another of peft's spellings."""
    return {
        prefix + name.removeprefix(PEFT_PREFIX).replace(".base_layer.", base_layer): value.clone()
        for name, value in state.items()
    }


def parts(state: State) -> list[State]:
    """Three, so that LoRA's matrices lie apart from their weight."""
    names = sorted(state)
    return [{name: state[name] for name in names[first::3]} for first in range(3)]


def one_file(state: State, out: Path) -> None:
    torch.save(merged(state, base_layer="."), out / "pytorch_model.bin")


def numbered(state: State, out: Path) -> None:
    for number, part in enumerate(parts(merged(state, prefix="")), 1):
        torch.save(part, out / f"pytorch_model-{number:05}-of-00003.bin")


def indexed(state: State, out: Path) -> None:
    owners = {}
    for number, part in enumerate(parts(merged(state)), 1):
        torch.save(part, out / f"pytorch_model-{number:05}-of-00003.bin")
        owners |= dict.fromkeys(part, f"pytorch_model-{number:05}-of-00003.bin")
    (out / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": owners}))
    torch.save(state, out / "pytorch_model_of_another_epoch.bin")


def safetensors(state: State, out: Path) -> None:
    save_file(merged(state), out / "model.safetensors")


def safetensors_shards(state: State, out: Path) -> None:
    owners = {}
    for number, part in enumerate(parts(merged(state, base_layer=".", prefix="")), 1):
        save_file(part, out / f"model-{number:05}-of-00003.safetensors")
        owners |= dict.fromkeys(part, f"model-{number:05}-of-00003.safetensors")
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": owners}))


FORMS = [one_file, numbered, indexed, safetensors, safetensors_shards]


@pytest.fixture
def state(made: Made) -> State:
    return dict(read_tensors(made.directory / "pytorch_model.bin"))


@pytest.fixture
def reference(made: Made, tmp_path: Path) -> Bundle:
    return write_bundle(sources(made), FORVLLM, tmp_path / "reference", quiet)


@pytest.mark.parametrize("save", FORMS)
def test_every_form_of_a_checkpoint_makes_the_same_files(
    made: Made, state: State, reference: Bundle, tmp_path: Path, save: Callable[[State, Path], None]
) -> None:
    (tmp_path / "checkpoint").mkdir()
    save(state, tmp_path / "checkpoint")
    bundle = write_bundle(sources(made, tmp_path / "checkpoint"), FORVLLM, tmp_path / "bundle", quiet)
    assert bundle.manifest.files == reference.manifest.files
    assert bundle.manifest.source["checkpoint"] != reference.manifest.source["checkpoint"]
    assert load_bundle(bundle.directory) == bundle


def test_vllm_has_the_graphs_values_where_there_are_graphs(
    made: Made, random_bundle: Bundle, tmp_path: Path
) -> None:
    bundle = write_bundle(sources(made), DEFAULTS, tmp_path / "bundle", quiet)
    vllm = {name: digest for name, digest in random_bundle.manifest.files.items() if name.startswith("vllm/")}
    assert vllm.items() <= bundle.manifest.files.items()
    assert bundle.manifest.has_language_graphs


@pytest.mark.parametrize(
    ("save", "missing"), [(numbered, "00002"), (indexed, "00003"), (safetensors_shards, "00001")]
)
def test_a_missing_shard_is_named(
    made: Made, state: State, tmp_path: Path, save: Callable[[State, Path], None], missing: str
) -> None:
    save(state, tmp_path)
    next(tmp_path.glob(f"*{missing}-of*")).unlink()
    with pytest.raises(IncompleteCheckpointError, match=f"{missing}-of-00003.* missing"):
        write_bundle(sources(made, tmp_path), FORVLLM, tmp_path / "bundle", quiet)


def test_a_tensor_in_two_files_is_refused(made: Made, state: State, tmp_path: Path) -> None:
    one_file(state, tmp_path)
    torch.save(state, tmp_path / "pytorch_model_2.bin")
    with pytest.raises(NotACheckpointError, match=r"is in pytorch_model\.bin and in pytorch_model_2\.bin"):
        write_bundle(sources(made, tmp_path), FORVLLM, tmp_path / "bundle", quiet)


@pytest.mark.parametrize("forms", ["onnx", "vllm", "both"])
def test_the_language_half_is_made_for_whom_it_is_asked(made: Made, tmp_path: Path, forms: str) -> None:
    choices = replace(DEFAULTS, language=forms)  # type: ignore[arg-type]  # one of its words
    manifest = write_bundle(sources(made), choices, tmp_path / "bundle", quiet).manifest
    assert (manifest.has_language_graphs, manifest.has_vllm_model) == (forms != "vllm", forms != "onnx")
    load_bundle(tmp_path / "bundle")


def test_large_graphs_are_left_out_and_that_is_said(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LARGEST_GRAPHS", 1000)
    steps: list[str] = []
    bundle = write_bundle(sources(made), DEFAULTS, tmp_path / "bundle", steps.append)
    assert not bundle.manifest.has_language_graphs
    assert any("for vLLM alone" in step and "--language both" in step for step in steps)
    config = json.loads((bundle.vllm_model() / "config.json").read_text())
    assert config["dtype"] == "float16", "the checkpoint's own"
    with pytest.raises(BundleError, match="--engine vllm"):
        OnnxLanguage(bundle, 1, 0)


def test_options_for_vllm_alone_are_not_ignored(made: Made, tmp_path: Path) -> None:
    for more in ({"consume": True}, {"vllm_dtype": "bfloat16"}):
        choices = replace(DEFAULTS, language="onnx", **more)  # type: ignore[arg-type]  # two of its fields
        with pytest.raises(UnsupportedSourceError, match="--language onnx"):
            write_bundle(sources(made), choices, tmp_path / "bundle", quiet)


def test_too_little_room_is_said_before_anything_is_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    with pytest.raises(DiskFullError, match=r"needs 0\.\d+ GB of disk, 0\.01 GB are free.*--consume"):
        write_bundle(sources(made), DEFAULTS, tmp_path / "bundle", quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("save", [numbered, safetensors_shards])
def test_a_checkpoint_is_consumed_file_by_file(
    made: Made, state: State, reference: Bundle, tmp_path: Path, save: Callable[[State, Path], None]
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save(state, checkpoint)
    bundle = write_bundle(sources(made, checkpoint), replace(FORVLLM, consume=True), tmp_path / "bundle", quiet)
    assert bundle.manifest.files == reference.manifest.files
    assert [path.name for path in checkpoint.iterdir() if "-of-" in path.name] == []
    assert (made.directory / "clip" / "model.safetensors").exists()


def test_what_is_consumed_needs_less_room(made: Made, state: State, tmp_path: Path) -> None:
    """Files in the order of the tensors: when the second is written, the first is gone."""
    steps: dict[bool, list[str]] = {False: [], True: []}
    names = list(state)
    for number, part in enumerate((names[:20], names[20:]), 1):
        torch.save({name: state[name].clone() for name in part}, tmp_path / f"pytorch_model-{number}-of-2.bin")
    for consume, told in steps.items():
        choices = replace(FORVLLM, vllm_dtype="source", consume=consume)
        write_bundle(sources(made, tmp_path), choices, tmp_path / f"bundle-{consume}", told.append)
    needed = {consume: next(step for step in told if " of disk" in step) for consume, told in steps.items()}
    room = {consume: float(words.split("needs ")[1].split(" GB")[0]) for consume, words in needed.items()}
    assert room[True] <= room[False]


def test_what_fails_leaves_nothing(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_vllm_model", full)
    with pytest.raises(OSError, match="No space"):
        write_bundle(sources(made), DEFAULTS, tmp_path / "bundle", quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_stood_there_is_replaced_and_other_files_stay(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    write_bundle(sources(made), DEFAULTS, out, quiet)
    (out / "slices").mkdir()
    (out / "slices" / "labels.json").write_text("kept")
    again = write_bundle(sources(made), FORVLLM, out, quiet)
    assert not any((out / name).exists() for name in LANGUAGE_GRAPHS)
    assert (out / "slices" / "labels.json").read_text() == "kept"
    assert load_bundle(out) == again
    assert again.vllm_model() == out / "vllm"


STOPPED = """
import sys, time
from exporters import bundle
write = bundle.write_vllm_model
def stopped(*given):
    write(*given)
    print("written", flush=True)
    time.sleep(60)
bundle.write_vllm_model = stopped
bundle.export.export = lambda graph, path, storage: path.write_bytes(b"x")
from exporters.__main__ import main
main(sys.argv[1:])
"""


def test_a_killed_export_leaves_no_bundle_and_the_next_one_clears_up(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    flags = [
        "--checkpoint",
        made.directory,
        "--base",
        made.directory / "llava_med",
        "--clip",
        made.directory / "clip",
    ]
    command = [sys.executable, "-c", STOPPED, "bundle", *map(str, flags), "--out", str(out)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.unfinished"]
    steps: list[str] = []
    write_bundle(sources(made), FORVLLM, out, steps.append)
    assert any("cut short" in step for step in steps)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
