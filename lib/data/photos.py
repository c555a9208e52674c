"""Real photographs: those that scikit-image and scikit-learn carry in their wheels, and any file of yours.

`open_image` and `open_label` are the only places where the workbook decodes an image that it did not write itself.
"""

import io
import os
import warnings
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lib.files import DataError, read_file

#: Name, package and file. All are in the wheels themselves, so nothing is fetched.
PACKAGED = {
    "cat": ("skimage.data", "chelsea.png"),
    "astronaut": ("skimage.data", "astronaut.png"),
    "coffee": ("skimage.data", "coffee.png"),
    "rocket": ("skimage.data", "rocket.jpg"),
    "temple": ("sklearn.datasets.images", "china.jpg"),
    "flower": ("sklearn.datasets.images", "flower.jpg"),
}
SMALLEST = 32  # px; below this a slot has nothing to hold
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")  # what a file is called does not matter, what it holds does
MOST_PIXELS = 2**26  # of an image, or of all frames of a video: 67 million, more than a telephone takes


def open_image(source: Path | bytes, name: str | None = None, due: tuple[str, int, int] | None = None) -> Image.Image:
    """An image as a viewer shows it: 8-bit RGB, or RGBA where it can be transparent, turned as its EXIF tag says.

    Args:
        source: a file in one of `FORMATS`, or its bytes.
        name: what messages call it; for bytes.
        due: stored mode, height and width, where they are known.

    Raises:
        DataError: not such a file, damaged, over `MOST_PIXELS`, not what is due, or of integers or floats without a
            known range.
    """

    def shown(image: Image.Image) -> Image.Image:
        ImageOps.exif_transpose(image, in_place=True)
        _expect(image, due)
        if image.mode.startswith(("I", "F")):  # Pillow's own conversion cuts these off at 255
            image = Image.fromarray(_eight_bits(image))
        return image.convert("RGBA" if image.has_transparency_data else "RGB")

    return _decode(source, name, FORMATS, shown, "give a PNG or JPEG file of 8 bits a channel")


def open_label(source: Path | bytes, name: str | None = None, due: tuple[str, int, int] | None = None) -> np.ndarray:
    """Ids uint8 `[H, W]` of an 8-bit PNG with one channel or a palette; arguments and errors as of `open_image`.

    Lossy formats would invent ids along every edge. An orientation tag is refused, as it would turn them silently.
    """

    def stored(image: Image.Image) -> np.ndarray:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            raise ValueError("its EXIF tag asks for it to be turned")
        _expect(image, due)
        if image.mode not in ("L", "P"):  # of a palette image the indices are the ids
            raise ValueError(f"it has the pixel mode {image.mode}")
        return np.array(image)

    return _decode(source, name, ("PNG",), stored, "give an 8-bit PNG with one channel of ids")


def _decode(
    source: Path | bytes, name: str | None, formats: tuple[str, ...], convert: Callable[[Image.Image], Any], remedy: str
) -> Any:
    packed = isinstance(source, bytes)  # out of a record: its reader knows the remedy
    data = source if packed else read_file(source, 4 * MOST_PIXELS)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(data), formats=formats)
        with image:  # nothing is decoded yet
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} px, more than {MOST_PIXELS}")
            return convert(image)
    except UnidentifiedImageError:
        wrong = f"it is no intact {' or '.join(formats)}"
    except Exception as error:  # a decoder may raise anything on bytes that are not what they claim to be
        wrong = error
    raise DataError(f"{name or source} is not readable ({wrong})" + ("" if packed else f"; {remedy}"))


def _expect(image: Image.Image, due: tuple[str, int, int] | None) -> None:
    if due and (found := (image.mode, image.height, image.width)) != due:
        raise ValueError(f"{found} where {due} is due")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """uint8 `[H, W]` of a grey image that holds up to 16 bits, by its full range, or floats in 0..1."""
    tags = getattr(image, "tag_v2", {})  # of TIFF only: 258 is the number of bits, 262 whether zero is white
    if image.mode == "I":
        raise ValueError("32-bit or signed integers, whose range is not known")
    values = np.array(image, np.float32) / (1 if image.mode == "F" else 2 ** tags.get(258, (16,))[0] - 1)
    if not 0 <= values.min() <= values.max() <= 1:
        raise ValueError(f"values from {values.min():g} to {values.max():g} where 0 to 1 are due")
    return np.rint(255 * (1 - values if tags.get(262) == 0 else values)).astype(np.uint8)


def load(name: str | Path, size: int = 64) -> torch.Tensor:
    """A photograph as float32 `[3, size, size]` in 0..1: the central square, resized with antialiasing.

    Introduced in notebooks/ex_slot2.ipynb.

    Args:
        name: a key of `PACKAGED` or the path of an image file; transparency is laid on white, as a viewer would.
        size: side in pixels.

    Raises:
        DataError: no such photograph, not an image, damaged, or smaller than 32 px; the message names the file.
    """
    path = Path(str(files(PACKAGED[name][0]) / PACKAGED[name][1])) if name in PACKAGED else Path(name)
    if not os.path.isfile(path):
        raise DataError(f"no photograph {str(name)[:200]!r}; give the path of an image or one of {', '.join(PACKAGED)}")
    image = open_image(path)
    side = min(image.size)
    if side < SMALLEST:
        raise DataError(f"{path.name} is {image.width} x {image.height} px; give one of at least {SMALLEST} a side")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cut first: Pillow's own box argument lets pixels from outside the square bleed in.
    image = image.crop((left, top, left + side, top + side))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image = image.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
