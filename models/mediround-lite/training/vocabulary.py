"""The tokenizer and the prompt form of MediRound-Lite.

Knows how the sentencepiece model is made and that the serving path's own ``PromptTemplate`` builds every
prompt, in training too. Does not know images or networks.
"""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece

from serving.bundle import AnswerSpec, JudgeSpec, LanguageSpec, Manifest, TokenSpec
from serving.prompt import PromptTemplate
from serving.tokenizer import Tokenizer
from training import questions
from training.features import GEOMETRY

PIECES = 900
"""Rows of the base vocabulary: 3 control ids, 256 bytes, the words and word parts of the templates."""
MAX_TOKENS = 2048


def make_tokenizer(path: Path) -> None:
    """Train the sentencepiece model: any text can be read (bytes), white space is kept as it is."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(questions.corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_by_whitespace=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())


def prompt_form(path: Path) -> PromptTemplate:
    """The serving path's prompt builder for this tokenizer; the added tokens follow the base vocabulary."""
    rows = sentencepiece.SentencePieceProcessor(model_file=str(path)).get_piece_size()
    tokens = TokenSpec(bos=1, eos=2, seg=rows, bbox=rows + 1, crop=rows + 2, image=rows + 3)
    manifest = Manifest(
        name="mediround-lite",
        version="training",
        intended_use="demonstration on one head; not for clinical use",
        image=GEOMETRY.image,
        tower=GEOMETRY.tower,
        language=LanguageSpec(
            hidden=128, layers=3, kv_heads=2, head_dim=32, vocabulary=rows + 3, max_tokens=MAX_TOKENS, feature=256
        ),
        tokens=tokens,
        judge=JudgeSpec(present=True),
        answers=AnswerSpec(
            default_mode="free", template="It is [SEG].", template_trained=False, tail=questions.TAIL
        ),
        storage="fp16",
        source={},
        files={},
    )
    return PromptTemplate(manifest, Tokenizer(path, tokens))
