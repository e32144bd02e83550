"""What [SEG] features come to: the corrector's beginning, degradations, and the projection's last layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import REPOSITORY
from training import judgment, projection
from training.features import Views
from training.language import LanguageHalf
from training.overlays import committed
from training.rows import Lesson, Pictures, Script, dialogue_lesson
from training.slices import SLICES
from training.stage_b import Said
from training.targets import NAMES
from training.vocabulary import prompt_form

LITE = REPOSITORY / "models" / "mediround-lite"


def test_the_corrector_starts_at_identity() -> None:
    features = 3 * torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(judgment.identity_corrector()(features), features, atol=1e-5)


def test_the_corrector_is_measured_on_kinds_that_it_never_met() -> None:
    assert not set(judgment.SORTS) & set(judgment.UNSEEN_SORTS)
    tokens = torch.randn(29, 256, generator=torch.Generator().manual_seed(1))
    for sort in (*judgment.SORTS, *judgment.UNSEEN_SORTS):
        worse = judgment.degraded(tokens, tokens, sort, torch.Generator().manual_seed(2))
        assert worse.shape == tokens.shape
        assert torch.allclose(worse, tokens, atol=0.06) == (sort == "clean")


@pytest.fixture(scope="module")
def script() -> Script:
    return Script(prompt_form(LITE / "tokenizer.model"))


@pytest.fixture
def half(script: Script) -> LanguageHalf:
    """The bundled language half."""
    stored = {name: value.float() for name, value in load_file(LITE / "vllm/model.safetensors").items()}
    found = LanguageHalf(script.form.manifest.language.vocabulary).eval()
    words, seen = {}, {}
    for name, value in stored.items():
        if name.startswith(("vision_tower.", "mm_projector.")):
            seen[name.removeprefix("vision_tower.")] = value
        else:
            words[name.removeprefix("language_model.") if "language_model." in name else f"model.{name}"] = value
    found.model.load_state_dict(words)
    found.tower.load_state_dict(seen)
    return found


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """The committed slices, three times each."""
    views = [committed(z) for z in SLICES] * 3
    labels = np.stack([view.labels for view in views])
    images = np.stack([view.image for view in views])
    z = np.array([view.z for view in views], np.int32)
    not_encoded = np.zeros((0, 320, 64, 64), np.float16)
    return Pictures(Views(z, images, labels, not_encoded), np.full((len(views), 29), np.nan, np.float32))


def told(half: LanguageHalf, script: Script, lessons: list[Lesson]) -> dict[int, Tensor]:
    """Features by structure."""
    found: dict[int, list[Tensor]] = {}
    with torch.inference_mode():
        hidden, _ = half([lesson.row for lesson in lessons], script.tokens)
        for line, lesson in enumerate(lessons):
            for at, structure in lesson.segs:
                found.setdefault(structure, []).append(half.model.feature(hidden[line, at]))
    return {structure: torch.stack(features) for structure, features in found.items()}


def test_the_projection_is_solved_for_rare_structures_as_for_frequent_ones(
    half: LanguageHalf, script: Script, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "BATCHES", 5)
    random = np.random.default_rng(3)
    lessons = [dialogue_lesson(script, pictures, row, 5, random) for row in range(15)]
    right = told(half, script, lessons)
    class_tokens, direction = torch.zeros(29, 256), torch.eye(256)[0]
    for structure, features in right.items():
        class_tokens[structure] = features.mean(0)
    class_tokens[:, 0] = 0
    last = half.model.model.text_hidden_fcs[0][2]  # type: ignore[index]  # an nn.Sequential
    with torch.no_grad():
        last.weight[1:] = 0
    projection.solve(half, script, pictures, Said(class_tokens, direction), seed=5)
    for structure, features in told(half, script, lessons).items():
        off = (features - class_tokens[structure])[:, 1:].norm(dim=1)
        assert float(off.max()) < 0.25 * float(class_tokens[structure].norm()), NAMES[structure]
        assert torch.allclose(features[:, 0], right[structure][:, 0], atol=1e-3)  # what it carries stays
