"""Pixels where `Dinosaur` expects frozen tokens: patches, the CNN that reads them, and a decoder that paints them.

Introduced in notebooks/ex_comparison.ipynb.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from lib.models.feature_decoders import ConvDecoder, Decoded

SIZE, PATCH = 224, 8  # px: side of a picture and of a patch


class Patches:
    """Pictures where a model expects tokens: `batch` gives `[B, N, 192]`, the colours of the 8 x 8 px of each patch.

    Raises:
        ValueError: the frames of `video` `[S, T, H, W, 3]` are not square.
    """

    def __init__(self, video: np.ndarray):
        if video.shape[2] != video.shape[3]:
            raise ValueError(f"frames of {video.shape[2]} x {video.shape[3]} px; crop or pad them to squares")
        colours = torch.from_numpy(video).flatten(0, 1).permute(0, 3, 1, 2)
        self._pictures = torch.cat([interpolate(c, (SIZE, SIZE), mode="bicubic") for c in colours.split(64)])
        self.std, self.mean = (v.repeat_interleave(PATCH**2) for v in torch.std_mean(colours / 255, (0, 2, 3)))

    def batch(self, index: Tensor | slice) -> Tensor:
        return pixel_unshuffle(self._pictures[index] / 255, PATCH).flatten(2).transpose(1, 2)


class Convolutions(nn.Module):
    """In place of a `Dinosaur`'s projection: patches `[B, N, 192]` to the inputs of Slot Attention `[B, N, D]`.

    Three 5x5 convolutions with stride 2 and one without, of colours and coordinates, as the original's.
    """

    def __init__(self, channels: int, slot_dim: int, glorot: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, stride in ((5, 2), (channels, 2), (channels, 2), (channels, 1)):
            layers += [nn.Conv2d(inputs, channels, 5, stride, 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.to_inputs = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, slot_dim))
        for layer in self.modules():
            if glorot and isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, patches: Tensor) -> Tensor:
        pictures = pixel_shuffle(patches.transpose(1, 2).unflatten(2, (SIZE // PATCH, SIZE // PATCH)), PATCH)
        line = torch.linspace(-1, 1, SIZE, device=patches.device)
        places = torch.stack(torch.meshgrid(line, line, indexing="xy")).expand(len(pictures), -1, -1, -1)
        return self.to_inputs(self.layers(torch.cat([pictures, places], 1)).flatten(2).transpose(1, 2))


class Painter(ConvDecoder):
    """The original's decoder with few channels, whose mixture a linear layer turns into the colours of patches."""

    def __init__(self, slot_dim: int, channels: int):
        super().__init__(slot_dim, channels)
        self.colours = nn.Linear(channels, 3 * PATCH**2)

    def forward(self, *args: Any) -> Decoded:
        found = super().forward(*args)
        return found._replace(reconstruction=self.colours(found.reconstruction))
