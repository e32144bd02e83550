"""One random checkpoint for all tests of the exporters, the same one that ``random_bundle`` is made from.

And what its image half and that of the shipped model are asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from demo import heldout
from exporters.checkpoint.base_model import Base, read_base
from exporters.checkpoint.clip import Clip, read_clip
from exporters.checkpoint.model import Model, build_model
from exporters.checkpoint.published import Checkpoint, read_checkpoint
from exporters.checkpoint.random import write_random
from exporters.compare.recorded_inputs import DecodeInputs, ask, made_up, of_data_set
from serving.bundle import Bundle, load_bundle
from tests.conftest import REPOSITORY

SEED = 1
"""That of ``random_bundle``."""
HELD_OUT = 2
"""Dialogues on slices that MediRound-Lite was not trained on, five rounds each."""


@dataclass(frozen=True, repr=False)
class Made:
    """A random checkpoint on disk and in memory."""

    directory: Path
    checkpoint: Checkpoint
    base: Base
    clip: Clip
    model: Model


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("random")
    write_random("tiny", SEED, directory)
    base = read_base(directory / "llava_med")
    clip = read_clip(directory / "clip", base.select_layer)
    checkpoint = read_checkpoint(directory)
    return Made(directory, checkpoint, base, clip, build_model(checkpoint, base, clip, half=False))


@pytest.fixture(scope="session")
def lite_bundle() -> Bundle:
    """MediRound-Lite as it ships: TinyViT at 256, minmax, weights stored as float16."""
    bundle = load_bundle(REPOSITORY / "models" / "mediround-lite")
    assert (bundle.manifest.image.side, bundle.manifest.storage) == (256, "fp16")
    return bundle


@pytest.fixture(scope="session")
def questions(random_bundle: Bundle) -> list[DecodeInputs]:
    """Of made-up images, to the random bundle."""
    return ask(random_bundle, list(made_up()), threads=2)


@pytest.fixture(scope="session")
def held_out(lite_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> list[DecodeInputs]:
    """Of real slices, to MediRound-Lite."""
    out = tmp_path_factory.mktemp("heldout")
    heldout.write(lite_bundle.directory / "slices", out)
    return ask(lite_bundle, list(of_data_set(out / "dialogues.json", out, HELD_OUT)), threads=2)
