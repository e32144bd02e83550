"""Reading checkpoints: every published spelling, and nothing that is not one."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from exporters.checkpoint.model import build_model
from exporters.checkpoint.published import GAUSSIAN, PEFT_PREFIX, read_checkpoint
from exporters.checkpoint.tensor_files import read_tensors
from exporters.errors import (
    IncompleteCheckpointError,
    NotACheckpointError,
    UnsafeCheckpointError,
    UnsupportedSourceError,
)
from tests.unit.exporters.conftest import Made

Q = "model.layers.0.self_attn.q_proj"
State = dict[str, Tensor]


@pytest.fixture
def state(made: Made) -> State:
    return dict(read_tensors(made.directory / "pytorch_model.bin"))


def saved(state: State, directory: Path) -> Path:
    torch.save({name: value.clone() for name, value in state.items()}, directory / "pytorch_model.bin")
    return directory


def without(state: State, part: str) -> State:
    return {name: value for name, value in state.items() if part not in name}


def test_lora_is_merged_with_alpha_over_rank(made: Made, state: State) -> None:
    base = state[f"{PEFT_PREFIX}{Q}.base_layer.weight"].float()
    a = state[f"{PEFT_PREFIX}{Q}.lora_A.default.weight"].float()
    b = state[f"{PEFT_PREFIX}{Q}.lora_B.default.weight"].float()
    assert torch.equal(made.checkpoint.language[f"{Q}.weight"], base + 2.0 * (b @ a))  # 16 / 8
    other = read_checkpoint(made.directory, alpha=32).language[f"{Q}.weight"]
    assert torch.equal(other, base + 4.0 * (b @ a))
    assert not any("lora" in name for name in made.checkpoint.language)


@pytest.mark.parametrize(("spelled", "prefix"), [(".", PEFT_PREFIX), (".base_layer.", ""), (".", "")])
def test_both_peft_spellings_with_and_without_prefix(
    made: Made, state: State, tmp_path: Path, spelled: str, prefix: str
) -> None:
    renamed = {
        prefix + name.removeprefix(PEFT_PREFIX).replace(".base_layer.", spelled): value
        for name, value in state.items()
    }
    checkpoint = read_checkpoint(saved(renamed, tmp_path))
    assert checkpoint.unknown == ()
    assert checkpoint.language.keys() == made.checkpoint.language.keys()
    for name, value in checkpoint.language.items():
        assert torch.equal(value, made.checkpoint.language[name]), name


def test_shards_are_read_together(made: Made, state: State, tmp_path: Path) -> None:
    names = list(state)
    for index, part in enumerate((names[::2], names[1::2])):
        shard = {name: state[name].clone() for name in part}
        torch.save(shard, tmp_path / f"pytorch_model-0000{index + 1}-of-00002.bin")
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.language.keys() == made.checkpoint.language.keys()


def test_stage_1_has_no_judge(made: Made, state: State, tmp_path: Path) -> None:
    stage_1 = without(without(state, "mask_quality_MLP"), "refine_MLP")
    checkpoint = read_checkpoint(saved(stage_1, tmp_path))
    assert checkpoint.judge is None
    assert checkpoint.corrector is None
    model = build_model(checkpoint, made.base, made.clip, half=False)
    features = torch.randn(2, 3, 256)
    score, corrected, kept = model.heads(features, torch.full((2, 3), 1.0))
    assert bool(score.isnan().all())
    assert not bool(corrected.any())
    assert torch.equal(kept, features)


def test_a_judge_without_corrector_is_incomplete(state: State, tmp_path: Path) -> None:
    with pytest.raises(IncompleteCheckpointError, match="refine_MLP"):
        read_checkpoint(saved(without(state, "refine_MLP"), tmp_path))


def test_a_frozen_tower_that_was_not_saved_comes_from_clip(made: Made, state: State, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(without(state, "vision_tower"), tmp_path))
    assert checkpoint.tower is None
    tower = build_model(checkpoint, made.base, made.clip, half=False).tower.state_dict()
    for name, value in made.model.tower.state_dict().items():
        assert torch.equal(value, tower[name]), name


def test_a_tower_without_its_inner_name(made: Made, state: State, tmp_path: Path) -> None:
    renamed = {name.replace("vision_tower.vision_model.", "vision_tower."): value for name, value in state.items()}
    checkpoint = read_checkpoint(saved(renamed, tmp_path))
    assert checkpoint.tower is not None
    assert made.checkpoint.tower is not None
    assert checkpoint.tower.keys() == made.checkpoint.tower.keys()


def test_the_position_matrix_is_demanded(state: State, tmp_path: Path) -> None:
    with pytest.raises(IncompleteCheckpointError, match="gaussian_matrix is missing"):
        read_checkpoint(saved(without(state, GAUSSIAN), tmp_path))


def test_unknown_keys_are_reported_and_derived_ones_ignored(state: State, tmp_path: Path) -> None:
    extra = {
        "model.bbox_decoder.weight": torch.zeros(1),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(1),
    }
    assert read_checkpoint(saved(state | extra, tmp_path)).unknown == ("model.bbox_decoder.weight",)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("layers.1.mlp.up_proj", "language model"),
        ("mm_projector.2", "vision tower"),
        ("embed_tokens", "embed_tokens"),
        ("mask_decoder.iou_token", "mask decoder"),
        ("image_encoder.blocks.0.norm2", "image encoder"),
    ],
)
def test_missing_tensors_name_their_part(made: Made, state: State, tmp_path: Path, part: str, named: str) -> None:
    checkpoint = read_checkpoint(saved(without(state, part), tmp_path))
    with pytest.raises(IncompleteCheckpointError, match=named):
        build_model(checkpoint, made.base, made.clip, half=False)


def test_an_unknown_image_encoder_is_refused(made: Made, state: State, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(without(state, "patch_embed"), tmp_path))
    with pytest.raises(UnsupportedSourceError, match="TinyViT"):
        build_model(checkpoint, made.base, made.clip, half=False)


def test_values_beyond_float16_are_refused_for_fp16(made: Made, state: State, tmp_path: Path) -> None:
    name = f"{PEFT_PREFIX}model.norm.weight"
    checkpoint = read_checkpoint(saved(state | {name: state[name].float() * 1e6}, tmp_path))
    with pytest.raises(UnsupportedSourceError, match="--storage fp32"):
        build_model(checkpoint, made.base, made.clip, half=True)


class Payload:
    """Unpickles by calling: the proof would be a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.proof,)


def test_a_payload_is_refused_and_never_run(state: State, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    torch.save({**state, "payload": Payload(proof)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError, match="refused"):
        read_checkpoint(tmp_path)
    assert not proof.exists()


def test_a_plain_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(proof)))
    with pytest.raises((UnsafeCheckpointError, NotACheckpointError)):
        read_checkpoint(tmp_path)
    assert not proof.exists()


def test_a_truncated_file(made: Made, tmp_path: Path) -> None:
    whole = (made.directory / "pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NotACheckpointError, match="whole"):
        read_checkpoint(tmp_path)


def test_not_a_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "pytorch_model.bin")
    with pytest.raises(NotACheckpointError, match="state_dict"):
        read_checkpoint(tmp_path)


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpointError, match=r"holds no pytorch_model.* and no model"):
        read_checkpoint(tmp_path)


def test_a_deepspeed_directory_names_its_script(tmp_path: Path) -> None:
    state = tmp_path / "ckpt_of_epoch_3"
    state.mkdir()
    (state / "mp_rank_00_model_states.pt").touch()
    with pytest.raises(NotACheckpointError, match=r"zero_to_fp32\.py"):
        read_checkpoint(tmp_path)
