"""The base model's directory: ``config.json`` and ``tokenizer.model``.

Knows which settings the exporters can honour (and refuses the rest by name) and the ids of the three added
tokens. Does not know the checkpoint's tensors. Nothing of the base model's weights is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from torch import Tensor

from exporters.checkpoint.published import files_digest
from exporters.errors import IncompleteCheckpointError, NotACheckpointError, UnsupportedSourceError
from exporters.modules.language import LanguageSizes
from serving.bundle import TokenSpec

ADDED_TOKENS = ("[SEG]", "[BBOXINPUT]", "[CROPPEDIMAGE]")
"""In the order in which training adds them, after the base vocabulary."""

DEMANDED: Mapping[str, tuple[object, ...]] = {
    # Setting: the values that mean what the exporters compute; the first is meant where the key is absent.
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "tie_word_embeddings": (False,),
    "attention_bias": (False,),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_use_im_start_end": (False,),
    "mm_vision_select_feature": ("patch",),
}


@dataclass(frozen=True, slots=True)
class Base:
    """What a bundle takes from the base model's directory."""

    config: Mapping[str, Any]
    tokenizer: Path
    pieces: int
    """Size of the base vocabulary: the first added token's id."""
    bos: int
    eos: int
    digest: str

    @property
    def select_layer(self) -> int:
        return int(self.config.get("mm_vision_select_layer", -2))

    @property
    def max_tokens(self) -> int:
        return int(self.config["max_position_embeddings"])

    def sizes(self, language: Mapping[str, Tensor]) -> LanguageSizes:
        """The decoder's sizes; the vocabulary is the checkpoint's, which has the added tokens.

        Raises:
            IncompleteCheckpointError: the embedding table is missing, or has no rows for the added tokens.
        """
        config = self.config
        table = language.get("model.embed_tokens.weight")
        if table is None:
            raise IncompleteCheckpointError("model.embed_tokens.weight is missing: save the whole state dict.")
        if table.shape[0] < self.pieces + len(ADDED_TOKENS):
            raise IncompleteCheckpointError(
                f"model.embed_tokens.weight has {table.shape[0]} rows, but the tokenizer {self.pieces} pieces and "
                f"{len(ADDED_TOKENS)} added tokens: give the base model that this checkpoint was trained from."
            )
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return LanguageSizes(
            hidden=hidden,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config["num_key_value_heads"]),
            head_dim=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=table.shape[0],
            rope_theta=float(config["rope_theta"]),
            epsilon=float(config["rms_norm_eps"]),
        )

    def tokens(self, sizes: LanguageSizes) -> TokenSpec:
        """Ids of the special tokens; the image's lies just outside the vocabulary."""
        seg, bbox, crop = range(self.pieces, self.pieces + len(ADDED_TOKENS))
        return TokenSpec(bos=self.bos, eos=self.eos, seg=seg, bbox=bbox, crop=crop, image=sizes.vocabulary)


def read_base(directory: Path) -> Base:
    """Read the base model's directory.

    Raises:
        NotACheckpointError: ``config.json`` or ``tokenizer.model`` is missing.
        UnsupportedSourceError: a setting that these exporters do not compute.
    """
    config = read_json(directory / "config.json")
    check_settings(directory / "config.json", config, DEMANDED)
    window, length = config.get("sliding_window"), int(config["max_position_embeddings"])
    if window is not None and int(window) < length:
        raise UnsupportedSourceError(
            f"{directory / 'config.json'}: sliding_window {window} is shorter than max_position_embeddings "
            f"{length}; set the latter to {window} to serve dialogues up to that length."
        )
    tokenizer = directory / "tokenizer.model"
    if not tokenizer.is_file():
        raise NotACheckpointError(f"{tokenizer} is missing: --base needs the sentencepiece model.")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    return Base(
        config=config,
        tokenizer=tokenizer,
        pieces=int(pieces.vocab_size()),
        bos=int(pieces.bos_id()),
        eos=int(pieces.eos_id()),
        digest=files_digest([directory / "config.json", tokenizer]),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises NotACheckpointError when the file is missing or is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotACheckpointError(f"{path} cannot be read ({error}).") from error
    if not isinstance(value, dict):
        raise NotACheckpointError(f"{path} is not a JSON object.")
    return value


def check_settings(path: Path, config: Mapping[str, Any], demanded: Mapping[str, tuple[object, ...]]) -> None:
    """Raises UnsupportedSourceError for a setting outside what the exporters compute."""
    for name, allowed in demanded.items():
        if (value := config.get(name, allowed[0])) not in allowed:
            meant = " or ".join(map(repr, allowed))
            raise UnsupportedSourceError(f"{path}: {name} is {value!r}; these exporters compute {meant} alone.")
