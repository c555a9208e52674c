"""Augmentations that move an image and its label together.

All take (tv_tensors.Image, tv_tensors.Mask) and move both with one draw, from torch's global generator. Labels are
resized to the nearest pixel and filled with 255, never with a class. Introduced in notebooks/streethazards.ipynb.
"""

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

VOID = 255  # of labels; images are filled with 0
FILL = {tv_tensors.Mask: VOID, "others": 0}


class Resize(v2.Transform):
    """Resize to `size` = (height, width) exactly; a size of another shape squashes. The only transform for evaluation.

    Labels are those of the pixel nearest to each centre. torchvision's default, "nearest", takes the one farther up and
    left instead: when shrinking to 0.4, one pixel of the original away on average.
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = tuple(size)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return resized(inpt, self.size)


class ScaleCrop(v2.Transform):
    """Magnify by a factor, then cut out a window of `crop` = (height, width): the field of view is crop / factor.

    Args:
        crop: size of what comes out, pixels.
        scale: range of the factor, drawn evenly on a logarithmic scale.
        base: magnification at scale 1; 0.5 for frames that are evaluated at half their size.

    Where the magnified image is smaller than the window, the rest is filled, image and label at a random place.
    """

    def __init__(self, crop: tuple[int, int], scale: tuple[float, float] = (0.5, 2.0), base: float = 1.0):
        super().__init__()
        self.crop, self.scale, self.base = tuple(crop), _range(scale), base

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.query_size(flat_inputs)
        factor = self.base * drawn(self.scale)
        size = [max(round(side * factor), 1) for side in (height, width)]
        # A negative margin is a border to fill; where it lies is drawn too.
        margins = [have - want for have, want in zip(size, self.crop, strict=True)]
        top, left = (integer(min(m, 0), max(m, 0)) for m in margins)
        return {"size": size, "top": top, "left": left}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        magnified = resized(inpt, params["size"])
        top, left, (height, width) = params["top"], params["left"], self.crop
        bottom, right = top + height - params["size"][0], left + width - params["size"][1]
        padding = [max(-left, 0), max(-top, 0), max(right, 0), max(bottom, 0)]
        if any(padding):
            magnified = F.pad(magnified, padding, fill=VOID if isinstance(inpt, tv_tensors.Mask) else 0)
        return F.crop(magnified, max(top, 0), max(left, 0), height, width)


def resized(inpt: Any, size: tuple[int, int]) -> Any:
    """An image, bilinear, or a label, nearest; ValueError for labels of a type that cannot hold `VOID`."""
    mask = isinstance(inpt, tv_tensors.Mask)
    if mask and inpt.dtype in (torch.bool, torch.int8):
        raise ValueError(f"labels of {inpt.dtype} cannot hold the fill {VOID}; give uint8 or wider integers")
    return F.resize(inpt, list(size), v2.InterpolationMode.NEAREST_EXACT if mask else v2.InterpolationMode.BILINEAR)


def _range(scale: tuple[float, float]) -> tuple[float, float]:
    low, high = scale
    if not 0 < low <= high:
        raise ValueError(f"scale {scale} must rise and be positive")
    return low, high


def drawn(scale: tuple[float, float]) -> float:
    """A factor, even on a logarithmic scale."""
    low, high = scale
    return low * (high / low) ** float(torch.rand(()))


def integer(low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))
