"""The networks against plain, slow forms of what they compute."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from exporters.modules.heads import Corrector, Heads, Judge
from exporters.modules.language import LanguageModel, LanguageSizes
from exporters.modules.sam_decoder import Attention, MaskDecoder, PositionEncoding
from exporters.modules.sam_vit import Attention as SquareAttention
from exporters.modules.sam_vit import Block
from exporters.modules.tiny_vit import Stage, TinyViT, WindowAttention, stages_of
from exporters.onnx.graphs import ImageEncoderGraph

TINY = (Stage(8, 1, 0, 0, 16), Stage(16, 1, 2, 7, 32), Stage(20, 2, 2, 14, 40), Stage(24, 1, 3, 7, 48))

NEVER_USED = (
    "prompt_encoder.point_embeddings.",
    "prompt_encoder.not_a_point_embed.",
    "prompt_encoder.mask_downscaling.",
    *(f"mask_decoder.output_hypernetworks_mlps.{mask}." for mask in (1, 2, 3)),
)
"""Published parameters that a prompt of one token and a single mask never reach."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def plain_attention(layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """[N, 256] and [M, 256] → [N, 256], head by head."""
    q, k, v = layer.q_proj(q), layer.k_proj(k), layer.v_proj(v)
    width = q.shape[-1] // 8
    heads = []
    for h in range(8):
        part = slice(h * width, (h + 1) * width)
        weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), dim=-1)
        heads.append(weights @ v[:, part])
    return layer.out_proj(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("shared", [True, False])
def test_attention_between_tokens_and_pixels(shared: bool) -> None:
    layer = Attention(downsample=2)
    tokens, values = torch.randn(2, 3, 6, 256), torch.randn(2, 3, 6, 256)
    image, placed = torch.randn(2, 2, 1 if shared else 3, 50, 256).unbind()
    to_image = layer.to_image(tokens, placed, image)
    to_tokens = layer.to_tokens(placed, tokens, values)
    for b in range(2):
        for k in range(3):
            pixels, keys = (x[b, 0 if shared else k] for x in (image, placed))
            torch.testing.assert_close(to_image[b, k], plain_attention(layer, tokens[b, k], keys, pixels))
            torch.testing.assert_close(to_tokens[b, k], plain_attention(layer, keys, tokens[b, k], values[b, k]))


def test_dense_positions() -> None:
    encoding = PositionEncoding()
    dense = encoding(5, 7)
    matrix = encoding.positional_encoding_gaussian_matrix
    for row, column in ((0, 0), (2, 6), (4, 3)):
        at = torch.tensor([2 * (column + 0.5) / 7 - 1, 2 * (row + 0.5) / 5 - 1])
        angle = 2 * math.pi * (at @ matrix)
        torch.testing.assert_close(
            dense[row * 7 + column], torch.cat([angle.sin(), angle.cos()]), atol=1e-5, rtol=0
        )


def test_upscaling_is_two_transposed_convolutions() -> None:
    decoder = MaskDecoder()
    inner = decoder.mask_decoder
    x = torch.randn(2, 256, 3, 5)
    expected = inner.output_upscaling(x)  # [2, 32, 12, 20]
    cells = inner._upscale(x.flatten(2).transpose(1, 2)[:, None])  # [2, 1, 15, 4, 4, 32]
    placed = cells.view(2, 3, 5, 2, 2, 2, 2, 32).permute(0, 7, 1, 3, 5, 2, 4, 6)
    torch.testing.assert_close(placed.reshape(2, 32, 12, 20), expected)


def test_decoding_prompts_together_or_alone() -> None:
    decoder = MaskDecoder()
    images, features = torch.randn(2, 256, 8, 6), torch.randn(2, 3, 256)
    masks, iou = decoder(images, features)
    assert masks.shape == (2, 3, 32, 24)
    alone, alone_iou = decoder(images[1:], features[1:, 2:])
    torch.testing.assert_close(masks[1:, 2:], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(iou[1:, 2:], alone_iou, atol=1e-5, rtol=1e-4)


def test_the_decoder_trains() -> None:
    decoder = MaskDecoder()
    features = torch.randn(1, 2, 256, requires_grad=True)
    masks, iou = decoder(torch.randn(1, 256, 4, 4), features)
    (masks.square().mean() + iou.mean()).backward()
    assert features.grad is not None
    assert bool((features.grad.abs().sum(-1) > 0).all())
    idle = {name for name, value in decoder.named_parameters() if value.grad is None}
    assert {name for name in idle if not name.startswith(NEVER_USED)} == {
        # Adds the same to all weights of a token, which the softmax takes away.
        f"mask_decoder.transformer.{layer}.k_proj.bias"
        for layer in (
            "layers.0.cross_attn_token_to_image",
            "layers.1.cross_attn_token_to_image",
            "final_attn_token_to_image",
        )
    }


def test_corrected_exactly_at_the_threshold_and_below() -> None:
    heads = Heads(Judge(), Corrector())
    features = torch.randn(1, 3, 256)
    score = heads(features, torch.zeros(1, 3))[0]
    limits = score + torch.tensor([[0.01, -0.01, 0.0]])
    _, corrected, decoded = heads(features, limits)
    assert corrected.tolist() == [[True, False, True]]
    assert torch.equal(decoded[0, 1], features[0, 1])
    assert not torch.equal(decoded[0, 0], features[0, 0])


def test_a_judge_alone_makes_no_heads() -> None:
    with pytest.raises(ValueError, match="together"):
        Heads(Judge(), None)


@pytest.fixture
def language() -> LanguageModel:
    sizes = LanguageSizes(32, 2, 4, 2, 8, 48, 40, rope_theta=1e4, epsilon=1e-6)
    return LanguageModel(sizes).eval()


def test_a_past_changes_nothing(language: LanguageModel) -> None:
    embedded = torch.randn(1, 9, 32)
    hidden, keys, values = language(embedded)
    first, *past = language(embedded[:, :5])
    second, *present = language(embedded[:, 5:], *past)
    torch.testing.assert_close(torch.cat([first, second], dim=1), hidden, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(present[0], keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(present[1], values, atol=1e-5, rtol=1e-5)


def test_later_tokens_are_not_seen(language: LanguageModel) -> None:
    embedded = torch.randn(2, 6, 32)
    changed = embedded.clone()
    changed[:, 4:] = 0
    torch.testing.assert_close(language(changed)[0][:, :4], language(embedded)[0][:, :4])


def test_grouped_attention_equals_repeated_keys(language: LanguageModel) -> None:
    layer = language.model.layers[0].self_attn
    x = torch.randn(1, 5, 32)
    place = language._place(5, 0, x)
    nothing = language.empty_cache()[0]
    actual = layer(x, place, (nothing, nothing))[0]

    def turned(y: torch.Tensor) -> torch.Tensor:
        half = torch.cat([-y[..., 4:], y[..., :4]], dim=-1)
        return y * place.cosines + half * place.sines

    q, k, v = (p(x).view(1, 5, -1, 8).transpose(1, 2) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
    expected = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
    torch.testing.assert_close(actual, layer.o_proj(expected.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-4)


def test_rotary_angles(language: LanguageModel) -> None:
    cosines, sines = language.rotary(torch.tensor([0, 3]))
    angle = 3 / 1e4 ** (2 / 8)  # second frequency of a head of 8
    assert cosines[0].tolist() == [1.0] * 8
    assert cosines[1, 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert sines[1, 5].item() == pytest.approx(math.sin(angle), abs=1e-6)


def test_window_bias_is_looked_up_by_distance() -> None:
    attention = WindowAttention(8, 2, 3)
    torch.nn.init.normal_(attention.attention_biases)
    bias = attention.bias()
    for here in range(9):
        for there in range(9):
            distance = abs(here // 3 - there // 3) * 3 + abs(here % 3 - there % 3)
            assert torch.equal(bias[:, here, there], attention.attention_biases[:, distance])


def test_relative_positions_are_added_to_each_weight() -> None:
    """Pair by pair, as SAM's code has it: q · k / sqrt(d) + q · rows[y - y'] + q · columns[x - x']."""
    side, heads, width = 5, 2, 8
    attention = SquareAttention(Block(heads * width, width, 0, side))
    for table in (attention.rel_pos_h, attention.rel_pos_w):
        torch.nn.init.normal_(table, std=0.02)
    x = torch.randn(3, side, side, heads * width)
    q, k, v = attention.qkv(x).view(3, side, side, 3, heads, width).unbind(3)
    mixed = torch.empty(3, side, side, heads, width)
    cells = [divmod(cell, side) for cell in range(side * side)]
    for y, x_ in cells:
        weights = []
        for y2, x2 in cells:
            row, column = attention.rel_pos_h[y - y2 + side - 1], attention.rel_pos_w[x_ - x2 + side - 1]
            key = k[:, y2, x2] / math.sqrt(width) + row + column
            weights.append((q[:, y, x_] * key).sum(-1))
        shares = torch.softmax(torch.stack(weights, dim=-1), dim=-1)  # [3, heads, cells]
        mixed[:, y, x_] = (shares.unsqueeze(-1) * v.flatten(1, 2).transpose(1, 2)).sum(2)
    torch.testing.assert_close(attention(x), attention.proj(mixed.flatten(3)), atol=1e-6, rtol=1e-5)


def test_tiny_vit_is_rebuilt_from_its_shapes() -> None:
    network = TinyViT(TINY).eval()
    state = network.state_dict()
    assert stages_of(state) == TINY
    again = TinyViT.of(state)
    pixels = torch.rand(1, 3, 256, 256)
    with torch.inference_mode():
        features = again.features(pixels)
        assert features.shape == (1, 24, 64, 64)
        assert torch.equal(again.neck(features), network(pixels))


@pytest.mark.parametrize("flat", [False, True])
def test_minmax_looks_at_valid_pixels_alone(flat: bool) -> None:
    seen: list[torch.Tensor] = []
    encoder = TinyViT(TINY).eval()
    encoder.forward = lambda x: seen.append(x) or x  # type: ignore[method-assign, assignment, func-returns-value]
    pixels = torch.full((2, 256, 256, 3), 255, dtype=torch.uint8)  # 255: must not count
    pixels[0, :100, :50] = 40 if flat else torch.randint(30, 200, (100, 50, 3), dtype=torch.uint8)
    pixels[1, :256, :200] = 7
    valid = torch.tensor([[100, 50], [256, 200]], dtype=torch.int32)
    normal = ImageEncoderGraph(encoder)(pixels, valid)
    part = pixels[0, :100, :50].float()
    expected = (part - part.min()) / max(float(part.max() - part.min()), 1e-8)
    torch.testing.assert_close(normal[0, :, :100, :50].permute(1, 2, 0), expected)
    assert float(normal[0, :, 100:].abs().max()) == 0
    assert float(normal[0, :, :, 50:].abs().max()) == 0
