"""Augmentations that move an image and its label together, and the original study's two that did not do what they said.

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
CROPS = ("true", "degenerate", "none", "squash")
FLIPS = ("joint", "image only", "none")


class Resize(v2.Transform):
    """Resize to `size` = (height, width) exactly; a size of another shape squashes. The only transform for evaluation.

    Labels are those of the pixel nearest to each centre. torchvision's default, "nearest", takes the one farther up and
    left instead: when shrinking to 0.4, one pixel of the original away on average.
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = tuple(size)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _resize(inpt, self.size)


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
        factor = self.base * _draw(self.scale)
        size = [max(round(side * factor), 1) for side in (height, width)]
        # A negative margin is a border to fill; where it lies is drawn too.
        margins = [have - want for have, want in zip(size, self.crop, strict=True)]
        top, left = (_integer(min(m, 0), max(m, 0)) for m in margins)
        return {"size": size, "top": top, "left": left}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        resized = _resize(inpt, params["size"])
        top, left, (height, width) = params["top"], params["left"], self.crop
        bottom, right = top + height - params["size"][0], left + width - params["size"][1]
        padding = [max(-left, 0), max(-top, 0), max(right, 0), max(bottom, 0)]
        if any(padding):
            resized = F.pad(resized, padding, fill=VOID if isinstance(inpt, tv_tensors.Mask) else 0)
        return F.crop(resized, max(top, 0), max(left, 0), height, width)


class DegenerateCrop(ScaleCrop):
    """The original study's "multi-scale" crop: resize by s, cut out crop x s, resize back to `crop`.

    The net magnification is 1 and the field of view is `crop`, whatever s is; only the blur of resampling differs.

    Args: as of `ScaleCrop`; the image must be at least as large as the crop.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor = _draw(self.scale)
        size = [round(side * self.base * factor) for side in v2.query_size(flat_inputs)]
        window = [round(side * factor) for side in self.crop]
        if any(have < want for have, want in zip(size, window, strict=True)):
            raise ValueError(f"the crop {self.crop} is larger than the image; choose a smaller crop or a larger base")
        top, left = (_integer(0, have - want) for have, want in zip(size, window, strict=True))
        return {"size": size, "window": (top, left, *window)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return _resize(F.crop(_resize(inpt, params["size"]), *params["window"]), self.crop)


class ImageOnlyFlip(v2.RandomHorizontalFlip):
    """The original study's flip: with probability `p` it turns the image and leaves the label as it was."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return inpt if isinstance(inpt, tv_tensors.Mask) else super().transform(inpt, params)


def training(
    crop: tuple[int, int],
    base: float = 1.0,
    crops: str = "true",
    flip: str = "joint",
    scale: tuple[float, float] = (0.5, 2.0),
    degrees: float = 5.0,
    colour: bool = True,
    blur: bool = True,
) -> v2.Compose:
    """The augmentation of the training split; its other settings are the treatments of the autopsy.

    Args:
        crop: (height, width) of what comes out.
        base: magnification at scale 1.
        crops: "true" (`ScaleCrop`), "degenerate" (`DegenerateCrop`), "none" (`ScaleCrop` at scale 1) or "squash" (the
            whole frame resized to `crop`, whatever its shape).
        flip: "joint", "image only" (`ImageOnlyFlip`) or "none"; half of the images.
        scale: range of magnification.
        degrees: largest rotation to either side, about the centre; what moves in is void.
        colour: jitter brightness, contrast and saturation by 0.3 and hue by 0.1, the original study's strengths.
        blur: blur half of the images (5 px, sigma 0.1..2), as there.

    Raises:
        ValueError: an unknown treatment.
    """
    if crops not in CROPS or flip not in FLIPS:
        raise ValueError(f"crops {crops!r}, flip {flip!r}; choose one of {CROPS} and one of {FLIPS}")
    steps: list[v2.Transform] = []
    if degrees:
        steps.append(v2.RandomRotation(degrees, v2.InterpolationMode.BILINEAR, fill=FILL))
    if crops == "squash":
        steps.append(Resize(crop))
    else:
        cut = DegenerateCrop if crops == "degenerate" else ScaleCrop
        steps.append(cut(crop, (1, 1) if crops == "none" else scale, base))
    if flip != "none":
        steps.append((v2.RandomHorizontalFlip if flip == "joint" else ImageOnlyFlip)(0.5))
    if colour:
        steps.append(v2.ColorJitter(0.3, 0.3, 0.3, 0.1))
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(5, (0.1, 2.0))], 0.5))
    return v2.Compose(steps)


def _resize(inpt: Any, size: tuple[int, int]) -> Any:
    mask = isinstance(inpt, tv_tensors.Mask)
    if mask and inpt.dtype in (torch.bool, torch.int8):
        raise ValueError(f"labels of {inpt.dtype} cannot hold the fill {VOID}; give uint8 or wider integers")
    return F.resize(inpt, list(size), v2.InterpolationMode.NEAREST_EXACT if mask else v2.InterpolationMode.BILINEAR)


def _range(scale: tuple[float, float]) -> tuple[float, float]:
    low, high = scale
    if not 0 < low <= high:
        raise ValueError(f"scale {scale} must rise and be positive")
    return low, high


def _draw(scale: tuple[float, float]) -> float:
    low, high = scale
    return low * (high / low) ** float(torch.rand(()))


def _integer(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))
