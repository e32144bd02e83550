"""One random checkpoint for all tests of the exporters, the same one that ``random_bundle`` is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from exporters.base import Base, read_base
from exporters.checkpoint import Checkpoint, read_checkpoint
from exporters.model import Model, build_model
from exporters.random_checkpoint import write_random
from exporters.tower import Clip, read_clip

SEED = 1
"""That of ``random_bundle``."""


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
