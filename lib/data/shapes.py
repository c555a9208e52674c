"""Circles, squares and triangles with exact masks: the world where every answer is known."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from lib.files import DataError

KINDS = ("circle", "square", "triangle")
BACKGROUNDS = ("black", "coloured")
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
        radius: smallest and largest radius of the circumscribed circle, as a share of `size`.
        gap: shapes keep at least so many pixels from each other; none covers another.
        distinct: every shape of an image has a colour of its own; else two may share one.
        background: "black"; "coloured", a random colour an image, which is no shape's.
        seed: sets with different seeds share no image; training, tuning and reporting use different seeds.

    Raises:
        DataError: a setting is impossible, or so many shapes do not fit.
    """

    n: int
    size: int = 64
    count: tuple[int, int] = (2, 4)
    radius: tuple[float, float] = (0.12, 0.2)
    gap: int = 0
    distinct: bool = False
    background: str = "black"
    seed: int = 0

    def __post_init__(self):
        low, high = self.count
        if not 0 <= low <= high <= 255 or not 0 < self.radius[0] <= self.radius[1] <= 0.5 or self.gap < 0:
            raise DataError(f"impossible setting: count {self.count}, radius {self.radius}, gap {self.gap}")
        if self.background not in BACKGROUNDS:
            raise DataError(f"background is {self.background!r}; choose one of {', '.join(BACKGROUNDS)}")
        if self.distinct and high > len(COLOURS):
            raise DataError(f"{high} shapes cannot have colours of their own out of {len(COLOURS)}; allow fewer")

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
        raise DataError(f"{self.count[1]} shapes of radius {self.radius} do not fit into an image")

    @cached_property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole set: images `[n, 3, H, W]` and masks `[n, H, W]`, made once."""
        images, masks = zip(*(self[i] for i in range(self.n)), strict=True)
        return torch.stack(images), torch.stack(masks)

    @property
    def fingerprint(self) -> str:
        """What makes two sets equal, in words; recorded with every run."""
        return (
            f"shapes n={self.n} size={self.size} count={self.count} kinds={KINDS} colours={tuple(COLOURS)} "
            f"radius={self.radius} overlap=0.0 gap={self.gap} distinct={self.distinct} background={self.background} "
            f"seed={self.seed}"
        )

    def _draw(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        mask = np.zeros((self.size, self.size), np.uint8)
        image = np.zeros((self.size, self.size, 3), np.float32)
        count = int(rng.integers(self.count[0], self.count[1] + 1))
        colours = rng.choice(len(COLOURS), count, replace=not self.distinct)
        for i in range(count):
            kind = KINDS[int(rng.integers(len(KINDS)))]
            for _ in range(50):
                radius = rng.uniform(*self.radius) * self.size
                centre = rng.uniform(radius, self.size - radius, 2)
                inside = _inside(kind, self.size, centre, radius, rng.uniform(0, 2 * math.pi))
                near = binary_dilation(inside, iterations=self.gap) if self.gap else inside
                if inside.any() and not mask[near].any():
                    break
            else:
                return None
            mask[inside] = i + 1
            image[inside] = list(COLOURS.values())[colours[i]]
        if self.background != "black":  # drawn last: the shapes are those on black
            image = np.where(mask[..., None] > 0, image, self._painted(rng))
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(mask)

    def _painted(self, rng: np.random.Generator) -> np.ndarray:
        """The colour of a background, `[3]`."""
        drawn = rng.random((100, 3), np.float32)
        near = np.linalg.norm(drawn[:, None] - np.array(list(COLOURS.values())), axis=-1).min(1)
        return drawn[(near > 0.3).argmax()]


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
