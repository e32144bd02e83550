"""The published tokenizer: ids of whole dialogues, spaces, newlines and all, equal those of the published code.

The golden vectors have a tokenizer of their own, too small to show it. The real one is in ``mistral_common``,
which comes with vLLM; ``tests.parity.tokenizer.record`` says how the ids were made.
"""

from __future__ import annotations

import json
import lzma
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from serving.bundle import SEG, file_digest
from serving.domain import AnswerMode, Question
from serving.prompt import PromptTemplate
from serving.tokenizer import Tokenizer
from tests.parity.tokenizer.dialogues import SPECIAL, Round, dialogues, digest
from tests.parity.tokenizer.record import IDS
from tests.unit.serving.manifests import manifest

TOKENS = {"bos": 1, "eos": 2, "seg": 32000, "bbox": 32001, "crop": 32002, "image": 32003}
MANIFEST = manifest(
    tokens=TOKENS, language=manifest().language.model_dump() | {"vocabulary": 32003, "max_tokens": 4096}
)


@pytest.fixture(scope="module")
def model() -> Path:
    found = find_spec("mistral_common")
    if found is None or found.origin is None:
        pytest.skip("mistral_common is not installed: the published tokenizer comes with vLLM (make env-vllm)")
    return Path(found.origin).parent / "data" / "tokenizer.model.v1"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads(lzma.decompress(IDS.read_bytes()))


@pytest.fixture(scope="module")
def form(model: Path) -> PromptTemplate:
    return PromptTemplate(MANIFEST, Tokenizer(model, MANIFEST.tokens))


def ids_of(form: PromptTemplate, rounds: tuple[Round, ...]) -> list[int]:
    ids: list[int] = []
    for index, each in enumerate(rounds):
        question = Question(each.question, 0 if each.refers else None, AnswerMode.FORCED, each.answer)
        turn = form.turn(question, first=index == 0)
        ids += (*turn.prompt, *turn.closing)
    return ids


def test_ids_are_those_of_the_published_tokenizer(
    form: PromptTemplate, model: Path, recorded: dict[str, Any]
) -> None:
    generated = list(dialogues())
    assert file_digest(model) == recorded["tokenizer_sha256"]
    assert digest(generated) == recorded["dialogues_sha256"], "other dialogues: record the ids again"
    assert [*recorded["added"], recorded["image"]] == [32000, 32001, 32002, 32003]
    different = [
        rounds for rounds, theirs in zip(generated, recorded["ids"], strict=True) if ids_of(form, rounds) != theirs
    ]
    assert different == []


def test_the_ids_are_few_bytes_and_of_what_they_say(recorded: dict[str, Any]) -> None:
    assert IDS.stat().st_size <= 300_000
    assert recorded["transformers"].startswith("4.57.")
    assert len(recorded["ids"]) >= 2000


@pytest.mark.parametrize("marker", SPECIAL)
def test_a_marker_that_is_typed_stays_text(form: PromptTemplate, marker: str) -> None:
    """Where the published code would read one token, serving refuses at its edge; below it the words are inert."""
    for typed in (marker, f"What is{marker}?", f" {marker}{marker} "):
        ids = form.tokenizer.encode(typed)
        assert not set(ids) & set(TOKENS.values())
        assert max(ids) < 32000
        assert form.tokenizer.decode(ids).strip() == typed.strip()
    if marker != SEG:
        turn = form.turn(
            Question(f"Segment {marker} it.", None, AnswerMode.FORCED, f"{marker} [SEG]."), first=True
        )
        inserted = [token for token in (*turn.prompt, *turn.closing) if token in TOKENS.values()]
        assert inserted == [1, 32003, 32000, 2]


def test_what_decodes_a_generated_answer_gives_its_words(form: PromptTemplate) -> None:
    for words in ("It is the left thalamus", "größte Läsion", "肝臓", "🫀"):
        assert form.tokenizer.decode(form.tokenizer.encode(words)) == words
