"""The language half in this process, by onnxruntime.

Knows how a prompt becomes one language pass, greedy generation, and what the next round can reuse. Does not
know text, sessions or masks. All work runs in one thread of its own; the event loop only waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from serving.bundle import Bundle
from serving.domain import F32, SegFeature
from serving.errors import EngineFault
from serving.llm.expansion import Expanded, expand
from serving.llm.graphs import LanguageGraphs, Reading
from serving.llm.prefix import DialogueKey, PrefixCache
from serving.ports import Completion, Prompt
from serving.runtime.graph import CPU
from serving.runtime.record import RuntimeRecord
from serving.runtime.worker import Stop, Worker
from serving.stats import CacheStats


@dataclass(frozen=True, slots=True)
class LanguageCounts:
    """What the engine has done since it started."""

    passes: int
    """Prompts read, one run of the decoder each."""
    steps: int
    """Runs of the decoder for one generated token each."""
    computed_tokens: int
    """Of prompts; image tokens included."""
    cached_tokens: int
    """Of prompts: taken from the prefix cache instead."""
    tower_images: int
    cache_bytes: int
    """Held now."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Greedy generation's outcome."""

    token_ids: tuple[int, ...]
    segmented: SegFeature | None
    last: Reading


class OnnxLanguage:
    """A LanguageEngine. ``cache_bytes`` bounds the keys and values kept between rounds; 0 keeps none."""

    def __init__(self, bundle: Bundle, threads: int, cache_bytes: int, providers: Sequence[str] = CPU) -> None:
        """Raises BundleError, and ProviderError when the first of ``providers`` is not there."""
        self._manifest = bundle.manifest
        self._graphs = LanguageGraphs(bundle, threads, providers)
        self._record = self._graphs.record
        self._cache = PrefixCache(cache_bytes)
        self._worker = Worker("language")
        tokens = bundle.manifest.tokens
        self._never_generated = (tokens.bos, tokens.bbox, tokens.crop)
        self._passes = self._steps = self._computed = self._cached = 0

    @property
    def description(self) -> str:
        return self._graphs.description

    @property
    def runtimes(self) -> tuple[RuntimeRecord, ...]:
        return (self._record,)

    @property
    def counts(self) -> LanguageCounts:
        images, nbytes = self._graphs.tower_images, self._cache.nbytes
        return LanguageCounts(self._passes, self._steps, self._computed, self._cached, images, nbytes)

    @property
    def cache_stats(self) -> CacheStats:
        return self._cache.stats

    async def complete(self, prompt: Prompt) -> Completion:
        """One language pass, then generation if asked for. See ``LanguageEngine``.

        Raises:
            InvalidInput: too long, or placeholders that do not match the references.
            Unavailable: the engine closes.
            EngineFault: onnxruntime failed, or no token can be chosen.
        """
        return await self._worker.run(partial(self._complete, prompt))

    async def close(self) -> None:
        await self._worker.close()

    def _complete(self, prompt: Prompt, stop: Stop) -> Completion:
        expanded = expand(prompt, self._manifest)
        reading, cached = self._read((prompt.tenant, prompt.dialogue), expanded, stop)
        count = len(prompt.feature_positions)
        features = tuple(self._feature(reading, row) for row in range(count))
        answered = self._generate(reading, prompt.max_new_tokens, stop, ensure_seg=prompt.ensure_seg)
        self._cache.keep((prompt.tenant, prompt.dialogue), answered.last.past)
        return Completion(features, answered.token_ids, answered.segmented, len(expanded), cached, self._record)

    def _read(self, dialogue: DialogueKey, expanded: Expanded, stop: Stop) -> tuple[Reading, int]:
        """One pass over what the cache lacks. The last row of the reading is the prompt's last token's."""
        # A feature is read where its token is computed, so nothing is reused from the first one on.
        positions = (*expanded.feature_positions, len(expanded) - 1)
        past = self._cache.longest(dialogue, expanded.tokens, limit=positions[0]) or self._graphs.empty
        reading = self._graphs.read(expanded, past, positions, stop)
        self._passes += 1
        self._computed += len(expanded) - len(past)
        self._cached += len(past)
        return reading, len(past)

    def _generate(self, reading: Reading, limit: int, stop: Stop, *, ensure_seg: bool) -> Answered:
        """Greedily, up to ``[SEG]``, the end, or ``limit`` tokens; ``ensure_seg``: ``[SEG]`` in any case."""
        tokens = self._manifest.tokens
        generated: list[int] = []
        while len(generated) < limit:
            token = likeliest(reading.logits[-1], self._never_generated)
            if ensure_seg and (token == tokens.eos or len(generated) == limit - 1):
                token = tokens.seg
            if token == tokens.seg:
                return Answered(tuple(generated), self._feature(reading, -1), reading)
            if token == tokens.eos:
                break
            generated.append(token)
            if len(generated) < limit:
                reading = self._graphs.read_generated(token, reading.past, stop)
                self._steps += 1
        return Answered(tuple(generated), None, reading)

    def _feature(self, reading: Reading, row: int) -> SegFeature:
        probability = log_probability(reading.logits[row], self._manifest.tokens.seg)
        return SegFeature(reading.features[row], probability)


def log_probability(logits: F32, token: int) -> float:
    """Natural logarithm of the softmax of ``logits`` (V,) at ``token``."""
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def likeliest(logits: F32, never: Sequence[int]) -> int:
    """The token with the largest of ``logits`` (V,), none of ``never``.

    Raises:
        EngineFault: the logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise EngineFault("the language model's logits are not finite")
    allowed = logits.copy()
    allowed[list(never)] = -np.inf
    return int(np.argmax(allowed))
