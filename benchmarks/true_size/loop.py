"""The plain loop: Hugging Face transformers, one layer in memory at a time, in float32 beside bfloat16.

Run as a program of its own, ``python -m benchmarks.true_size.loop``, once nothing else holds the memory. Knows the
bundle's weights for vLLM, and reads a recorded dialogue. Does not know what its results are compared with.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, MistralConfig
from transformers.models.mistral.modeling_mistral import (
    MistralDecoderLayer,
    MistralRMSNorm,
    MistralRotaryEmbedding,
)

from benchmarks.true_size.recording import Recording
from serving.bundle import Manifest, load_bundle

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Weights:
    """The tensors of a directory of safetensors files, read by prefix."""

    def __init__(self, directory: Path) -> None:
        self._owners: dict[str, Path] = {}
        for path in sorted(directory.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._owners |= dict.fromkeys(file.keys(), path)

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Copies, by the rest of their names."""
        found: dict[str, Tensor] = {}
        for path in {path for name, path in self._owners.items() if name.startswith(prefix)}:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118  # no mapping
                found |= {name.removeprefix(prefix): file.get_tensor(name).clone() for name in names}
        return found


def loaded(module: Any, state: Mapping[str, Tensor], dtype: torch.dtype) -> Any:  # transformers is untyped here
    """A module without values given those of ``state``, every one of which it must want and have."""
    module.load_state_dict({name: value.to(dtype) for name, value in state.items()}, strict=True, assign=True)
    return module.eval()


class Loop:
    """One dialogue through all layers, once for each of ``DTYPES``."""

    def __init__(self, model: Path, manifest: Manifest, recording: Recording) -> None:
        self._config = json.loads((model / "config.json").read_text())
        self._text = MistralConfig(**self._config["text_config"], attn_implementation="eager")
        self._weights, self._manifest, self._recording = Weights(model), manifest, recording

    @torch.inference_mode()
    def run(self) -> dict[str, Tensor]:
        """Features (R, 256) and logits (words, V) of each type, as float32."""
        states = {name: self._embedded(dtype) for name, dtype in DTYPES.items()}
        for index in range(self._text.num_hidden_layers):
            state = self._weights.below(f"language_model.model.layers.{index}.")
            for name, dtype in DTYPES.items():
                states[name] = self._layer(index, state, dtype, states[name])
        results: dict[str, Tensor] = {}
        for name, dtype in DTYPES.items():
            features, logits = self._read(dtype, states[name][0])
            results |= {f"features_{name}": features.float(), f"logits_{name}": logits.float()}
        return results

    def _layer(self, index: int, state: Mapping[str, Tensor], dtype: torch.dtype, x: Tensor) -> Tensor:
        with torch.device("meta"):
            layer = MistralDecoderLayer(self._text, index)
        length = x.shape[1]
        mask = torch.full((length, length), -torch.inf, dtype=dtype).triu(1)[None, None]
        places = MistralRotaryEmbedding(self._text)(x, torch.arange(length)[None])
        return loaded(layer, state, dtype)(x, attention_mask=mask, position_embeddings=places)  # type: ignore[no-any-return]  # untyped

    def _read(self, dtype: torch.dtype, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The features at the recorded rows, and the logits from which each generated word was chosen."""
        manifest, recording = self._manifest, self._recording
        with torch.device("meta"):
            norm = MistralRMSNorm(self._text.hidden_size, self._text.rms_norm_eps)
            head = nn.Sequential(
                nn.Linear(self._text.hidden_size, self._text.hidden_size),
                nn.ReLU(),
                nn.Linear(self._text.hidden_size, manifest.language.feature),
            )
        normed = loaded(norm, self._weights.below("language_model.model.norm."), dtype)(hidden)
        places = self._expanded(torch.from_numpy(recording.rows))
        features = loaded(head, self._weights.below("text_hidden_fcs.0."), dtype)(normed[places])
        first = len(hidden) - recording.words - 1
        table = self._weights.below("language_model.lm_head.")["weight"].to(dtype)
        return features, normed[first : first + recording.words] @ table.T

    def _expanded(self, rows: Tensor) -> Tensor:
        """Places in the sequence whose image is expanded; all rows lie behind the image."""
        return rows + self._manifest.tower.tokens - 1

    def _embedded(self, dtype: torch.dtype) -> Tensor:
        """(1, T, H)"""
        tokens, recording = self._manifest.tokens, self._recording
        pictures = self._pictured(dtype)
        crops = iter([picture[:1] for picture in pictures[1:]])
        with torch.device("meta"):
            encoder = nn.Linear(4, self._text.hidden_size)
        boxes = loaded(encoder, self._weights.below("bbox_encoder."), dtype)(
            torch.from_numpy(recording.boxes).to(dtype)
        )
        boxed = iter(boxes[:, None])
        table = self._weights.below("language_model.model.embed_tokens.")["weight"]

        def rows() -> Iterator[Tensor]:
            for token in recording.token_ids.tolist():
                if token == tokens.image:
                    yield pictures[0][1:]
                elif token == tokens.crop:
                    yield next(crops)
                elif token == tokens.bbox:
                    yield next(boxed)
                else:
                    yield table[token : token + 1].to(dtype)

        return torch.cat(list(rows()))[None]

    def _pictured(self, dtype: torch.dtype) -> Tensor:
        """(pictures, 1 + patches, H), the class token first."""
        config = self._config["vision_config"]
        with torch.device("meta"):
            projector = nn.Sequential(
                nn.Linear(config["hidden_size"], self._text.hidden_size),
                nn.GELU(),
                nn.Linear(self._text.hidden_size, self._text.hidden_size),
            )
        tower = CLIPVisionModel(CLIPVisionConfig(**config, attn_implementation="eager"))
        # transformers names the tower's tensors with or without an inner "vision_model.", by version.
        inner = any(name.startswith("vision_model.") for name in tower.state_dict())
        state = self._weights.below("vision_tower." if inner else "vision_tower.vision_model.")
        tower = loaded(tower.to(dtype), state, dtype)
        pixels = torch.from_numpy(self._recording.pictures).to(dtype)
        hidden = tower(pixels, output_hidden_states=True).hidden_states[self._config["select_layer"]]
        return loaded(projector, self._weights.below("mm_projector."), dtype)(hidden)  # type: ignore[no-any-return]  # untyped


def judged(judge: Path, features: Tensor) -> Tensor:
    """The judge's scores (R,) of features (R, 256), in float32: three layers with GELU between them, published."""
    with np.load(judge) as stored:
        state = {name: torch.from_numpy(stored[name]) for name in stored.files}
    x = features
    for layer in ("fc1", "fc2", "fc3"):
        x = x if layer == "fc1" else nn.functional.gelu(x)
        x = nn.functional.linear(x, state[f"{layer}.weight"], state[f"{layer}.bias"])
    return torch.sigmoid(x).squeeze(-1)


def compute() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.true_size.loop", description=__doc__)
    for name in ("bundle", "recording", "judge", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    bundle, recording = load_bundle(given.bundle), Recording.load(given.recording)
    results = Loop(bundle.vllm_model(), bundle.manifest, recording).run()
    scores = {"served": torch.from_numpy(recording.features)}
    scores |= {name: results[f"features_{name}"] for name in DTYPES}
    results |= {f"scores_{name}": judged(given.judge, features) for name, features in scores.items()}
    arrays: dict[str, Any] = {name: value.numpy() for name, value in results.items()}
    np.savez(given.out, **arrays)


if __name__ == "__main__":
    compute()
