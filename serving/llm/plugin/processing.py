"""Images, crops and boxes on their way into vLLM: checked, and bound to their placeholders.

Knows types and shapes, and which token stands for what. Nothing is resized or tokenised here: pixels come in at
the tower's size, prompts as ids; the model normalises pixels, on its device. What passes these checks cannot break
the model; a worker that fails ends the engine for all.
Method names and parameters are vLLM's, which calls some of them by keyword.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import MultiModalDataParser, ProcessorBatchItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    ProcessorInputs,
    PromptReplacement,
)

from serving.llm.plugin.config import MediRoundConfig

FIELDS = {"image": "image_pixels", "crop": "crop_pixels", "bbox": "boxes"}
"""Modality → keyword of the model's ``embed_multimodal``."""


@dataclass(frozen=True, slots=True)
class Form:
    """What one item of a modality must be."""

    shape: tuple[int, ...]
    dtype: type[np.generic]

    def zeros(self) -> npt.NDArray[Any]:
        return np.zeros(self.shape, self.dtype)


class ArrayItems(ProcessorBatchItems):
    """Arrays of one modality, all of one form. By numpy: torch would start threads for the smallest of checks."""

    def __init__(self, data: Sequence[npt.NDArray[Any]], modality: str, form: Form) -> None:
        for item in data:
            if not isinstance(item, np.ndarray) or item.dtype != form.dtype or item.shape != form.shape:
                raise VLLMValidationError(f"a {modality} is a {form.dtype.__name__} array of shape {form.shape}")
            if item.dtype != np.uint8 and not np.isfinite(item).all():
                raise VLLMValidationError(f"a {modality} holds values that are not finite")
        super().__init__(data, modality)

    def get_processor_data(self) -> Mapping[str, object]:
        return {}

    def get_passthrough_data(self) -> Mapping[str, object]:
        return {FIELDS[self.modality]: torch.from_numpy(np.stack(self.get_all()))}


class Parser(MultiModalDataParser):
    """``forms``: of one item, by modality."""

    def __init__(self, forms: Mapping[str, Form]) -> None:
        super().__init__()
        self._forms = forms

    def _get_subparsers(self) -> Mapping[str, Any]:
        return {modality: partial(self._items, modality) for modality in FIELDS}

    def _items(self, modality: str, data: Sequence[npt.NDArray[Any]] | None) -> ArrayItems | None:
        return ArrayItems(data, modality, self._forms[modality]) if data else None


class Info(BaseProcessingInfo):
    """What vLLM asks of the model's inputs."""

    @property
    def config(self) -> MediRoundConfig:
        config: MediRoundConfig = self.ctx.get_hf_config(MediRoundConfig)
        return config

    @property
    def placeholders(self) -> dict[str, int]:
        config = self.config
        return {"image": config.image_token_id, "crop": config.crop_token_id, "bbox": config.bbox_token_id}

    @property
    def shown(self) -> dict[str, int]:
        """The id at each place that an item takes. From 0.33 on vLLM wants every one to have a row, although what
        the item is goes over it: the image's placeholder has none. ``[SEG]`` is no user's text either.
        """
        return {**self.placeholders, "image": self.config.seg_token_id}

    @property
    def forms(self) -> dict[str, Form]:
        side = self.config.vision_config.image_size
        picture = Form((side, side, 3), np.uint8)
        return {"image": picture, "crop": picture, "bbox": Form((4,), np.float32)}

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens of one item."""
        return {"image": self.config.image_tokens, "crop": 1, "bbox": 1}

    def get_data_parser(self) -> MultiModalDataParser:
        return Parser(self.forms)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": 1, "crop": None, "bbox": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:  # noqa: ARG002  # vLLM's signature
        return self.lengths


class Dummy(BaseDummyInputsBuilder):
    """Zeros, for vLLM's memory profile."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:  # noqa: ARG002  # vLLM's signature
        return ""

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:  # noqa: ARG002  # vLLM's signature
        return {name: [self.info.forms[name].zeros()] * mm_counts.get(name, 0) for name in FIELDS}


class Processor(BaseMultiModalProcessor):
    """Binds items to placeholders, in order. There is no Hugging Face processor behind it."""

    requires_tokenizer = False

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> ProcessorInputs:
        data = self.dummy_inputs.get_dummy_mm_data(seq_len, mm_counts, mm_options)
        prompt = [self.info.placeholders[name] for name, items in data.items() for _ in items]
        return ProcessorInputs(prompt=prompt, mm_data_items=self.info.parse_mm_data(data, validate=False))

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:  # vLLM's own inputs, of no stable type
        """Refuse what vLLM would accept: an id that the model has no row for, a placeholder without its item.

        Raises:
            VLLMValidationError: the request is at fault; the engine goes on.
        """
        placeholders, counts = self.info.placeholders, inputs.mm_data_items.get_all_counts()
        vocabulary = self.info.config.text_config.vocab_size
        known = set(placeholders.values())
        if any(not 0 <= token < vocabulary for token in inputs.prompt if token not in known):
            raise VLLMValidationError(f"an id lies outside 0..{vocabulary - 1}")
        for modality, placeholder in placeholders.items():
            marks, items = inputs.prompt.count(placeholder), counts.get(modality, 0)
            if marks != items:
                raise VLLMValidationError(f"{marks} {modality} placeholders for {items} items")
        return super().apply(inputs, timing_ctx)

    def _get_mm_fields_config(
        self,
        hf_inputs: Any,  # noqa: ARG002  # vLLM's signature
        hf_processor_mm_kwargs: Mapping[str, object],  # noqa: ARG002  # vLLM's signature
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {field: MultiModalFieldConfig.batched(modality) for modality, field in FIELDS.items()}

    def _get_prompt_updates(
        self,
        mm_items: Any,  # noqa: ARG002  # vLLM's signature
        hf_processor_mm_kwargs: Mapping[str, object],  # noqa: ARG002  # vLLM's signature
        out_mm_kwargs: Any,  # noqa: ARG002  # vLLM's signature
    ) -> Sequence[PromptReplacement]:
        lengths, shown = self.info.lengths, self.info.shown
        return [
            PromptReplacement(modality=modality, target=[token], replacement=[shown[modality]] * lengths[modality])
            for modality, token in self.info.placeholders.items()
        ]

    def _apply_prompt_updates_via_text(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002  # vLLM's signature
        """vLLM's way out when placeholders do not match: decode, replace, encode. Text must never become one."""
        raise VLLMValidationError("placeholders and items differ")
