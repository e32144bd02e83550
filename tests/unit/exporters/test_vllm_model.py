"""The directory for vLLM holds the weights of the graphs, and says of them what the manifest says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exporters.checkpoint import random, shards
from exporters.checkpoint.published import PEFT_PREFIX, read_checkpoint
from exporters.checkpoint.tensor_files import read_tensors
from exporters.checkpoint.tokenizer import train_tokenizer
from exporters.vllm_model import VllmDtype, plan_vllm_model, write_vllm_model
from serving.bundle import TOKENIZER, VLLM_CONFIG, Bundle, file_digest
from tests.conftest import REPOSITORY
from tests.unit.exporters.conftest import Made

Q = "language_model.model.layers.0.self_attn.q_proj.weight"


def written(
    made: Made, out: Path, dtype: VllmDtype = "float32", checkpoint: Path | None = None
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    source = made.checkpoint if checkpoint is None else read_checkpoint(checkpoint)
    digests = write_vllm_model(plan_vllm_model(source, made.base, made.clip, dtype), out, lambda _: None)
    assert digests == {path.name: file_digest(path) for path in out.iterdir()}, "digests that grew with the files"
    state: dict[str, torch.Tensor] = {}
    for path in out.glob("*.safetensors"):
        state |= load_file(path)
    return json.loads((out / "config.json").read_text()), state


def test_every_tensor_of_the_language_half_is_there_once(made: Made, tmp_path: Path) -> None:
    _, state = written(made, tmp_path)
    language, tower = made.model.language.state_dict(), made.model.tower.state_dict()
    assert len(state) == len(language) + len(tower)
    roots = {name.split(".")[0] for name in state}
    assert roots == {"language_model", "vision_tower", "mm_projector", "bbox_encoder", "text_hidden_fcs"}
    name = "model.layers.0.self_attn.q_proj.weight"  # LoRA is merged in it
    assert torch.equal(state[f"language_model.{name}"], language[name])
    assert torch.equal(state["text_hidden_fcs.0.2.bias"], language["model.text_hidden_fcs.0.2.bias"])
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"
    assert torch.equal(state[f"vision_tower.{name}"], tower[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_have_the_type_that_is_chosen(made: Made, tmp_path: Path, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    config, state = written(made, tmp_path, name)  # type: ignore[arg-type]  # one of its words
    assert {value.dtype for value in state.values()} == {dtype}
    assert config["dtype"] == name
    assert torch.equal(state[Q], made.model.language.state_dict()[Q.removeprefix("language_model.")].to(dtype))


def test_each_weight_keeps_its_type_and_takes_lora_in_float32(made: Made, tmp_path: Path) -> None:
    stored = {name: value.bfloat16() for name, value in read_tensors(made.directory / "pytorch_model.bin").items()}
    norm, q = f"{PEFT_PREFIX}model.norm.weight", f"{PEFT_PREFIX}model.layers.0.self_attn.q_proj"
    stored[norm] = stored[norm].float()
    torch.save(stored, tmp_path / "pytorch_model.bin")
    config, state = written(made, tmp_path / "vllm", "source", tmp_path)
    assert config["dtype"] == "bfloat16"
    assert {name for name, value in state.items() if value.dtype != torch.bfloat16} == {
        "language_model.model.norm.weight"
    }
    base, a, b = (
        stored[f"{q}.{part}.weight"].float() for part in ("base_layer", "lora_A.default", "lora_B.default")
    )
    assert torch.equal(state[Q], (base + 2.0 * (b @ a)).bfloat16())


def test_shards_hold_what_one_file_holds(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = written(made, tmp_path / "whole")
    monkeypatch.setattr(shards.write_shards, "__defaults__", (200_000,))
    _, divided = written(made, tmp_path / "divided")
    assert divided.keys() == whole.keys()
    assert all(torch.equal(divided[name], value) for name, value in whole.items())
    index = json.loads((tmp_path / "divided" / "model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "divided").glob("*.safetensors")}
    assert len(files) > 2
    assert set(index["weight_map"].values()) == files
    assert index["weight_map"].keys() == whole.keys()
    assert f"model-00001-of-{len(files):05}.safetensors" in files


MEASURED = """
import sys
from dataclasses import replace
from pathlib import Path
from exporters.checkpoint import tensor_files
from exporters.checkpoint.base_model import read_base
from exporters.checkpoint.clip import read_clip
from exporters.checkpoint.published import read_checkpoint
from exporters.vllm_model import plan_vllm_model, write_vllm_model
from loadtest.server_process import peak_memory
tensor_files.MAPPED_BYTES = 16 << 20
source, out = map(Path, sys.argv[1:])
base = read_base(source / "llava_med")
plan = plan_vllm_model(read_checkpoint(source), base, read_clip(source / "clip", base.select_layer), "source")
before = peak_memory()
write_vllm_model(plan, out, lambda _: None)
print(plan.nbytes, max(each.form.nbytes for each in plan.tensors), peak_memory() - before)
"""


def test_memory_holds_a_tensor_and_not_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in a process of its own: the pages of the mapped checkpoint count, too."""
    sizes = random.SIZES["mediround-0.4b"]
    language = replace(sizes.language, hidden=512, layers=24, heads=8, intermediate=2048)
    tower = replace(sizes.tower, width=64, heads=2, layers=2, hidden=128)
    larger = replace(sizes, language=language, tower=tower, shard_bytes=1 << 30)
    monkeypatch.setitem(random.SIZES, "mediround-0.4b", larger)
    monkeypatch.setattr(random, "published_tokenizer", train_tokenizer)
    random.write_random("mediround-0.4b", 1, tmp_path / "checkpoint")
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "checkpoint"), str(tmp_path / "vllm")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    everything, largest, more = map(int, done.stdout.split())
    assert everything > 150 << 20
    assert more < (16 << 20) + 4 * largest + (16 << 20)


def test_the_configuration_agrees_with_the_manifest(random_bundle: Bundle) -> None:
    config = json.loads(random_bundle.path(VLLM_CONFIG).read_text())
    manifest = random_bundle.manifest
    for kind in ("seg", "bbox", "crop", "image"):
        assert config[f"{kind}_token_id"] == getattr(manifest.tokens, kind)
    assert config["feature"] == manifest.language.feature
    assert config["image_tokens"] == manifest.tower.tokens
    assert config["vision_config"]["image_size"] == manifest.tower.side
    text = config["text_config"]
    assert (text["hidden_size"], text["num_hidden_layers"]) == (manifest.language.hidden, manifest.language.layers)
    assert text["vocab_size"] == manifest.language.vocabulary
    assert text["max_position_embeddings"] == manifest.language.max_tokens + 1
    assert text["sliding_window"] is None


def test_the_manifest_lists_it(random_bundle: Bundle) -> None:
    assert {VLLM_CONFIG, "vllm/model.safetensors"} <= random_bundle.manifest.files.keys()
    assert random_bundle.vllm_model().is_dir()
    assert not (random_bundle.vllm_model() / TOKENIZER).exists()
