"""CLIP's directory: ``config.json``, ``preprocessor_config.json`` and, where the checkpoint lacks it, weights.

Knows the settings of a CLIP vision tower and its image preprocessing. Does not know the projector, which is
the checkpoint's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.checkpoint.base_model import check_settings, read_json
from exporters.checkpoint.published import DERIVED, files_digest
from exporters.checkpoint.tensor_files import TensorFile
from exporters.checkpoint.weights import Tensors, Weight
from exporters.errors import NotACheckpointError, UnsupportedSourceError
from exporters.modules.clip import TowerSizes
from serving.bundle import TowerSpec, Triple

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The first that is there is read."""

PREPROCESSING: dict[str, tuple[object, ...]] = {
    "do_resize": (True,),
    "do_center_crop": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_convert_rgb": (True,),
    "resample": (3,),
    "rescale_factor": (1 / 255,),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """What a bundle takes from CLIP's directory."""

    directory: Path
    sizes: TowerSizes
    mean: Triple
    std: Triple

    @property
    def spec(self) -> TowerSpec:
        return TowerSpec(side=self.sizes.side, tokens=self.sizes.tokens, mean=self.mean, std=self.std)

    @property
    def digest(self) -> str:
        names = ("config.json", "preprocessor_config.json", *WEIGHTS)
        return files_digest(path for name in names if (path := self.directory / name).is_file())

    def tensors(self) -> Tensors:
        """``vision_model.*`` of ``model.safetensors``, or else of ``pytorch_model.bin``.

        Raises:
            NotACheckpointError: neither file is there, or it holds no vision tower.
        """
        stored = [self.directory / name for name in WEIGHTS if (self.directory / name).is_file()]
        if not stored:
            raise NotACheckpointError(
                f"The checkpoint holds no vision tower, and {self.directory / WEIGHTS[0]} is missing."
            )
        file = TensorFile(stored[0])
        names = [name for name in file.forms if name.startswith("vision_model.") and not name.endswith(DERIVED)]
        if not names:
            raise NotACheckpointError(f"{self.directory}: no vision_model.* in the weights; is this CLIP?")
        return Tensors({name: Weight(file, name) for name in names})


def read_clip(directory: Path, select_layer: int) -> Clip:
    """Read CLIP's configuration; ``select_layer`` is the base model's choice of hidden state.

    Raises:
        NotACheckpointError: a file is missing.
        UnsupportedSourceError: a setting that exporters or serving do not compute.
    """
    path = directory / "config.json"
    config = read_json(path)
    vision: dict[str, Any] = config.get("vision_config", config)  # a whole CLIP's config holds the tower's
    try:
        sizes = TowerSizes(
            side=vision["image_size"],
            patch=vision["patch_size"],
            width=vision["hidden_size"],
            layers=vision["num_hidden_layers"],
            heads=vision["num_attention_heads"],
            hidden=vision["intermediate_size"],
            activation=vision.get("hidden_act", "quick_gelu"),
            epsilon=vision.get("layer_norm_eps", 1e-5),
            select_layer=select_layer,
        )
    except KeyError as error:
        raise NotACheckpointError(f"{path} has no {error}: give the vision tower's directory.") from error
    check_settings(path, vision, {"hidden_act": ("quick_gelu", "gelu")})
    path = directory / "preprocessor_config.json"
    preprocessing = read_json(path)
    check_settings(path, preprocessing, PREPROCESSING)
    if (_side(preprocessing, "size"), _side(preprocessing, "crop_size")) != (sizes.side, sizes.side):
        raise UnsupportedSourceError(f"{path}: size and crop_size must both be the tower's {sizes.side}.")
    mean, std = (tuple(preprocessing[key]) for key in ("image_mean", "image_std"))
    return Clip(directory, sizes, mean, std)


def _side(preprocessing: dict[str, Any], name: str) -> int | None:
    """The one side that a size setting states, in any of its published spellings."""
    match preprocessing.get(name):
        case int(side) | {"shortest_edge": int(side)}:
            return side
        case {"height": int(height), "width": int(width)} if height == width:
            return height
    return None


def clip_config(sizes: TowerSizes) -> dict[str, Any]:
    """``config.json`` of a CLIP vision tower of these sizes."""
    return {
        "model_type": "clip_vision_model",
        "hidden_act": sizes.activation,
        "hidden_size": sizes.width,
        "image_size": sizes.side,
        "intermediate_size": sizes.hidden,
        "layer_norm_eps": sizes.epsilon,
        "num_attention_heads": sizes.heads,
        "num_channels": 3,
        "num_hidden_layers": sizes.layers,
        "patch_size": sizes.patch,
    }
