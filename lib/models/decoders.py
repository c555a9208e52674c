"""Decoders from slots to pixels: every slot paints a picture and a mask, the masks mix the pictures."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Painting(NamedTuple):
    """What a decoder returns; `H` and `W` are the size of the image."""

    reconstruction: Tensor  # [B, 3, H, W]
    masks: Tensor  # [B, K, H, W], sums to one over K
    pictures: Tensor  # [B, K, 3, H, W], what each slot would paint everywhere


class PositionEmbedding(nn.Module):
    """Add a learned linear map of the four distances to the borders (Locatello et al. 2020, appendix E.2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.project = nn.Linear(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same shape; a pixel's coordinates run from 0 to 1, corner to corner."""
        rows = torch.linspace(0, 1, x.shape[-2], device=x.device)
        columns = torch.linspace(0, 1, x.shape[-1], device=x.device)
        y, x_ = torch.meshgrid(rows, columns, indexing="ij")
        grid = torch.stack([y, x_, 1 - y, 1 - x_], dim=-1)  # [H, W, 4]
        return x + self.project(grid).permute(2, 0, 1)


class SpatialBroadcastDecoder(nn.Module):
    """Copy each slot to every cell of a small grid, add position, convolve up to the image (Watters et al. 2019).

    Introduced in notebooks/ex_slot1.ipynb.

    Args:
        slot_dim: channels D of a slot.
        size: side of the image in pixels; `size / grid` must be a power of two.
        grid: side of the grid that slots are copied to.
        channels: width of the convolutions.
    """

    def __init__(self, slot_dim: int, size: int, grid: int = 8, channels: int = 32):
        super().__init__()
        doublings = (size // grid).bit_length() - 1
        if grid * 2**doublings != size:
            raise ValueError(f"an image of {size} px cannot be reached from a grid of {grid} by doubling")
        self.grid = grid
        self.position = PositionEmbedding(slot_dim)
        layers: list[nn.Module] = []
        width = slot_dim
        for _ in range(doublings):
            layers += [nn.ConvTranspose2d(width, channels, 5, stride=2, padding=2, output_padding=1), nn.ReLU()]
            width = channels
        layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 4, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, slots: Tensor, temperature: float = 1.0) -> Painting:
        """`[B, K, D]` to a `Painting`; the temperature divides the mask logits before the softmax over slots."""
        batch, num_slots, _ = slots.shape
        x = slots.flatten(0, 1)[:, :, None, None].expand(-1, -1, self.grid, self.grid)
        x = self.layers(self.position(x)).unflatten(0, (batch, num_slots))  # [B, K, 4, H, W]
        pictures, logits = x[:, :, :3], x[:, :, 3]
        masks = (logits.float() / temperature).softmax(dim=1)  # float32: 1/0.01 amplifies bfloat16's rounding
        return Painting((masks[:, :, None] * pictures).sum(1), masks, pictures)
