"""A prompt as vLLM's requests, and their answers as a completion.

vLLM samples one row a request, its last. So each ``[SEG]`` whose words are given is a request of its own that
ends just before it, and an answer to be generated is one more. All begin alike: the prefix cache makes that
beginning cheap. Where the engine reads chosen rows (``serving.llm.plugin.rows``), one request does for all of
them. Pure: does not import vLLM.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.bundle import Manifest
from serving.domain import F32, U8, Reference, SegFeature, TowerImage
from serving.llm.validation import prompt_length
from serving.ports import Completion, Prompt
from serving.runtime.record import RuntimeRecord


@dataclass(frozen=True, slots=True)
class MediaItem:
    """An array for the model, and the content that vLLM's caches know it by."""

    key: str
    values: F32 | U8
    """A box, or a picture's pixels: the model normalises them."""


@dataclass(frozen=True, slots=True)
class VllmRequest:
    """A prompt, its image not expanded, and up to ``max_tokens`` tokens after it."""

    token_ids: tuple[int, ...]
    length: int
    """Of the prompt, the image's tokens included."""
    image: tuple[MediaItem, ...]
    """One, or none where the prompt ends before its placeholder."""
    crops: tuple[MediaItem, ...]
    boxes: tuple[MediaItem, ...]
    """In the order of their placeholders."""
    salt: str
    """Prompts of different salts share nothing of the prefix cache."""
    max_tokens: int
    rows: tuple[int, ...]
    """Of the prompt, the image's tokens included, ascending: where a feature is wanted."""

    @property
    def chosen(self) -> tuple[int, ...]:
        """The rows that sampling does not see: all but the prompt's last."""
        return tuple(row for row in self.rows if row < self.length - 1)


@dataclass(frozen=True, slots=True)
class VllmAnswer:
    """To one request: n tokens, and what was read where each was sampled."""

    token_ids: tuple[int, ...]
    """The one that ended it included."""
    features: F32
    """(n, feature)"""
    log_probabilities: tuple[float, ...]
    """Of ``[SEG]``: n."""
    cached_tokens: int
    read: tuple[SegFeature | None, ...]
    """At the request's ``rows``; None where the prefix cache had the row, so that nothing computed it."""

    def feature(self, row: int) -> SegFeature:
        return SegFeature(self.features[row], self.log_probabilities[row])


def requests(prompt: Prompt, manifest: Manifest, *, chosen_rows: bool) -> list[VllmRequest]:
    """The request that generates, if any, then one for each of the prompt's ``feature_positions``.

    ``chosen_rows``: one request for everything.
    """
    cut, positions = _cutter(prompt, manifest), prompt.feature_positions
    if chosen_rows and positions:
        end = len(prompt.token_ids) if prompt.max_new_tokens else positions[-1] + 1
        return [cut(end, prompt.max_new_tokens or 1, positions)]
    generating = [cut(len(prompt.token_ids), prompt.max_new_tokens, ())] if prompt.max_new_tokens else []
    return generating + [cut(position + 1, 1, (position,)) for position in positions]


def unread(
    prompt: Prompt, manifest: Manifest, parts: Sequence[VllmRequest], answers: Sequence[VllmAnswer]
) -> list[VllmRequest]:
    """One for each feature that the answers lack, since the prefix cache had its row.

    Each computes what is behind the last whole block before it; the whole prompt again would cost more.
    """
    by_row = _features_by_row(parts, answers)
    lacking = [position for position in prompt.feature_positions if _row(prompt, manifest, position) not in by_row]
    if not lacking:
        return []
    cut = _cutter(prompt, manifest)
    return [cut(position + 1, 1, (position,)) for position in lacking]


def completion(
    prompt: Prompt,
    manifest: Manifest,
    parts: Sequence[VllmRequest],
    answers: Sequence[VllmAnswer],
    runtime: RuntimeRecord,
) -> Completion:
    """Join ``runtime``'s answers to ``requests(prompt)`` and to what was ``unread`` of it, in their order."""
    words: tuple[int, ...] = ()
    generated: SegFeature | None = None
    if prompt.max_new_tokens:
        words, generated = _generated(prompt, manifest, answers[0])
    length, by_row = prompt_length(prompt, manifest), _features_by_row(parts, answers)
    computed = sum(request.length - answer.cached_tokens for request, answer in zip(parts, answers, strict=True))
    return Completion(
        features=tuple(by_row[_row(prompt, manifest, position)] for position in prompt.feature_positions),
        token_ids=words,
        generated=generated,
        prompt_tokens=length,
        # Blocks at the requests' ends are computed more than once: what that costs is no saving.
        cached_tokens=max(0, length - computed),
        runtime=runtime,
    )


def _generated(
    prompt: Prompt, manifest: Manifest, answer: VllmAnswer
) -> tuple[tuple[int, ...], SegFeature | None]:
    """The words, and the feature at ``[SEG]`` or, with ``ensure_seg``, at the words' end."""
    last = answer.token_ids[-1]
    ended = last == manifest.tokens.eos
    if last == manifest.tokens.seg or prompt.ensure_seg:
        return answer.token_ids[:-1], answer.feature(-1)
    return (answer.token_ids[:-1] if ended else answer.token_ids), None


def _features_by_row(parts: Sequence[VllmRequest], answers: Sequence[VllmAnswer]) -> dict[int, SegFeature]:
    """By row."""
    return {
        row: feature
        for request, answer in zip(parts, answers, strict=True)
        for row, feature in zip(request.rows, answer.read, strict=True)
        if feature is not None
    }


def _row(prompt: Prompt, manifest: Manifest, position: int) -> int:
    """Where a token's row is once the image is expanded; the image's own: the last of its tokens."""
    behind = position >= prompt.token_ids.index(manifest.tokens.image)
    return position + (manifest.tower.tokens - 1) * behind


def _cutter(prompt: Prompt, manifest: Manifest) -> Callable[[int, int, Sequence[int]], VllmRequest]:
    """Makes requests of the prompt's beginnings."""
    tokens, tower = manifest.tokens, manifest.tower
    preprocessing = hashlib.sha256(tower.model_dump_json().encode()).hexdigest()[:16]

    def picture(kind: str, shown: TowerImage) -> MediaItem:
        # As an image and as a crop the same pixels become different tokens.
        return MediaItem(f"{kind}-{preprocessing}-{shown.digest}", shown.pixels)

    def box(reference: Reference) -> MediaItem:
        return MediaItem(f"bbox-{reference.box.tobytes().hex()}", reference.box)

    image = (picture("image", prompt.image),)
    crops = tuple(picture("crop", reference.crop) for reference in prompt.references)
    boxes = tuple(box(reference) for reference in prompt.references)
    salt = hashlib.sha256(prompt.tenant.encode()).hexdigest()

    def cut(length: int, max_tokens: int, positions: Sequence[int]) -> VllmRequest:
        ids = prompt.token_ids[:length]
        images = ids.count(tokens.image)
        return VllmRequest(
            token_ids=ids,
            length=len(ids) + images * (tower.tokens - 1),
            image=image[:images],
            crops=crops[: ids.count(tokens.crop)],
            boxes=boxes[: ids.count(tokens.bbox)],
            salt=salt,
            max_tokens=max_tokens,
            rows=tuple(_row(prompt, manifest, position) for position in positions),
        )

    return cut
