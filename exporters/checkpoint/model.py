"""The networks of a checkpoint, built and loaded.

Knows which tensors make which network, and how to say what is missing. Does not know files, graphs or
bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from exporters.checkpoint.base_model import Base
from exporters.checkpoint.clip import Clip
from exporters.checkpoint.published import Checkpoint
from exporters.checkpoint.weights import Tensors
from exporters.errors import IncompleteCheckpointError, UnsupportedSourceError
from exporters.modules.clip import VisionTower
from exporters.modules.heads import Corrector, Heads, Judge
from exporters.modules.language import LanguageModel
from exporters.modules.sam_decoder import MaskDecoder
from exporters.modules.sam_vit import SamViT
from exporters.modules.tiny_vit import TinyViT

N = TypeVar("N", bound=nn.Module)
State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class ImageNetworks:
    """What becomes of images and features, in float32, in ``eval()``."""

    image_encoder: SamViT | TinyViT
    mask_decoder: MaskDecoder
    heads: Heads


@dataclass(frozen=True, slots=True)
class LanguageNetworks:
    """What becomes of words and pictures, in float32, in ``eval()``."""

    tower: VisionTower
    language: LanguageModel


@dataclass(frozen=True, slots=True)
class Model:
    """A whole MediRound model in float32, in ``eval()``."""

    image_encoder: SamViT | TinyViT
    mask_decoder: MaskDecoder
    heads: Heads
    tower: VisionTower
    language: LanguageModel


def build_model(checkpoint: Checkpoint, base: Base, clip: Clip, *, half: bool) -> Model:
    """Both halves; raises what they raise."""
    image = build_image_networks(checkpoint, half=half)
    language = build_language_networks(checkpoint, base, clip, half=half)
    return Model(image.image_encoder, image.mask_decoder, image.heads, language.tower, language.language)


def build_image_networks(checkpoint: Checkpoint, *, half: bool) -> ImageNetworks:
    """Image encoder, mask decoder and heads.

    Args:
        half: round every tensor to a float16 value first (storage ``fp16`` keeps exactly these).

    Raises:
        IncompleteCheckpointError: a part lacks tensors, or their shapes contradict one another.
        UnsupportedSourceError: an image encoder of neither known family.
    """
    encoder, decoder = _state(checkpoint.image_encoder, half=half), _state(checkpoint.mask_decoder, half=half)
    judge, corrector = checkpoint.judge, checkpoint.corrector
    return ImageNetworks(
        image_encoder=_named("image encoder", lambda: _image_encoder(encoder)),
        mask_decoder=_named("mask decoder", lambda: _load(MaskDecoder(), decoder)),
        heads=Heads(
            None if judge is None else _judge(_state(judge, half=half)),
            None if corrector is None else _corrector(_state(corrector, half=half)),
        ).eval(),
    )


def build_language_networks(checkpoint: Checkpoint, base: Base, clip: Clip, *, half: bool) -> LanguageNetworks:
    """Vision tower and language model: all of their weights in memory, as float32.

    Args:
        half: as of ``build_image_networks``.

    Raises:
        IncompleteCheckpointError: a part lacks tensors, or their shapes contradict the configuration.
    """
    tower = _state(tower_tensors(checkpoint, clip), half=half)
    language = _state(checkpoint.language, half=half)
    sizes = base.sizes(language)
    return LanguageNetworks(
        tower=_named("vision tower and projector", lambda: VisionTower.of(clip.sizes, tower)),
        language=_named("language model", lambda: LanguageModel.of(sizes, language)),
    )


def tower_tensors(checkpoint: Checkpoint, clip: Clip) -> Tensors:
    """``vision_model.*``, CLIP's own where the checkpoint has none, and ``mm_projector.*``."""
    tower = checkpoint.tower or clip.tensors()
    return Tensors({**tower.weights, **checkpoint.projector.weights})


def language_forms(checkpoint: Checkpoint, base: Base, clip: Clip) -> tuple[list[str], list[str]]:
    """The names of the tensors that language model and vision tower are made of, in the networks' order.

    Nothing is read: names and shapes are compared with those of networks without values.

    Raises:
        IncompleteCheckpointError: as ``build_language_networks``.
    """
    sizes, tower = base.sizes(checkpoint.language), tower_tensors(checkpoint, clip)
    with torch.device("meta"):
        networks = LanguageModel(sizes), VisionTower(clip.sizes, sizes.hidden)
    names = []
    for part, network, tensors in (
        ("language model", networks[0], checkpoint.language),
        ("vision tower and projector", networks[1], tower),
    ):
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        found = {name: weight.form.shape for name, weight in tensors.weights.items()}
        different = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        if different:
            words = (
                f"{name} has {found.get(name, 'no')} and needs {shapes.get(name, 'no')} shape"
                for name in different
            )
            raise IncompleteCheckpointError(f"The {part} does not load: {'; '.join(words)}")
        names.append(list(shapes))
    return names[0], names[1]


def _state(part: Mapping[str, Tensor], *, half: bool) -> State:
    return {name: rounded(value) if half else value.float() for name, value in part.items()}


def rounded(value: Tensor) -> Tensor:
    """As float32, each value one of float16. Raises UnsupportedSourceError for one beyond its range."""
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
