"""SAM's image encoder: a plain ViT with window attention, some global blocks, and a neck.

Knows SAM's state-dict names (without the leading ``image_encoder.``); every size is read from the tensors'
shapes. Does not know pixels' range or padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.modules.norm import LayerNorm2d

EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Block:
    """Sizes of one block. ``window`` is the side of its attention's square, in patches."""

    width: int
    head_dim: int
    hidden: int
    window: int


@dataclass(frozen=True, slots=True)
class VitSizes:
    patch: int
    grid: int
    """Patches a side of the padded image."""
    blocks: tuple[Block, ...]


def sizes_of(state: Mapping[str, Tensor]) -> VitSizes:
    """The sizes of an image encoder's state dict, from its shapes: 27 relative positions make a window of 14."""
    blocks: list[Block] = []
    while (prefix := f"blocks.{len(blocks)}.") + "norm1.weight" in state:
        positions, head_dim = state[prefix + "attn.rel_pos_h"].shape
        hidden, width = state[prefix + "mlp.lin1.weight"].shape
        blocks.append(Block(width, head_dim, hidden, (positions + 1) // 2))
    return VitSizes(state["patch_embed.proj.weight"].shape[-1], state["pos_embed"].shape[1], tuple(blocks))


class PatchEmbed(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, S, S] → [B, S / patch, S / patch, C]."""
        return self.proj(x).permute(0, 2, 3, 1)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class Attention(nn.Module):
    """Attention over a square with learned relative positions, one table for rows and one for columns.

    A position's share of a weight, ``q · rows[y - y'] + q · columns[x - x']``, is folded into the product: a query
    goes on with its products with every distance of its row and of its column, a key with zeros but for two ones,
    at its own row and column. So nothing is added to an array of all weights, and one operator does the rest.
    """

    offsets: Tensor
    ones: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        side = block.window
        self.heads = block.width // block.head_dim
        self.qkv = nn.Linear(block.width, 3 * block.width)
        self.proj = nn.Linear(block.width, block.width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, block.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, block.head_dim))
        steps = torch.arange(side)
        self.register_buffer("offsets", steps[:, None] - steps + side - 1, persistent=False)
        self.register_buffer("ones", torch.eye(side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, side, side, C] → the same."""
        side = x.shape[1]
        split = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # [B, h, N, d] each
        mixed = self.mix(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(mixed).unflatten(1, (side, side))  # type: ignore[no-any-return]  # nn.Module.__call__

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, h, N, d] each → the values' mixture [B, h, N, d]; N is the square, row by row."""
        by_row, by_column = (each.flatten(2, 3) for each in self.by_distance(q))  # [B, h, N, side] each
        queries = torch.cat([q * q.shape[-1] ** -0.5, by_row, by_column], dim=-1)
        side = self.ones.shape[0]
        rows, columns = (self.ones.unsqueeze(axis).expand(side, side, side) for axis in (1, 0))
        cells = torch.cat([rows, columns], dim=-1).flatten(0, 1)  # [N, 2 side]
        keys = torch.cat([k, cells.expand(*k.shape[:2], -1, -1)], dim=-1)
        return self.fused(queries, keys, v)

    def fused(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Softmax of queries and keys [B, h, N, e], times values [B, h, N, d]."""
        return F.scaled_dot_product_attention(queries, keys, values, scale=1.0)

    def by_distance(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Of queries [B, h, N, d], their products with rows' distances [B, h, y, x, y'] and columns' [.., x']."""
        side = self.ones.shape[0]
        square = torch.unflatten(q, 2, (side, side))  # [B, h, y, x, d]; a table: [y, y', d]
        by_row = square @ self._table(self.rel_pos_h).transpose(-1, -2)
        by_column = square.transpose(2, 3) @ self._table(self.rel_pos_w).transpose(-1, -2)
        return by_row, by_column.transpose(2, 3)

    def _table(self, positions: Tensor) -> Tensor:
        """[2 side - 1, d] → [side, side, d]: entry (a, b) is that of distance a - b."""
        return torch.unflatten(positions.index_select(0, self.offsets.flatten()), 0, self.offsets.shape)


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(F.gelu(self.lin1(x)))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class EncoderBlock(nn.Module):
    """[B, grid, grid, C] → the same."""

    def __init__(self, block: Block, grid: int) -> None:
        super().__init__()
        self.window = block.window
        self.windowed = block.window < grid
        self.norm1 = nn.LayerNorm(block.width, EPSILON)
        self.attn = Attention(block)
        self.norm2 = nn.LayerNorm(block.width, EPSILON)
        self.mlp = MLP(block.width, block.hidden)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm1(x)
        x = x + (self._windows(normal) if self.windowed else self.attn(normal))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def _windows(self, x: Tensor) -> Tensor:
        """Attention in each window; the padding at right and bottom takes part, as in training."""
        batch, height, width, channels = x.shape
        side = self.window
        down, right = -height % side, -width % side
        x = F.pad(x, (0, 0, 0, right, 0, down))
        rows, columns = (height + down) // side, (width + right) // side
        x = x.view(batch, rows, side, columns, side, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, side, side, channels))
        x = x.view(batch, rows, columns, side, side, channels).transpose(2, 3)
        return x.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]


class SamViT(nn.Module):
    """Normalised pixels [B, 3, S, S] → embedding [B, 256, S / 16, S / 16]."""

    def __init__(self, sizes: VitSizes) -> None:
        super().__init__()
        width = sizes.blocks[0].width
        self.side, self.grid = sizes.patch * sizes.grid, sizes.grid
        self.patch_embed = PatchEmbed(sizes.patch, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, sizes.grid, sizes.grid, width))
        self.blocks = nn.ModuleList(EncoderBlock(block, sizes.grid) for block in sizes.blocks)
        self.neck = nn.Sequential(
            nn.Conv2d(width, 256, 1, bias=False),
            LayerNorm2d(256),
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            LayerNorm2d(256),
        )

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> SamViT:
        """The network of a state dict (names as in this class), loaded strictly, in ``eval()``."""
        model = cls(sizes_of(state))
        model.load_state_dict(dict(state), strict=True)
        return model.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
