"""The random checkpoint is in the published layout, and its tokenizer loses no text."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import torch

from exporters.__main__ import main
from exporters.checkpoint.published import GAUSSIAN, LORA_A, PEFT_PREFIX, SAM, read_tensors
from exporters.checkpoint.random import write_random
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
