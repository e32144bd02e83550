"""The exported graphs in onnxruntime against the networks in torch, at sizes other than the examples'."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from benchmarks.attention.forms import Added
from exporters.checkpoint.published import files_digest
from exporters.checkpoint.random import SIZES
from exporters.modules.heads import Heads
from exporters.modules.sam_vit import SamViT
from exporters.modules.tiny_vit import TinyViT
from exporters.onnx import export
from exporters.onnx.graphs import ImageEncoderGraph, LanguageGraph, MaskDecoderGraph, VisionTowerGraph
from serving.bundle import IMAGE_ENCODER, LANGUAGE_MODEL, MASK_DECODER, VISION_TOWER, Bundle
from tests.unit.exporters.conftest import Made
from tests.unit.exporters.test_modules import TINY

Feeds = Mapping[str, Any]
GRAPHS = (IMAGE_ENCODER, MASK_DECODER, VISION_TOWER, LANGUAGE_MODEL)


@cache
def opened(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def assert_equal(path: Path, module: torch.nn.Module, feeds: Feeds, atol: float = 2e-5) -> None:
    """Every output of the graph, shape, type and values, as torch computes them."""
    actual = opened(path).run(None, dict(feeds))
    with torch.inference_mode():
        expected = module(*(torch.from_numpy(value) for value in feeds.values()))
    expected = (expected,) if isinstance(expected, torch.Tensor) else expected
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.numpy().dtype
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=atol)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def test_the_bundle_is_of_this_checkpoint(random_bundle: Bundle, made: Made) -> None:
    files = [file.path for file in made.checkpoint.files]
    assert random_bundle.manifest.source["checkpoint"] == files_digest(files)
    assert random_bundle.manifest.tokens == made.base.tokens(made.model.language.sizes)


@pytest.mark.parametrize("name", GRAPHS)
def test_default_domain_and_opset_alone(random_bundle: Bundle, name: str) -> None:
    model = onnx.load(random_bundle.path(name))
    opset = export.ATTENTION_OPSET if name == IMAGE_ENCODER else export.OPSET
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", opset)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions


@pytest.mark.parametrize(("batch", "prompts"), [(1, 1), (1, 5), (4, 1), (2, 3)])
def test_mask_decoder(
    random_bundle: Bundle, made: Made, rng: np.random.Generator, batch: int, prompts: int
) -> None:
    module = MaskDecoderGraph(made.model.heads, made.model.mask_decoder)
    features = normal(rng, batch, prompts, 256)
    scores = made.model.heads.judge(torch.from_numpy(features)).detach().numpy()
    # Some corrected, some not, none near its threshold: there torch and onnxruntime may differ.
    limits = scores + np.where(np.arange(prompts) % 2 == 0, 0.05, -0.05).astype(np.float32)
    feeds = {
        "image_embeddings": normal(rng, batch, 256, 64, 64),
        "seg_features": features,
        "threshold": limits.astype(np.float32),
    }
    assert_equal(random_bundle.path(MASK_DECODER), module, feeds, atol=1e-4)


@pytest.mark.parametrize(("limit", "corrected"), [(-1.0, False), (1.0, True)])
def test_no_threshold_and_every_threshold(
    random_bundle: Bundle, rng: np.random.Generator, limit: float, corrected: bool
) -> None:
    features = normal(rng, 1, 2, 256)
    feeds = {
        "image_embeddings": normal(rng, 1, 256, 64, 64),
        "seg_features": features,
        "threshold": np.full((1, 2), limit, np.float32),
    }
    _, _, _, flags, decoded = opened(random_bundle.path(MASK_DECODER)).run(None, feeds)
    assert flags.tolist() == [[corrected, corrected]]
    assert np.array_equal(decoded, features) is not corrected


@pytest.mark.parametrize("images", [1, 3])
def test_vision_tower(random_bundle: Bundle, made: Made, rng: np.random.Generator, images: int) -> None:
    side = made.clip.sizes.side
    feeds = {"pixels": normal(rng, images, 3, side, side)}
    assert_equal(random_bundle.path(VISION_TOWER), VisionTowerGraph(made.model.tower), feeds)


@pytest.mark.parametrize("valid", [(700, 1024), (1024, 300)])
def test_image_encoder(
    random_bundle: Bundle, made: Made, rng: np.random.Generator, valid: tuple[int, int]
) -> None:
    coarse = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    feeds = {
        "image_u8": coarse.repeat(32, axis=1).repeat(32, axis=2),
        "valid_hw": np.array([valid], np.int32),
    }
    assert_equal(random_bundle.path(IMAGE_ENCODER), ImageEncoderGraph(made.model.image_encoder), feeds, atol=1e-4)


@pytest.mark.parametrize("bundle", ["random_bundle", "vit_b_bundle"])
def test_attention_is_one_operator(request: pytest.FixtureRequest, bundle: str) -> None:
    """In every block, and nothing else makes an array of all pairs of a global block's cells."""
    graph = ir.load(request.getfixturevalue(bundle).path(IMAGE_ENCODER)).graph
    attention = [node for node in graph if node.op_type == "Attention"]
    assert [node.name for node in graph if node.op_type == "Softmax"] == []
    assert len(attention) == {"random_bundle": 2, "vit_b_bundle": 12}[bundle]
    for node in attention:
        assert len(node.inputs) == 3, "a mask would be that array"
        assert len(node.outputs) == 1, "TensorRT takes no other"
    lengths = [math.prod(d for d in v.shape or () if isinstance(d, int)) for node in graph for v in node.outputs]
    assert max(lengths) < 64**4


@pytest.mark.parametrize("valid", [(700, 1024), (1024, 300)])
def test_folded_positions_are_the_added_ones(made: Made, rng: np.random.Generator, valid: tuple[int, int]) -> None:
    """The whole encoder on images that are not square, in torch."""
    folded = made.model.image_encoder
    assert isinstance(folded, SamViT)
    added = copy.deepcopy(folded)
    for block, size in zip(added.blocks, SIZES["tiny"].image.blocks, strict=True):
        weights = block.attn.state_dict()
        assert weights["rel_pos_h"].std() > 0.01, "zeros would hide a mistake"
        block.attn = Added(size)
        block.attn.load_state_dict(weights)
    pixels = torch.from_numpy(rng.integers(0, 256, (1, 1024, 1024, 3), dtype=np.uint8))
    with torch.inference_mode():
        results = [ImageEncoderGraph(each)(pixels, torch.tensor([valid])) for each in (folded, added)]
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_an_encode_at_the_published_size_fits_beside_it(vit_b_bundle: Bundle, tmp_path: Path) -> None:
    """One image in a process of its own, in onnxruntime: within 3 GB (3.9 where positions are added)."""
    command = [sys.executable, "-m", "benchmarks.attention.encode", str(vit_b_bundle.path(IMAGE_ENCODER))]
    command += ["onnxruntime", "2", "1", str(tmp_path / "embedding.npy")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["peak_bytes"] < 3e9
    assert np.isfinite(np.load(tmp_path / "embedding.npy")).all()


def language_feeds(made: Made, rng: np.random.Generator, ids: list[int], past: int, positions: list[int]) -> Feeds:
    sizes, tokens = made.model.language.sizes, made.base.tokens(made.model.language.sizes)
    media = sum(token in {tokens.image, tokens.crop} for token in ids)
    cache_shape = (sizes.layers, 1, sizes.kv_heads, past, sizes.head_dim)
    return {
        "input_ids": np.array([ids], np.int64),
        "media_tokens": normal(rng, max(1, media), sizes.hidden),
        "boxes": rng.random((max(1, ids.count(tokens.bbox)), 4), dtype=np.float32),
        "past_keys": normal(rng, *cache_shape),
        "past_values": normal(rng, *cache_shape),
        "feature_positions": np.array(positions, np.int64),
    }


@pytest.mark.parametrize("past", [0, 1, 23])
@pytest.mark.parametrize("spelled", ["t", "c", "b", "tt", "tiiiittcbtt", "cbttcbtcbttt", "i" * 64 + "t" * 20])
def test_language_model(
    random_bundle: Bundle, made: Made, rng: np.random.Generator, past: int, spelled: str
) -> None:
    """Text, image, crop and box tokens in any order, with and without a past; read at the end and before."""
    tokens = made.base.tokens(made.model.language.sizes)
    special = {"i": tokens.image, "c": tokens.crop, "b": tokens.bbox}
    positions = sorted({len(spelled) - 1, len(spelled) // 2}, reverse=True)
    ids = [special.get(letter, 5 + index) for index, letter in enumerate(spelled)]
    feeds = language_feeds(made, rng, ids, past, positions)
    assert_equal(random_bundle.path(LANGUAGE_MODEL), LanguageGraph(made.model.language, tokens), feeds, atol=1e-4)


def test_media_and_boxes_replace_embeddings_in_order(made: Made, rng: np.random.Generator) -> None:
    """Against embeddings placed by hand."""
    language = made.model.language
    tokens = made.base.tokens(language.sizes)
    ids = [1, tokens.image, tokens.image, 9, tokens.crop, tokens.bbox, 8, tokens.crop, tokens.bbox]
    feeds = {name: torch.from_numpy(value) for name, value in language_feeds(made, rng, ids, 0, [8]).items()}
    table = language.model.embed_tokens.weight
    media, boxes = feeds["media_tokens"], language.encode_box(feeds["boxes"])
    by_hand = [table[1], media[0], media[1], table[9], media[2], boxes[0], table[8], media[3], boxes[1]]
    hidden, *_ = language(torch.stack(by_hand)[None])
    features, logits, *_ = LanguageGraph(language, tokens)(*feeds.values())
    torch.testing.assert_close(features, language.feature(hidden[:, -1]))
    torch.testing.assert_close(logits, language.lm_head(hidden[:, -1]))


def test_a_graph_without_a_judge(made: Made, rng: np.random.Generator, tmp_path: Path) -> None:
    """Stage 1: the same interface; scores are NaN, and nothing is ever corrected."""
    path = tmp_path / "mask_decoder.onnx"
    module = MaskDecoderGraph(Heads(None, None), made.model.mask_decoder)
    export.export(export.mask_decoder(module, 64), path, "fp16")
    features = normal(rng, 1, 2, 256)
    feeds = {
        "image_embeddings": normal(rng, 1, 256, 64, 64),
        "seg_features": features,
        "threshold": np.ones((1, 2), np.float32),
    }
    assert_equal(path, module, feeds, atol=1e-4)
    _, _, score, corrected, decoded = opened(path).run(None, feeds)
    assert np.isnan(score).all()
    assert not corrected.any()
    assert np.array_equal(decoded, features)


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImageEncoderGraph]:
    torch.manual_seed(0)
    network = TinyViT(TINY).eval()
    for parameter in network.parameters():
        parameter.data.copy_(parameter.half().float())
    module = ImageEncoderGraph(network)
    path = tmp_path_factory.mktemp("tiny_vit") / "image_encoder.onnx"
    export.export(export.image_encoder(module), path, "fp16")
    return path, module


@pytest.mark.parametrize("batch", [1, 3])
def test_tiny_vit_encoder(
    tiny_encoder: tuple[Path, ImageEncoderGraph], rng: np.random.Generator, batch: int
) -> None:
    """The other family: another side, another normalisation, the same interface."""
    path, module = tiny_encoder
    feeds = {
        "image_u8": rng.integers(0, 256, (batch, 256, 256, 3), dtype=np.uint8),
        "valid_hw": np.array([[256, 100], [180, 256], [256, 256]][:batch], np.int32),
    }
    assert_equal(path, module, feeds, atol=1e-4)


def test_half_storage_computes_the_same_bits(random_bundle: Bundle, made: Made, tmp_path: Path) -> None:
    """Random weights are float16 values already, so fp16 storage loses nothing at all."""
    path = tmp_path / "vision_tower.onnx"
    export.export(export.vision_tower(VisionTowerGraph(made.model.tower)), path, "fp16")
    full = random_bundle.path(VISION_TOWER)
    assert path.stat().st_size < 0.62 * full.stat().st_size
    side = made.clip.sizes.side
    feeds = {"pixels": normal(np.random.default_rng(0), 2, 3, side, side)}
    for halved, whole in zip(opened(path).run(None, feeds), opened(full).run(None, feeds), strict=True):
        assert np.array_equal(halved, whole)
