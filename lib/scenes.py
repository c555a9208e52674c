"""A split of MOVi-A and its frozen tokens under one name, and nothing read or computed before it is needed.

Introduced in notebooks/ex_dino1.ipynb.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib import ROOT, features
from lib.data.movi import MoviDataset
from lib.features import Features
from lib.models import backbones


class Split:
    """One split of MOVi-A with its tokens: S scenes of T frames. Nothing is decoded or computed before it is asked for.

    Attributes:
        name, fingerprint: of the split, and of its data and frames: `569c3cd0d8f2[::2]`.
        about: what makes its tokens what they are, see `features.describe`.
        dim: channels C of a token.
        count: number of images, S x T.
        features: the tokens, from the cache or computed once, see `features.compute`.
        video: uint8 `[S, T, H, W, 3]`.
        truth: uint8 `[S, T, H, W]`, 0 background, object i has id i + 1.
    """

    def __init__(self, dataset: MoviDataset, backbone: nn.Module, size: int, grid: int, device: str = "cpu"):
        self._dataset, self._backbone, self._size, self._device = dataset, backbone, size, device
        self.name, self.dim = dataset.split, backbone.dim
        frames, chosen = dataset.frames, ""
        if isinstance(frames, slice):
            chosen = ":".join("" if v is None else str(v) for v in (frames.start, frames.stop, frames.step))
        elif frames is not None:
            chosen = ",".join(map(str, frames))
        self.fingerprint = dataset.fingerprint + (f"[{chosen}]" if chosen else "")
        self.about = features.describe(backbone, size, grid)

    @cached_property
    def count(self) -> int:
        return len(self._dataset) * len(self._dataset[0].masks)

    @cached_property
    def features(self) -> Features:
        return features.compute(self._backbone, self._dataset, self._size, self.about["grid"], device=self._device)

    @cached_property
    def video(self) -> np.ndarray:
        return np.stack([self._dataset[i].video for i in range(len(self._dataset))])

    @cached_property
    def truth(self) -> np.ndarray:
        return np.stack([self._dataset[i].masks for i in range(len(self._dataset))])

    def images(self) -> tuple[Tensor, Tensor]:
        """All frames as `[S * T, 3, H, W]` in 0..1 and their ids `[S * T, H, W]`."""
        pictures = torch.from_numpy(self.video).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        return pictures, torch.from_numpy(self.truth).flatten(0, 1).long()


def split(
    name: str,
    grid: int,
    *,
    backbone: str = "efficientnet_lite0",
    strides: tuple[int, ...] | None = (2, 4),
    size: int = 256,
    frames: slice | tuple[int, ...] | None = None,
    root: Path | str = ROOT / "data" / "movi_a",
    device: str = "cpu",
) -> Split:
    """A split of MOVi-A with tokens on a `grid` x `grid`, from the cache or computed once; see `features.compute`.

    Introduced in notebooks/ex_dino1.ipynb.
    """
    dataset = MoviDataset(root, name, fields=("video", "segmentations"), frames=frames)
    return Split(dataset, backbones.load(backbone, strides=strides), size, grid, device)
