"""``config.json`` of the directory that vLLM loads (written by ``exporters.vllm_model``).

Knows its fields. Does not know how they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import CLIPVisionConfig, MistralConfig, PretrainedConfig

ARCHITECTURE = "MediRoundForSegmentation"


class MediRoundConfig(PretrainedConfig):
    """Two stock configurations, and what MediRound adds to them."""

    model_type = "mediround"
    sub_configs = {"text_config": MistralConfig, "vision_config": CLIPVisionConfig}  # noqa: RUF012  # transformers' form

    def __init__(  # noqa: PLR0917  # transformers' form: the file's fields
        self,
        text_config: dict[str, Any] | None = None,
        vision_config: dict[str, Any] | None = None,
        select_layer: int = -2,
        image_tokens: int = 0,
        feature: int = 0,
        seg_token_id: int = 0,
        bbox_token_id: int = 0,
        crop_token_id: int = 0,
        image_token_id: int = 0,
        image_mean: Sequence[float] = (0.0, 0.0, 0.0),
        image_std: Sequence[float] = (1.0, 1.0, 1.0),
        **kwargs: Any,
    ) -> None:
        """All defaults are placeholders: transformers makes an empty one to compare with.

        ``image_mean`` and ``image_std`` are not in the file: they come from the manifest, when vLLM starts.
        """
        self.text_config = MistralConfig(**(text_config or {}))
        self.vision_config = CLIPVisionConfig(**(vision_config or {}))
        self.select_layer = select_layer
        self.image_tokens = image_tokens
        self.feature = feature
        self.seg_token_id = seg_token_id
        self.bbox_token_id = bbox_token_id
        self.crop_token_id = crop_token_id
        self.image_token_id = image_token_id
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        super().__init__(**kwargs)
