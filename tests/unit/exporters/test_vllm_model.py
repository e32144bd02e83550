"""The directory for vLLM holds the weights of the graphs, and says of them what the manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exporters.onnx.fp16_storage import Storage
from exporters.vllm_model import write_vllm_model
from serving.bundle import TOKENIZER, VLLM_FILES, Bundle
from tests.unit.exporters.conftest import Made


def written(made: Made, out: Path, storage: Storage = "fp32") -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    tokens = made.base.tokens(made.model.language.sizes)
    write_vllm_model(made.model, tokens, made.base.max_tokens, storage, out)
    return json.loads((out / "config.json").read_text()), load_file(out / "model.safetensors")


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


@pytest.mark.parametrize(("storage", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16)])
def test_storage_is_the_bundles(made: Made, tmp_path: Path, storage: Storage, dtype: torch.dtype) -> None:
    config, state = written(made, tmp_path, storage)
    assert {value.dtype for value in state.values()} == {dtype}
    assert f"torch.{config['dtype']}" == str(dtype)


def test_the_configuration_agrees_with_the_manifest(random_bundle: Bundle) -> None:
    config = json.loads(random_bundle.path(VLLM_FILES[0]).read_text())
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
    assert set(VLLM_FILES) <= random_bundle.manifest.files.keys()
    assert random_bundle.vllm_model().is_dir()
    assert not (random_bundle.vllm_model() / TOKENIZER).exists()
