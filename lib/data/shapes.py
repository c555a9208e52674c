"""Circles, squares and triangles with exact masks: the world where every answer is known."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from lib.files import DataError

KINDS = ("circle", "square", "triangle")
#: Okabe and Ito's colour-blind safe set without black and white, RGB in 0..1.
COLOURS = {
    "orange": (0.90, 0.62, 0.00),
    "sky": (0.34, 0.71, 0.91),
    "green": (0.00, 0.62, 0.45),
    "yellow": (0.94, 0.89, 0.26),
    "blue": (0.00, 0.45, 0.70),
    "vermilion": (0.84, 0.37, 0.00),
    "purple": (0.80, 0.47, 0.65),
}


@dataclass(frozen=True)
class Shapes:
    """A seeded set of images of flat shapes; image `i` depends on the settings, the seed and `i` alone.

    Introduced in notebooks/ex_slot1.ipynb.

    Args:
        n: images in the set.
        size: side in pixels.
        count: fewest and most shapes in an image.
        kinds: out of `KINDS`.
        colours: names out of `COLOURS`; two shapes of one image may share a colour unless `distinct` is set.
        radius: smallest and largest radius of the circumscribed circle, as a share of `size`.
        overlap: largest share of a shape that later shapes may cover, 0 (none) to 1 (any).
        gap: shapes keep at least so many pixels from each other; meaningful with `overlap` 0.
        distinct: every shape of an image has a colour of its own.
        background: RGB in 0..1.
        seed: sets with different seeds share no image; training, tuning and reporting use different seeds.

    Raises:
        DataError: a setting is impossible, or so many shapes do not fit.
    """

    n: int
    size: int = 64
    count: tuple[int, int] = (2, 4)
    kinds: Sequence[str] = KINDS
    colours: Sequence[str] = tuple(COLOURS)
    radius: tuple[float, float] = (0.12, 0.2)
    overlap: float = 0.0
    gap: int = 0
    distinct: bool = False
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seed: int = 0

    def __post_init__(self):
        for name, given, known in (("kinds", self.kinds, KINDS), ("colours", self.colours, COLOURS)):
            if unknown := set(given) - set(known):
                raise DataError(f"{name} holds {sorted(unknown)}; choose out of {', '.join(known)}")
        low, high = self.count
        if (
            not 0 <= low <= high <= 255
            or not 0 < self.radius[0] <= self.radius[1] <= 0.5
            or not 0 <= self.overlap <= 1
            or self.gap < 0
        ):
            raise DataError(f"impossible setting: count {self.count}, radius {self.radius}, overlap {self.overlap}")
        if self.distinct and high > len(self.colours):
            raise DataError(f"{high} shapes cannot have colours of their own out of {len(self.colours)}; allow fewer")

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image float32 `[3, H, W]` in 0..1 and mask uint8 `[H, W]`: 0 background, i+1 the i-th shape."""
        if not 0 <= index < self.n:
            raise IndexError(f"image {index} of {self.n}")
        rng = np.random.default_rng([self.seed, index])
        for _ in range(100):  # a crowded start can leave no room for the rest: begin again, still seeded
            if (drawn := self._draw(rng)) is not None:
                return drawn
        raise DataError(f"{self.count[1]} shapes of radius {self.radius} do not fit with overlap {self.overlap}")

    @cached_property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole set: images `[n, 3, H, W]` and masks `[n, H, W]`, made once."""
        images, masks = zip(*(self[i] for i in range(self.n)), strict=True)
        return torch.stack(images), torch.stack(masks)

    @property
    def fingerprint(self) -> str:
        """What makes two sets equal, in words; recorded with every run."""
        return "shapes " + " ".join(f"{k}={v}" for k, v in asdict(self).items())

    def _draw(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        mask = np.zeros((self.size, self.size), np.uint8)
        image = np.broadcast_to(np.float32(self.background), (self.size, self.size, 3)).copy()
        count = int(rng.integers(self.count[0], self.count[1] + 1))
        colours = rng.choice(len(self.colours), count, replace=not self.distinct)
        areas = np.zeros(count)
        for i in range(count):
            kind = self.kinds[int(rng.integers(len(self.kinds)))]
            for _ in range(50):
                radius = rng.uniform(*self.radius) * self.size
                centre = rng.uniform(radius, self.size - radius, 2)
                inside = _inside(kind, self.size, centre, radius, rng.uniform(0, 2 * math.pi))
                covered = np.bincount(mask[inside], minlength=i + 1)[1 : i + 1]
                left = np.bincount(mask.ravel(), minlength=i + 1)[1 : i + 1] - covered
                apart = not self.gap or not mask[binary_dilation(inside, iterations=self.gap)].any()
                if apart and inside.any() and (left >= (1 - self.overlap) * areas[:i]).all() and (left > 0).all():
                    break
            else:
                return None
            mask[inside], areas[i] = i + 1, inside.sum()
            image[inside] = COLOURS[self.colours[colours[i]]]
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(mask)


def _inside(kind: str, size: int, centre: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Which pixel centres `[size, size]` lie in the shape whose circumscribed circle is given, in pixels."""
    y, x = np.mgrid[:size, :size] + 0.5
    y, x = y - centre[0], x - centre[1]
    if kind == "circle":
        return np.hypot(y, x) <= radius
    corners = 4 if kind == "square" else 3
    # A regular polygon is where no side's outward distance exceeds that of the sides from the centre.
    directions = angle + 2 * math.pi * np.arange(corners) / corners
    distance = x[..., None] * np.cos(directions) + y[..., None] * np.sin(directions)
    return (distance <= radius * math.cos(math.pi / corners)).all(-1)
