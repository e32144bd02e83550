"""Sentencepiece vocabularies for random checkpoints: a small one, trained on the spot, and the published model's.

Knows the settings under which any text survives encoding: bytes for what no piece covers, white space kept; and
which package has the published one. Does not know the added tokens, which stand after this vocabulary.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import sentencepiece

from exporters.errors import MissingPackageError

SENTENCES = (
    "[INST] Segment the liver in the medical image. [/INST] It is the liver .",
    "[INST] Segment the tumor in it. [/INST] Sure, .",
    "[INST] Find the structure to the left of the previous output. [/INST] The segmentation output is .",
    "[INST] Where is the left kidney? [/INST] It is the left kidney .",
    "[INST] Outline the right lung and the spleen. [/INST] This part is segmented: .",
    "[INST] Segment the same structure on the other side. [/INST] It is the right kidney .",
    "[INST] Which organ encloses the mask from round 1? [/INST] It is the abdomen .",
)


def train_tokenizer(sentences: Iterable[str] = SENTENCES, pieces: int = 400) -> bytes:
    """A sentencepiece model (BPE, unk 0, bos 1, eos 2, then 256 bytes) as the bytes of its file.

    Args:
        pieces: wanted size, at least 300; it becomes smaller when the sentences do not yield as many.
    """
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=written,
        model_type="bpe",
        vocab_size=pieces,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


def published_tokenizer() -> bytes:
    """Mistral's of 32000 pieces, which the published model was trained with, as the bytes of its file.

    Raises:
        MissingPackageError: the package that has it is not installed.
    """
    package = find_spec("mistral_common")
    file = Path(package.origin or "").parent / "data" / "tokenizer.model.v1" if package else None
    if file is None or not file.is_file():
        raise MissingPackageError(
            "mistral_common, which has the published model's tokenizer, is not installed: it comes with vLLM (in "
            "the repository, make env-vllm), or pip install mistral_common."
        )
    return file.read_bytes()
