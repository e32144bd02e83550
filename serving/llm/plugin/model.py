"""MediRound's language half as vLLM runs it: CLIP, projector, box encoder, Mistral, [SEG] projection.

Knows tensor names (those of ``exporters.vllm_model``) and which input becomes which embedding. The transformers
are vLLM's own; the small layers are plain and replicated on every rank. Does not know how features leave the
worker (``serving.llm.plugin.tap``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.clip import CLIPVisionModel
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.utils import AutoWeightsLoader, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from serving.llm.plugin.config import MediRoundConfig
from serving.llm.plugin.processing import FIELDS, Dummy, Info, Processor

AT_ONCE = 16
"""Most pictures in one pass of CLIP."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Dummy)
class MediRoundForSegmentation(nn.Module, SupportsMultiModal):
    """Reads a dialogue on an image; ``last_rows`` are the hidden states that the step's tokens come from."""

    image_mean: Tensor
    image_std: Tensor
    packed_modules_mapping = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}  # noqa: RUF012  # vLLM's form

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config: MediRoundConfig = vllm_config.model_config.hf_config
        text, vision = config.text_config, config.vision_config
        self.config = config
        with self._mark_tower_model(vllm_config, set(FIELDS)):  # type: ignore[operator]  # the mixins are untyped
            self.vision_tower = CLIPVisionModel(
                vision,
                # Hidden states are counted from the embeddings (0) to the last layer's output.
                num_hidden_layers_override=config.select_layer % (vision.num_hidden_layers + 1),
                require_post_norm=False,
                prefix=maybe_prefix(prefix, "vision_tower"),
            )
            self.mm_projector = nn.Sequential(
                nn.Linear(vision.hidden_size, text.hidden_size),
                nn.GELU(),
                nn.Linear(text.hidden_size, text.hidden_size),
            )
            self.bbox_encoder = nn.Linear(4, text.hidden_size)
        with self._mark_language_model(vllm_config):  # type: ignore[operator]  # as above
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=text,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=["MistralForCausalLM"],
            )
        self.text_hidden_fcs = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Linear(text.hidden_size, text.hidden_size),
                    nn.ReLU(),
                    nn.Linear(text.hidden_size, config.feature),
                )
            ]
        )
        for name, values in (("image_mean", config.image_mean), ("image_std", config.image_std)):
            channels = torch.tensor(values, dtype=torch.float32).view(3, 1, 1)
            self.register_buffer(name, channels, persistent=False)
        self.last_rows: Tensor | None = None

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:  # noqa: ARG003  # vLLM's signature
        """No text stands for an item: prompts are ids."""
        return None

    def embed_multimodal(self, **kwargs: object) -> Tensor | list[Tensor]:
        """The embeddings (items, tokens, H) of one modality; see ``FIELDS``."""
        for modality, field in FIELDS.items():
            value = kwargs.get(field)
            if isinstance(value, Tensor):
                return self._embedded(modality, value)
        return []

    def _embedded(self, modality: str, items: Tensor) -> Tensor:
        dtype = self.bbox_encoder.weight.dtype
        if modality == "bbox":
            return self.bbox_encoder(items.to(dtype)).unsqueeze(1)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
        wanted = slice(1, None) if modality == "image" else slice(1)  # of 1 + patches, the class token first
        # A step may bring crops by the dozen; what CLIP needs to compute them would grow with them.
        parts = (self.normalised(part).to(dtype) for part in torch.split(items, AT_ONCE))
        tokens = torch.cat([self.vision_tower(part)[:, wanted] for part in parts])
        return self.mm_projector(tokens)  # type: ignore[no-any-return]  # as above

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 (items, P, P, 3) as float32 (items, 3, P, P), as ``serving.domain.TowerImage`` does it."""
        scaled = pixels.permute(0, 3, 1, 2).float().contiguous() * 0.00392156862745098
        return (scaled - self.image_mean) / self.image_std

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,  # noqa: ARG002  # vLLM may hand the raw media over again
    ) -> Any:
        """Hidden states after the final norm (or what the next pipeline stage takes)."""
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Called once a step with one row for each token that is about to be sampled."""
        self.last_rows = hidden_states
        return self.language_model.compute_logits(hidden_states)  # type: ignore[no-any-return]  # vLLM is untyped here

    def features(self, hidden_states: Tensor) -> Tensor:
        """The [SEG] features (rows, feature), float32, of hidden states after the final norm."""
        return self.text_hidden_fcs[0](hidden_states).float()  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(weights)  # type: ignore[no-any-return]  # vLLM is untyped here
