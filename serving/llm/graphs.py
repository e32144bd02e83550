"""The language half's two graphs: the vision tower and the decoder with its past.

Knows tensor names and shapes. Does not know prompts' rules, caches or threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.bundle import Bundle, Manifest
from serving.domain import F32, TowerImage
from serving.llm.expansion import CROP_ROW, Expanded, Media
from serving.llm.prefix import Prefix, TokenKey
from serving.runtime.graph import Array, Graph, Interface, TensorSpec
from serving.runtime.record import RuntimeRecord
from serving.runtime.worker import Stop


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run of the decoder yields at F positions, and the past that it leaves."""

    features: F32
    """(F, 256)"""
    logits: F32
    """(F, vocabulary)"""
    past: Prefix


LARGEST_TOWER_RUN = 4
"""Images that go through the tower in one run: onnxruntime keeps for good the memory that its largest run took."""


class LanguageGraphs:
    """Runs the graphs; blocks."""

    def __init__(self, bundle: Bundle, threads: int, providers: Sequence[str]) -> None:
        """Raises BundleError when a graph is missing or not as the manifest says; ProviderError as ``Graph``."""
        self._manifest = manifest = bundle.manifest
        tower, decoder = bundle.language_graphs()
        self._tower = Graph(tower, tower_interface(manifest), threads, providers)
        self._decoder = Graph(decoder, decoder_interface(manifest), threads, providers)
        language = manifest.language
        self.tower_images = 0
        """That went through the tower so far."""
        nothing = np.zeros((language.layers, 1, language.kv_heads, 0, language.head_dim), np.float32)
        self.empty = Prefix((), nothing, nothing)
        """The past of a prompt of which nothing is held."""

    @property
    def description(self) -> str:
        return self._decoder.description

    @property
    def record(self) -> RuntimeRecord:
        return self._decoder.record

    def read(self, expanded: Expanded, past: Prefix, positions: Sequence[int], stop: Stop) -> Reading:
        """Read all of ``expanded`` that ``past`` does not hold.

        ``positions`` are those in ``expanded`` to yield something at: at least one, none of them in ``past``.
        """
        start = len(past)
        feeds: dict[str, Array] = {
            "input_ids": expanded.ids[np.newaxis, start:],
            "media_tokens": self._embed(expanded.pictures, expanded.media.since(start), stop),
            "boxes": _at_least_one(expanded.boxes_since(start)),
            "feature_positions": np.array(positions, np.int64) - start,
        }
        return self._run(feeds, expanded.tokens[start:], past, stop)

    def read_generated(self, token: int, past: Prefix, stop: Stop) -> Reading:
        """Read one token of text, and yield something at it."""
        feeds: dict[str, Array] = {
            "input_ids": np.array([[token]], np.int64),
            "media_tokens": np.zeros((1, self._manifest.language.hidden), np.float32),
            "boxes": np.zeros((1, 4), np.float32),
            "feature_positions": np.zeros(1, np.int64),
        }
        return self._run(feeds, (token,), past, stop)

    def _run(self, feeds: dict[str, Array], contents: tuple[TokenKey, ...], past: Prefix, stop: Stop) -> Reading:
        pasts: dict[str, Array] = {"past_keys": past.keys, "past_values": past.values}
        features, logits, keys, values = self._decoder.run(feeds | pasts, stop)
        return Reading(features, logits, Prefix((*past.tokens, *contents), keys, values))

    def _embed(self, pictures: Sequence[TowerImage], media: Media, stop: Stop) -> F32:
        """Embeddings (M, hidden) of ``media``; each distinct picture goes through the tower once."""
        distinct = {pictures[index].digest: pictures[index] for index in np.unique(media.pictures)}
        embedded = np.zeros((media.rows.size, self._manifest.language.hidden), np.float32)
        if not distinct:
            return _at_least_one(embedded)
        pixels = np.stack([picture.normalised(self._manifest.tower) for picture in distinct.values()])
        parts = [
            self._tower.run({"pixels": pixels[start : start + LARGEST_TOWER_RUN]}, stop)
            for start in range(0, len(pixels), LARGEST_TOWER_RUN)
        ]
        patch_tokens, crop_token = (
            np.concatenate(each) for each in zip(*parts, strict=True)
        )  # (N, n, hidden), (N, hidden)
        self.tower_images += len(distinct)
        order = {digest: row for row, digest in enumerate(distinct)}
        pictured = np.array([order[pictures[index].digest] for index in media.pictures])  # (M,) rows of the N
        is_crop = media.rows == CROP_ROW
        embedded[is_crop] = crop_token[pictured[is_crop]]
        embedded[~is_crop] = patch_tokens[pictured[~is_crop], media.rows[~is_crop]]
        return embedded


def _at_least_one(rows: F32) -> F32:
    """The graph wants a row even where no token takes it."""
    return rows if len(rows) else np.zeros((1, rows.shape[1]), np.float32)


def tower_interface(manifest: Manifest) -> Interface:
    side, patches, hidden = manifest.tower.side, manifest.tower.tokens, manifest.language.hidden
    return Interface(
        inputs=(TensorSpec("pixels", "float32", (None, 3, side, side)),),
        outputs=(
            TensorSpec("patch_tokens", "float32", (None, patches, hidden)),
            TensorSpec("crop_token", "float32", (None, hidden)),
        ),
    )


def decoder_interface(manifest: Manifest) -> Interface:
    language = manifest.language
    past = (language.layers, 1, language.kv_heads, None, language.head_dim)
    return Interface(
        inputs=(
            TensorSpec("input_ids", "int64", (1, None)),
            TensorSpec("media_tokens", "float32", (None, language.hidden)),
            TensorSpec("boxes", "float32", (None, 4)),
            TensorSpec("past_keys", "float32", past),
            TensorSpec("past_values", "float32", past),
            TensorSpec("feature_positions", "int64", (None,)),
        ),
        outputs=(
            TensorSpec("features", "float32", (None, language.feature)),
            TensorSpec("logits", "float32", (None, language.vocabulary)),
            TensorSpec("present_keys", "float32", past),
            TensorSpec("present_values", "float32", past),
        ),
    )
