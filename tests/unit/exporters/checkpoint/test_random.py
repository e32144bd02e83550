"""The random checkpoint is in the published layout, and its tokenizer loses no text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch

from exporters.__main__ import main
from exporters.checkpoint import random, tokenizer
from exporters.checkpoint.published import GAUSSIAN, LORA_A, PEFT_PREFIX, SAM
from exporters.checkpoint.random import write_random
from exporters.checkpoint.tensor_files import read_tensors
from exporters.checkpoint.tokenizer import train_tokenizer
from tests.unit.exporters.conftest import SEED, Made


def test_published_names_and_half_values(made: Made) -> None:
    state = read_tensors(made.directory / "pytorch_model.bin")
    assert all(name.startswith(PEFT_PREFIX) for name in state)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert PEFT_PREFIX + SAM + GAUSSIAN in state
    assert PEFT_PREFIX + "model.layers.0.self_attn.v_proj.base_layer.weight" in state
    assert PEFT_PREFIX + "model.layers.0.self_attn.v_proj" + LORA_A in state
    assert made.checkpoint.unknown == ()


@pytest.fixture
def larger(monkeypatch: pytest.MonkeyPatch) -> random.Sizes:
    """In place of the size between: written as that is, but in a moment."""
    tiny = random.SIZES["tiny"]
    sizes = replace(tiny, shard_bytes=1 << 20)
    monkeypatch.setitem(random.SIZES, "mediround-0.4b", sizes)
    monkeypatch.setattr(random, "published_tokenizer", train_tokenizer)
    return sizes


def test_a_larger_one_is_written_file_by_file(made: Made, larger: random.Sizes, tmp_path: Path) -> None:
    write_random("mediround-0.4b", SEED, tmp_path)
    files = sorted(tmp_path.glob("*.bin"))
    assert len(files) > 2
    state = {name: (path, value) for path in files for name, value in read_tensors(path).items()}
    index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
    assert index["weight_map"] == {name: path.name for name, (path, _) in state.items()}
    assert {value.dtype for _, value in state.values()} == {torch.bfloat16}
    small = read_tensors(made.directory / "pytorch_model.bin")
    assert {name: value.shape for name, (_, value) in state.items()} == {n: v.shape for n, v in small.items()}
    norm = state[f"{PEFT_PREFIX}model.layers.1.input_layernorm.weight"][1]
    assert torch.equal(norm, torch.ones_like(norm))
    q = state[f"{PEFT_PREFIX}model.layers.1.self_attn.q_proj.base_layer.weight"][1]
    assert float(q.float().std()) == pytest.approx(0.02, rel=0.05)


def test_a_larger_ones_values_hang_on_seed_and_name_alone(larger: random.Sizes, tmp_path: Path) -> None:
    language = replace(larger.language, vocabulary=300)
    first, again, other = ({p.name: p for p in random.planned(larger, language, seed)} for seed in (1, 1, 2))
    name = f"{PEFT_PREFIX}model.layers.1.mlp.up_proj.weight"
    again[f"{PEFT_PREFIX}lm_head.weight"].read()
    assert torch.equal(first[name].read(), again[name].read())
    assert not torch.equal(first[name].read(), other[name].read())


def test_the_published_size_is_mistrals_clips_and_medsams() -> None:
    sizes = random.SIZES["mediround-7b"]
    tensors = random.planned(sizes, replace(sizes.language, vocabulary=32003), SEED)
    forms = {each.name.removeprefix(PEFT_PREFIX): each.form.shape for each in tensors}
    assert forms["model.layers.31.mlp.down_proj.weight"] == (4096, 14336)
    assert forms["model.layers.31.self_attn.v_proj.base_layer.weight"] == (1024, 4096)
    assert forms["lm_head.weight"] == (32003, 4096)
    assert forms["model.vision_tower.vision_tower.vision_model.encoder.layers.23.mlp.fc1.weight"] == (4096, 1024)
    assert forms["model.visual_model.image_encoder.blocks.11.mlp.lin1.weight"] == (3072, 768)
    assert sum(each.form.elements for each in tensors) == pytest.approx(7.69e9, rel=0.01)


def test_a_lacking_tokenizer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tokenizer, "find_spec", lambda _name: None)
    assert main(["random", "--size", "mediround-7b", "--out", str(tmp_path / "out")]) == 2
    assert "mistral_common" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_positions_are_not_zero(made: Made) -> None:
    for name, value in made.checkpoint.image_encoder.items():
        if "pos" in name:
            assert float(value.float().std()) == pytest.approx(0.02, rel=0.2), name


def test_the_seed_decides(made: Made, tmp_path: Path) -> None:
    for seed, same in ((SEED, True), (SEED + 1, False)):
        write_random("tiny", seed, tmp_path)
        bytes_equal = (tmp_path / "pytorch_model.bin").read_bytes() == (
            made.directory / "pytorch_model.bin"
        ).read_bytes()
        assert bytes_equal is same


@pytest.mark.parametrize(
    "text",
    [
        "Segment the liver.",
        "two  spaces",
        " lead",
        "tail ",
        "a\nb\tc",
        "[SEG] </s> <image> <s>",
        "éß漢字\u202e",
        "",
    ],
)
def test_any_text_survives(text: str) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer())
    ids = pieces.encode(text)
    assert pieces.decode(ids) == text
    assert not {pieces.bos_id(), pieces.eos_id(), pieces.unk_id()} & set(ids)


def test_a_source_error_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(tmp_path)
    code = main(
        ["bundle", "--checkpoint", where, "--base", where, "--clip", where, "--out", str(tmp_path / "out")]
    )
    assert code == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
