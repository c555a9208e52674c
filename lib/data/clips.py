"""Your own pictures: a file, a folder of frames, an animation or an array, as frames of one size.

Introduced in notebooks/ex_slot3.ipynb, through `lib.masks_of`.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from lib.data.photos import FORMATS, MOST_PIXELS, PACKAGED, SMALLEST, _decode, open_image
from lib.files import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")
OTHERS = "write other videos as frames: ffmpeg -i VIDEO frames/%04d.png"


def pictures(source: Any) -> tuple[Tensor, bool]:
    """Frames `[T, 3, H, W]` in 0..1, and whether they are a video.

    Args:
        source: an image: the path of a file or its bytes, one of `photos.PACKAGED`, a PIL image, or an array or tensor
            `[H, W]`, `[H, W, 3]` or `[3, H, W]`. A video: an animated file, a folder of frames in the order of their
            names, or an array `[T, H, W, 3]` or `[T, 3, H, W]`. Arrays hold integers 0..255 or floats 0..1.

    Raises:
        DataError: it cannot be read, is not finite, too small or too large, or has another shape; in one line.
    """
    if isinstance(source, str | Path):
        source = opened(source)
    elif isinstance(source, bytes):
        source = _frames(source, "the file")
    elif isinstance(source, Image.Image):
        source = _on_white(source)
    try:
        values = torch.as_tensor(np.array(source) if isinstance(source, np.ndarray) else source)  # whatever its strides
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"a {type(source).__name__} is no picture; give a path, a PIL image or an array") from error
    shape = tuple(values.shape)
    if values.ndim == 2:
        values = values.expand(3, *shape)
    elif values.ndim in (3, 4) and shape[-1] == 3:
        values = values.movedim(-1, -3)
    elif values.ndim not in (3, 4) or shape[-3] != 3:
        raise DataError(f"an array {shape} is no picture; give [H, W, 3] or [3, H, W], of a video [T, ...], in RGB")
    frames = values if values.ndim == 4 else values[None]
    count, _, height, width = frames.shape
    if not count or min(height, width) < SMALLEST:
        raise DataError(f"{count} frames of {width} x {height} px; give one of at least {SMALLEST} a side")
    if count * height * width > MOST_PIXELS:
        raise DataError(f"{count} frames of {width} x {height} px are more than {MOST_PIXELS} pixels; give fewer")
    return _in_one(frames), values.ndim == 4


def opened(path: str | Path) -> np.ndarray:
    """A file as uint8 `[H, W, 3]`; an animation, or a folder of frames, as `[T, H, W, 3]`. Raises DataError."""
    if str(path) in PACKAGED:
        package, file = PACKAGED[str(path)]
        return _on_white(open_image(Path(str(files(package) / file))))
    path = Path(path)
    if path.is_dir():
        frames = [_on_white(open_image(p)) for p in images_in(path)]
        if other := next((f.shape for f in frames if f.shape != frames[0].shape), None):
            (h, w, _), (hh, ww, _) = frames[0].shape, other
            raise DataError(f"{path}: frames of {w} x {h} and {ww} x {hh} px; give frames of one size")
        return np.stack(frames)
    if not path.exists():
        raise DataError(f"{path} does not exist; give the path of an image or one of {', '.join(PACKAGED)}")
    return _frames(path)


def _frames(source: Path | bytes, name: str | None = None) -> np.ndarray:
    """A file, or its bytes under a name, as uint8 `[H, W, 3]`; of an animation `[T, H, W, 3]`."""

    def shown(image: Image.Image) -> np.ndarray | None:
        if (count := getattr(image, "n_frames", 1)) == 1:
            return None
        if count * image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{count} frames of {image.width} x {image.height} px, more than {MOST_PIXELS} pixels")
        return np.stack([_on_white(frame) for frame in ImageSequence.Iterator(image)])

    remedy = f"give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file; {OTHERS}"
    frames = _decode(source, name, FORMATS, shown, remedy)
    return _on_white(open_image(source, name)) if frames is None else frames


def images_in(folder: Path) -> list[Path]:
    """Files of a folder that are called like images, by name. DataError where there is none."""
    found = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    if not found:
        raise DataError(f"{folder} holds no image ({', '.join(SUFFIXES)}); {OTHERS}")
    return found


def _on_white(image: Image.Image) -> np.ndarray:
    """uint8 `[H, W, 3]`; transparency is laid on white, as a viewer would."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _in_one(values: Tensor) -> Tensor:
    """Integers 0..255 or floats 0..1 as float32."""
    if values.is_complex() or values.dtype == torch.bool:
        raise DataError(f"pixels of {values.dtype} are no colours; give integers 0..255 or floats 0..1")
    values = values.detach().cpu()
    if not values.is_floating_point():
        values, most = values.float(), 255
    else:
        values, most = values.float(), 1
        if bad := int((~values.isfinite()).sum()):
            raise DataError(f"{bad} of {values.numel()} pixel values are not finite; replace them")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > most:
        raise DataError(f"pixel values from {low:g} to {high:g}; give integers 0..255 or floats 0..1")
    return values / most
