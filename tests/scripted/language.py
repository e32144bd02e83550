"""A language engine without a model.

A feature is drawn from a hash of all that stands before it: the image, the tokens, the references. So two
ways to read a dialogue agree exactly when their prompts do, and any difference of content shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from serving.bundle import Manifest
from serving.domain import Reference, SegFeature
from serving.errors import Unavailable
from serving.llm.validation import check_prompt
from serving.ports import Completion, Prompt
from serving.runtime.record import RuntimeRecord
from tests.scripted.script import Script

Answer = tuple[tuple[int, ...], bool]
"""Token ids, and whether ``[SEG]`` follows them."""


class ScriptedLanguage:
    """A LanguageEngine. ``answer`` says what is generated; by default two tokens that depend on the prompt."""

    def __init__(
        self, manifest: Manifest, answer: Callable[[Prompt], Answer] | None = None, version: str = "1"
    ) -> None:
        self.script = Script()
        self.runtime = RuntimeRecord("scripted", version)
        self._manifest = manifest
        self._answer = answer or self._two_tokens
        self._read: dict[tuple[str, str], tuple[bytes, ...]] = {}
        self._closed = False

    @property
    def description(self) -> str:
        return "scripted/hash"

    @property
    def runtimes(self) -> tuple[RuntimeRecord, ...]:
        return (self.runtime,)

    async def complete(self, prompt: Prompt) -> Completion:
        self._check(prompt)
        async with self.script.play("complete", prompt):
            states = self._states(prompt)
            ids, segmented = self._generated(prompt)
            features = tuple(self._feature(states[position]) for position in prompt.feature_positions)
            last = _after(states[-1], *(str(token).encode() for token in ids))
            feature = self._feature(last) if segmented else None
            total = len(states) - 1 + self._manifest.tower.tokens
            return Completion(features, ids, feature, total, self._cached(prompt, states), self.runtime)

    async def close(self) -> None:
        self._closed = True

    def _check(self, prompt: Prompt) -> None:
        if self._closed:
            raise Unavailable("the engine is closed")
        check_prompt(prompt, self._manifest)

    def _states(self, prompt: Prompt) -> tuple[bytes, ...]:
        """For each token, a digest of it and all before it."""
        tokens = self._manifest.tokens
        contents: dict[int, list[bytes]] = {
            tokens.image: [prompt.image.digest.encode()],
            tokens.crop: [reference.crop.digest.encode() for reference in prompt.references],
            tokens.bbox: [_box(reference) for reference in prompt.references],
        }
        state, states = b"", []
        for token in prompt.token_ids:
            state = _after(state, contents[token].pop(0) if token in contents else str(token).encode())
            states.append(state)
        return tuple(states)

    def _generated(self, prompt: Prompt) -> Answer:
        if not prompt.max_new_tokens:
            return (), False
        ids, segmented = self._answer(prompt)
        # As in a model, the token that ends an answer counts as one of the new ones.
        if prompt.ensure_seg:
            return ids[: prompt.max_new_tokens - 1], True
        return ids[: prompt.max_new_tokens], segmented and len(ids) < prompt.max_new_tokens

    def _two_tokens(self, prompt: Prompt) -> Answer:
        reserved = set(self._manifest.tokens.model_dump().values())
        words = [token for token in range(self._manifest.language.vocabulary) if token not in reserved][:200]
        state = self._states(prompt)[-1]
        return (words[state[0] % len(words)], words[state[1] % len(words)]), True

    def _feature(self, state: bytes) -> SegFeature:
        draw = np.random.default_rng(int.from_bytes(state[:8]))
        vector = draw.standard_normal(self._manifest.language.feature, np.float32)
        return SegFeature(vector, float(-draw.random()))

    def _cached(self, prompt: Prompt, states: tuple[bytes, ...]) -> int:
        """As an engine with a prefix cache would count; nothing here depends on it."""
        name = (prompt.tenant, prompt.dialogue)
        read = self._read.get(name, ())
        self._read[name] = states
        limit = min((*prompt.feature_positions, len(states) - 1))
        common = 0
        for ours, theirs in zip(states[:limit], read, strict=False):
            if ours != theirs:
                break
            common += 1
        image = prompt.token_ids.index(self._manifest.tokens.image)
        return common - 1 + self._manifest.tower.tokens if common > image else common


def _after(state: bytes, *contents: bytes) -> bytes:
    for content in contents:
        state = hashlib.sha256(state + content).digest()
    return state


def _box(reference: Reference) -> bytes:
    return reference.box.tobytes()
