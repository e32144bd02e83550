"""A stage 1 checkpoint, which has neither judge nor corrector: exported whole, and served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from exporters.checkpoint.published import CORRECTOR, JUDGE, PEFT_PREFIX
from exporters.checkpoint.random import write_random
from loadtest.server_process import launched
from mediround import Client
from serving.bundle import load_bundle
from tests.conftest import export_bundle


def test_a_stage_one_checkpoint_is_served_without_scores(tmp_path: Path) -> None:
    checkpoint, bundle = tmp_path / "checkpoint", tmp_path / "bundle"
    write_random("tiny", 1, checkpoint)
    path = checkpoint / "pytorch_model.bin"
    heads = (PEFT_PREFIX + JUDGE, PEFT_PREFIX + CORRECTOR)
    state = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in state.items() if not name.startswith(heads)}, path)
    export_bundle(checkpoint, bundle)
    assert not load_bundle(bundle).manifest.judge.present
    image = np.random.default_rng(0).integers(1, 256, (64, 64, 3), np.uint8)
    with launched(bundle, tmp_path / "server.log") as server, Client(server.address, timeout=60) as client:
        assert not client.describe().has_judge
        with client.open(image) as session:
            first = session.ask("Segment the liver.", mode="forced", correction="off")
            second = session.ask("Segment the tumor in it.", refer_to=first, mode="forced", correction="off")
            assert first.mask is not None
            assert (second.score, second.corrected) == (None, False)
