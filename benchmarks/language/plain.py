"""The baseline: Hugging Face transformers in a loop, on the very weights that vLLM loads.

One dialogue after another, one round after another; each round reads its whole prompt, as the published code
does. Knows the bundle's directory for vLLM. Does not know what it is compared with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, MistralConfig, MistralForCausalLM

from serving.bundle import Manifest
from serving.domain import F32, TowerImage
from serving.ports import Prompt


class PlainLanguage:
    """In float32 on the CPU."""

    def __init__(self, model: Path, manifest: Manifest, threads: int) -> None:
        torch.set_num_threads(threads)
        config = json.loads((model / "config.json").read_text())
        state = {name: value.float() for name, value in load_file(model / "model.safetensors").items()}
        self._manifest, self._select = manifest, config["select_layer"]
        self._decoder = _loaded(
            MistralForCausalLM(MistralConfig(**config["text_config"])), state, "language_model."
        )
        tower = CLIPVisionModel(CLIPVisionConfig(**config["vision_config"]))
        # transformers names the tower's tensors with or without an inner "vision_model.", by version.
        inner = any(name.startswith("vision_model.") for name in tower.state_dict())
        self._tower = _loaded(tower, state, "vision_tower." if inner else "vision_tower.vision_model.")
        hidden, width = manifest.language.hidden, config["vision_config"]["hidden_size"]
        feature = manifest.language.feature
        projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self._projector = _loaded(projector, state, "mm_projector.")
        self._boxes = _loaded(nn.Linear(4, hidden), state, "bbox_encoder.")
        head = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, feature))
        self._head = _loaded(head, state, "text_hidden_fcs.0.")
        self.computed_tokens = 0

    @torch.inference_mode()
    def read(self, prompt: Prompt) -> F32:
        """The feature (256,) at the end of a forced prompt."""
        embedded = self._embedded(prompt)
        self.computed_tokens += embedded.shape[1]
        hidden = self._decoder.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return np.asarray(self._head(hidden[0, -1]).numpy(), np.float32)

    def _embedded(self, prompt: Prompt) -> Tensor:
        """(1, T, H)"""
        tokens = self._manifest.tokens
        crops = iter([self._pictured(reference.crop)[:1] for reference in prompt.references])
        boxes = iter([self._boxes(torch.from_numpy(each.box)[None]) for each in prompt.references])
        table = self._decoder.get_input_embeddings()
        parts = []
        for token in prompt.token_ids:
            if token == tokens.image:
                parts.append(self._pictured(prompt.image)[1:])
            elif token == tokens.crop:
                parts.append(next(crops))
            elif token == tokens.bbox:
                parts.append(next(boxes))
            else:
                parts.append(table(torch.tensor([token])))
        return torch.cat(parts)[None]

    def _pictured(self, picture: TowerImage) -> Tensor:
        """(1 + patches, H), the class token first."""
        pixels = torch.from_numpy(picture.normalised(self._manifest.tower))[None]
        states = self._tower(pixels, output_hidden_states=True).hidden_states
        return self._projector(states[self._select][0])  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def _loaded(module: Any, state: dict[str, Tensor], prefix: str) -> Any:  # transformers is untyped here
    """The module with the tensors of ``prefix``, every one of which it must want and have."""
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    module.load_state_dict(own, strict=True)
    return module.eval()
