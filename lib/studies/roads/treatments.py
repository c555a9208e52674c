"""What is done to training frames: the usual augmentations, and the original study's two that are not what they say.

Introduced in notebooks/streethazards.ipynb.
"""

from typing import Any

from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from lib.data.augment import FILL, Resize, ScaleCrop, drawn, integer, resized

CROPS = ("true", "degenerate", "none", "squash")
FLIPS = ("joint", "image only", "none")


class DegenerateCrop(ScaleCrop):
    """The original study's "multi-scale" crop: resize by s, cut out crop x s, resize back to `crop`.

    The net magnification is 1 and the field of view is `crop`, whatever s is; only the blur of resampling differs.

    Args: as of `ScaleCrop`; the image must be at least as large as the crop.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor = drawn(self.scale)
        size = [round(side * self.base * factor) for side in v2.query_size(flat_inputs)]
        window = [round(side * factor) for side in self.crop]
        if any(have < want for have, want in zip(size, window, strict=True)):
            raise ValueError(f"the crop {self.crop} is larger than the image; choose a smaller crop or a larger base")
        top, left = (integer(0, have - want) for have, want in zip(size, window, strict=True))
        return {"size": size, "window": (top, left, *window)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return resized(F.crop(resized(inpt, params["size"]), *params["window"]), self.crop)


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
