"""Real photographs: those that scikit-image and scikit-learn carry in their wheels, and any file of yours."""

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError

from lib.data import DataError

#: Name, package and file. All are in the wheels themselves, so nothing is fetched.
PACKAGED = {
    "cat": ("skimage.data", "chelsea.png"),
    "astronaut": ("skimage.data", "astronaut.png"),
    "coffee": ("skimage.data", "coffee.png"),
    "rocket": ("skimage.data", "rocket.jpg"),
    "temple": ("sklearn.datasets.images", "china.jpg"),
    "flower": ("sklearn.datasets.images", "flower.jpg"),
}
#: Outlines drawn by hand for this workbook, (x, y) as shares of the central square, back to front. Coarse on purpose:
#: good to about two pixels at 128, which is what a statement about objecthood needs.
OUTLINES = {
    "coffee": {
        "saucer": [(0.19, 0.18), (0.10, 0.24), (0.04, 0.32), (0.0, 0.42), (0.0, 0.60), (0.05, 0.72), (0.13, 0.82),
                   (0.24, 0.895), (0.38, 0.945), (0.52, 0.955), (0.66, 0.93), (0.79, 0.87), (0.88, 0.77), (0.93, 0.64),
                   (0.94, 0.49), (0.90, 0.36), (0.84, 0.26), (0.76, 0.20), (0.45, 0.13)],
        "cup": [(0.18, 0.24), (0.21, 0.14), (0.29, 0.075), (0.42, 0.045), (0.56, 0.055), (0.68, 0.11), (0.755, 0.20),
                (0.765, 0.29), (0.74, 0.42), (0.69, 0.54), (0.63, 0.59), (0.57, 0.60), (0.55, 0.665), (0.50, 0.69),
                (0.395, 0.675), (0.36, 0.74), (0.31, 0.77), (0.25, 0.745), (0.235, 0.69), (0.27, 0.585), (0.235, 0.49),
                (0.20, 0.36)],
        "spoon": [(0.755, 0.17), (0.80, 0.165), (0.81, 0.20), (0.765, 0.34), (0.715, 0.55), (0.755, 0.66), (0.75, 0.75),
                  (0.70, 0.81), (0.63, 0.81), (0.575, 0.75), (0.565, 0.67), (0.60, 0.61), (0.68, 0.57), (0.72, 0.42),
                  (0.76, 0.28)],
    },
}  # fmt: skip
SMALLEST = 32  # px; below this a slot has nothing to hold


def load(name: str | Path, size: int = 64) -> torch.Tensor:
    """A photograph as float32 `[3, size, size]` in 0..1: the central square, resized with antialiasing.

    Introduced in notebooks/ex_slot2.ipynb.

    Args:
        name: a key of `PACKAGED` or the path of an image file; transparency is laid on white, as a viewer would.
        size: side in pixels.

    Raises:
        DataError: no such photograph, not an image, damaged, or smaller than 32 px; the message names the file.
    """
    path = _find(name)
    try:
        with Image.open(path) as image:
            image.load()  # Pillow opens lazily: a truncated file shows here
            has_alpha = "A" in image.getbands() or "transparency" in image.info
            if has_alpha:
                rgba = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            image = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name} is not a readable image ({error}); give a PNG or JPEG file") from error
    side = min(image.size)
    if side < SMALLEST:
        raise DataError(f"{path.name} is {image.width} x {image.height} px; give one of at least {SMALLEST} a side")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cut first: Pillow's own box argument lets pixels from outside the square bleed in.
    image = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def objects(name: str, size: int = 64) -> torch.Tensor:
    """Ids uint8 `[size, size]` of the objects outlined by hand in a photograph: 0 background, then `OUTLINES` in order.

    Introduced in notebooks/ex_slot3.ipynb.

    Raises:
        DataError: nobody has outlined this photograph.
    """
    if name not in OUTLINES:
        raise DataError(f"no outlines for {str(name)!r}; there are some for {', '.join(OUTLINES)}")
    canvas = Image.new("L", (size, size))
    for i, outline in enumerate(OUTLINES[name].values(), start=1):
        ImageDraw.Draw(canvas).polygon([(x * size - 0.5, y * size - 0.5) for x, y in outline], fill=i)
    return torch.from_numpy(np.array(canvas))


def crops(names: list[str], n: int, size: int, seed: int, smallest: float = 0.4) -> torch.Tensor:
    """`n` random squares of photographs, `[n, 3, size, size]`: 40 to 100 % of the side, half of them mirrored.

    Crop `i` depends on the seed and `i` alone. Introduced in notebooks/ex_slot2.ipynb.
    """
    whole = [load(name, 4 * size) for name in names]
    made = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        side = int(rng.uniform(smallest, 1.0) * 4 * size)
        top, left = rng.integers(0, 4 * size - side + 1, 2)
        cut = whole[int(rng.integers(len(whole)))][:, top : top + side, left : left + side]
        cut = torch.nn.functional.interpolate(cut[None], (size, size), mode="bilinear", antialias=True)[0]
        made.append(cut.flip(-1) if rng.random() < 0.5 else cut)
    return torch.stack(made).clamp(0, 1)


def fingerprint(names: list[str], size: int) -> str:
    """Names, size and a short hash of the pixels; recorded with every run."""
    digest = hashlib.sha256(b"".join((load(n, size) * 255).byte().numpy().tobytes() for n in names))
    return f"photos {','.join(Path(n).name for n in names)} size={size} sha256={digest.hexdigest()[:12]}"


def _find(name: str | Path) -> Path:
    if name in PACKAGED:
        package, file = PACKAGED[str(name)]
        return Path(str(files(package) / file))
    path = Path(name)
    if not path.is_file():
        raise DataError(f"no photograph {str(name)!r}; give the path of an image or one of {', '.join(PACKAGED)}")
    return path
