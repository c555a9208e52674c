"""Decoders from slots to frozen tokens: every slot predicts tokens and a mask, the masks mix the predictions.

Introduced in notebooks/ex_dino1.ipynb; compared in notebooks/ex_dino2.ipynb.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lib.models.slot_attention import in_frame

Grid = tuple[int, int]
Given = Tensor | None
OCTAVES = 4
#: Beyond so many widths a decoder in a slot's frame sees no difference.
HORIZON = 9.0


class Decoded(NamedTuple):
    """What a decoder to tokens returns, at P positions."""

    reconstruction: Tensor  # [B, P, C]
    masks: Tensor  # [B, K, P], sums to one over K


def positions_of(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Column and row of every cell's centre, row-major, `[N, 2]` in -1..1: the same place at every resolution."""
    rows, columns = ((torch.arange(n, device=device) + 0.5) / n * 2 - 1 for n in grid)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def waves(positions: Tensor) -> Tensor:
    """Places `[..., 2]` with sines and cosines of four octaves, `[..., 18]`: continuous, so any grid can be asked."""
    angles = [positions * math.pi * 2.0**i / 2 for i in range(OCTAVES)]
    return torch.cat([positions, *(f(a) for a in angles for f in (torch.sin, torch.cos))], dim=-1)


class MLPDecoder(nn.Module):
    """The same MLP at every position (Seitzer et al. 2023, DINOSAUR): learned position plus slot to token and mask.

    Positions are independent of each other, so a random subset of them is an unbiased and cheaper loss.

    Args:
        slot_dim: channels D of a slot.
        feature_dim: channels C of a token.
        hidden_dim, layers: of the MLP; the published one has three of 1,024.
        frames: see positions also from each slot's own frame; slots must come with frames then.
    """

    def __init__(self, slot_dim: int, feature_dim: int, hidden_dim: int = 192, layers: int = 3, frames: bool = False):
        super().__init__()
        self.frames = frames
        width = 2 + 4 * OCTAVES
        self.position = nn.Linear(width * (1 + frames), hidden_dim)
        self.slot = nn.Linear(slot_dim, hidden_dim)
        hidden = [m for _ in range(layers - 1) for m in (nn.ReLU(), nn.Linear(hidden_dim, hidden_dim))]
        self.layers = nn.Sequential(*hidden, nn.ReLU(), nn.Linear(hidden_dim, feature_dim + 1))

    def forward(
        self, slots: Tensor, grid: Grid, temperature: float = 1.0, frames: Given = None, positions: Given = None
    ) -> Decoded:
        """Slots `[B, K, D]` to `Decoded` at all N cells of the grid, or at the `positions` `[B, P, 2]` alone."""
        places = positions_of(grid, slots.device)[None] if positions is None else positions  # [1 or B, P, 2]
        seen = waves(places)[:, None]  # [1 or B, 1, P, 18]
        if self.frames:
            near = waves((in_frame(places, frames) / 3).clamp(-HORIZON / 3, HORIZON / 3))  # [B, K, P, 18]
            seen = torch.cat([seen.expand(near.shape), near], dim=-1)
        out = self.layers(self.position(seen) + self.slot(slots)[:, :, None])  # [B, K, P, C + 1]
        return _mix(out, temperature)


class ConvDecoder(nn.Module):
    """The original study's: copy slots to the grid, append two coordinates, convolve 5x5, 5x5, 3x3.

    Args:
        feature_dim: channels C of a token; slots are brought to as many first.
        deep: the later two-layer map with LayerNorm in front of it; False is the first, a single linear layer.
    """

    def __init__(self, slot_dim: int, feature_dim: int, deep: bool = True):
        super().__init__()
        deep_map = nn.Sequential(
            nn.LayerNorm(slot_dim), nn.Linear(slot_dim, 2 * slot_dim), nn.ReLU(), nn.Linear(2 * slot_dim, feature_dim)
        )
        self.expand = deep_map if deep else nn.Linear(slot_dim, feature_dim)
        self.layers = nn.Sequential(
            nn.Conv2d(feature_dim + 2, feature_dim, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(feature_dim, feature_dim, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(feature_dim, feature_dim + 1, 3, padding=1),
        )

    def forward(self, slots: Tensor, grid: Grid, temperature: float = 1.0) -> Decoded:
        """Slots `[B, K, D]` to `Decoded` on the whole grid; mask logits are clamped to ±10 after the temperature."""
        batch, num_slots, _ = slots.shape
        x = self.expand(slots).flatten(0, 1)[:, :, None, None].expand(-1, -1, *grid)
        places = positions_of(grid, slots.device).T.unflatten(1, grid).expand(len(x), -1, -1, -1)
        x = self.layers(torch.cat([x, places.to(x.dtype)], dim=1))  # [B * K, C + 1, rows, columns]
        out = x.flatten(2).transpose(1, 2).unflatten(0, (batch, num_slots))
        return _mix(out, temperature, limit=10.0)


class TransformerDecoder(nn.Module):
    """Predict each token from those before it and from the slots (Singh et al. 2022; permuted: SPOT, 2024).

    Its masks are the last layer's attention over slots, averaged over heads.

    Args:
        order: "raster", or "permuted": in training each step walks the grid in one of eight ways, chosen at random,
            so that no token can lean on its neighbours alone.
    """

    def __init__(
        self, slot_dim: int, feature_dim: int, width: int = 96, layers: int = 2, heads: int = 4, order: str = "raster"
    ):
        super().__init__()
        self.order = order
        self.token, self.slot = nn.Linear(feature_dim, width), nn.Linear(slot_dim, width)
        self.position = nn.Linear(2 + 4 * OCTAVES, width)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, feature_dim))

    def forward(self, slots: Tensor, grid: Grid, temperature: float = 1.0, target: Given = None) -> Decoded:
        """Slots `[B, K, D]` and true tokens `[B, N, C]` (teacher forcing, at evaluation too) to `Decoded`.

        Raises:
            ValueError: no target is given.
        """
        if target is None:
            raise ValueError("a transformer decoder predicts tokens from true ones: give target, [B, N, C]")
        walk = self._walk(grid).to(slots.device)
        tokens = self.token(target[:, walk])
        before = torch.cat([self.first.expand(len(tokens), -1, -1), tokens[:, :-1]], dim=1)
        x = before + self.position(waves(positions_of(grid, slots.device)))[walk]
        memory = self.slot(slots)
        for block in self.blocks:
            x, masks = block(x, memory, temperature)
        back = walk.argsort()
        return Decoded(self.out(x)[:, back], masks[:, :, back])

    def _walk(self, grid: Grid) -> Tensor:
        cells = torch.arange(grid[0] * grid[1]).view(grid)
        if self.order == "permuted" and self.training:
            way = int(torch.randint(8, ()))
            cells = cells.flip([d for d in (0, 1) if way >> d & 1])
            cells = cells.T if way & 4 else cells
        return cells.flatten()


class _Block(nn.Module):
    """Causal self-attention, attention to slots, MLP; each with LayerNorm in front and a residual."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.joined_slots = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, slots: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        q, k, v = (self._split(t) for t in self.qkv(self.norms[0](x)).chunk(3, dim=-1))
        x = x + self.joined(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        q = self._split(self.q(self.norms[1](x)))
        k, v = (self._split(t) for t in self.kv(slots).chunk(2, dim=-1))
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 / temperature).softmax(dim=-1)  # [B, heads, N, K]
        x = x + self.joined_slots((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[2](x)), weights.float().mean(1).transpose(1, 2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _mix(out: Tensor, temperature: float, limit: float | None = None) -> Decoded:
    """`[B, K, P, C + 1]` to the mixture, in float32 at least: bfloat16 would coarsen the masks' softmax."""
    out = out.float() if out.dtype in (torch.bfloat16, torch.float16) else out
    logits = out[..., -1] / temperature
    masks = (logits if limit is None else logits.clamp(-limit, limit)).softmax(dim=1)
    return Decoded((masks[..., None] * out[..., :-1]).sum(1), masks)
