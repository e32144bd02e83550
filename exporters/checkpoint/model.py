"""The networks of a checkpoint, built and loaded.

Knows which tensors make which network, and how to say what is missing. Does not know files, graphs or
bundles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from exporters.checkpoint.base_model import Base
from exporters.checkpoint.clip import Clip
from exporters.checkpoint.published import Checkpoint, State
from exporters.errors import IncompleteCheckpointError, UnsupportedSourceError
from exporters.modules.clip import VisionTower
from exporters.modules.heads import Corrector, Heads, Judge
from exporters.modules.language import LanguageModel
from exporters.modules.sam_decoder import MaskDecoder
from exporters.modules.sam_vit import SamViT
from exporters.modules.tiny_vit import TinyViT

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Model:
    """A whole MediRound model in float32, in ``eval()``."""

    image_encoder: SamViT | TinyViT
    mask_decoder: MaskDecoder
    heads: Heads
    tower: VisionTower
    language: LanguageModel


def build_model(checkpoint: Checkpoint, base: Base, clip: Clip, *, half: bool) -> Model:
    """Build every network of a checkpoint.

    Args:
        half: round every tensor to a float16 value first (storage ``fp16`` keeps exactly these).

    Raises:
        IncompleteCheckpointError: a part lacks tensors, or their shapes contradict the configuration.
        UnsupportedSourceError: an image encoder of neither known family.
    """

    def state(part: State) -> State:
        return {name: _rounded(value) if half else value.float() for name, value in part.items()}

    tower = state((checkpoint.tower or clip.weights()) | checkpoint.projector)
    language = state(checkpoint.language)
    sizes = base.sizes(language)
    return Model(
        image_encoder=_named("image encoder", lambda: _image_encoder(state(checkpoint.image_encoder))),
        mask_decoder=_named("mask decoder", lambda: _load(MaskDecoder(), state(checkpoint.mask_decoder))),
        heads=Heads(
            None if checkpoint.judge is None else _judge(state(checkpoint.judge)),
            None if checkpoint.corrector is None else _corrector(state(checkpoint.corrector)),
        ).eval(),
        tower=_named("vision tower and projector", lambda: VisionTower.of(clip.sizes, tower)),
        language=_named("language model", lambda: LanguageModel.of(sizes, language)),
    )


def _rounded(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    rounded = value.half().float()
    if not bool(rounded.isfinite().all()):
        raise UnsupportedSourceError("a weight exceeds float16's range: use --storage fp32.")
    return rounded


def _image_encoder(state: State) -> SamViT | TinyViT:
    if "patch_embed.proj.weight" in state:
        return SamViT.of(state)
    if "patch_embed.seq.0.c.weight" in state:
        return TinyViT.of(state)
    raise UnsupportedSourceError(
        "model.visual_model.image_encoder.* is neither a SAM ViT (patch_embed.proj) nor a LiteMedSAM TinyViT "
        "(patch_embed.seq.0): these exporters know no third."
    )


def _judge(state: State) -> Judge:
    return _named("judge", lambda: _load(Judge(), state))


def _corrector(state: State) -> Corrector:
    return _named("corrector", lambda: _load(Corrector(), state))


def _load(network: N, state: State) -> N:
    network.load_state_dict(state, strict=True)
    return network.eval()


def _named(part: str, build: Callable[[], N]) -> N:
    """Turn torch's complaint about missing or misshapen tensors into one that says whose they are."""
    try:
        return build()
    except (KeyError, RuntimeError) as error:
        raise IncompleteCheckpointError(f"The {part} does not load: {error}") from error
