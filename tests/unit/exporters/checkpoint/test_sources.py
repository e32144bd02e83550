"""The base model's and CLIP's directories: what is taken from them and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from exporters.checkpoint.base_model import read_base
from exporters.checkpoint.clip import read_clip
from exporters.errors import IncompleteCheckpointError, NotACheckpointError, UnsupportedSourceError
from tests.unit.exporters.conftest import Made


def changed(source: Path, target: Path, name: str, **settings: Any) -> Path:
    shutil.copytree(source, target)
    path = target / name
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return target


def test_added_tokens_stand_after_the_base_vocabulary(made: Made) -> None:
    sizes = made.model.language.sizes
    tokens = made.base.tokens(sizes)
    pieces = made.base.pieces
    assert (tokens.seg, tokens.bbox, tokens.crop) == (pieces, pieces + 1, pieces + 2)
    assert tokens.image == sizes.vocabulary == pieces + 3
    assert (tokens.bos, tokens.eos) == (1, 2)


def test_padded_embedding_rows_move_the_image_alone(made: Made) -> None:
    table = {"model.embed_tokens.weight": torch.zeros(made.base.pieces + 64, 128)}
    tokens = made.base.tokens(made.base.sizes(table))
    assert tokens.seg == made.base.pieces
    assert tokens.image == made.base.pieces + 64


def test_a_table_without_rows_for_the_added_tokens(made: Made) -> None:
    with pytest.raises(IncompleteCheckpointError, match="added tokens"):
        made.base.sizes({"model.embed_tokens.weight": torch.zeros(made.base.pieces, 128)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "gelu"),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("tie_word_embeddings", True),
        ("mm_projector_type", "linear"),
        ("mm_use_im_start_end", True),
        ("sliding_window", 64),
    ],
)
def test_settings_that_are_not_computed_are_refused_by_name(
    made: Made, tmp_path: Path, name: str, value: object
) -> None:
    directory = changed(made.directory / "llava_med", tmp_path / "base", "config.json", **{name: value})
    with pytest.raises(UnsupportedSourceError, match=name):
        read_base(directory)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model"])
def test_a_missing_file_of_the_base(made: Made, tmp_path: Path, name: str) -> None:
    directory = changed(made.directory / "llava_med", tmp_path / "base", "config.json")
    (directory / name).unlink()
    with pytest.raises(NotACheckpointError, match=name):
        read_base(directory)


def test_the_configuration_of_a_whole_clip(made: Made, tmp_path: Path) -> None:
    directory = changed(made.directory / "clip", tmp_path / "clip", "config.json")
    path = directory / "config.json"
    path.write_text(json.dumps({"text_config": {}, "vision_config": json.loads(path.read_text())}))
    assert read_clip(directory, -2).sizes == made.clip.sizes


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("config.json", {"hidden_act": "relu"}),
        ("preprocessor_config.json", {"resample": 2}),
        ("preprocessor_config.json", {"do_center_crop": False}),
        ("preprocessor_config.json", {"crop_size": {"height": 100, "width": 112}}),
        ("preprocessor_config.json", {"size": {"shortest_edge": 96}}),
    ],
)
def test_preprocessing_that_serving_does_not_do(
    made: Made, tmp_path: Path, name: str, settings: dict[str, object]
) -> None:
    directory = changed(made.directory / "clip", tmp_path / "clip", name, **settings)
    with pytest.raises(UnsupportedSourceError):
        read_clip(directory, -2)


def test_clip_without_weights_matters_only_when_they_are_needed(made: Made, tmp_path: Path) -> None:
    directory = changed(made.directory / "clip", tmp_path / "clip", "config.json")
    (directory / "model.safetensors").unlink()
    clip = read_clip(directory, -2)
    with pytest.raises(NotACheckpointError, match=r"model\.safetensors"):
        clip.tensors()


def test_clip_weights_as_a_torch_file(made: Made, tmp_path: Path) -> None:
    directory = changed(made.directory / "clip", tmp_path / "clip", "config.json")
    (directory / "model.safetensors").unlink()
    extra = {"text_model.weight": torch.zeros(1), "vision_model.embeddings.position_ids": torch.zeros(1)}
    torch.save(dict(made.clip.tensors()) | extra, directory / "pytorch_model.bin")
    assert read_clip(directory, -2).tensors().keys() == made.clip.tensors().keys()
