"""What one treatment does against another: a paired difference over seeds and images, with its interval.

Introduced in notebooks/streethazards.ipynb.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from lib.metrics import segmentation

DRAWS = 200  # of the bootstrap


def resampled(found: NDArray[np.int64], batch: int = 0) -> str:
    """mIoU, or with `batch` its mean over batches, of `DRAWS` draws of the images with replacement, as text."""
    draws = np.sort(np.random.default_rng(0).integers(len(found), size=(DRAWS, len(found))))
    measure = partial(segmentation.miou_per_batch, batch=batch) if batch else lambda m: segmentation.miou(m.sum(0))
    return " ".join(f"{measure(found[draw]):.5f}" for draw in draws)


def effect(ours: list[tuple[float, str]], theirs: list[tuple[float, str]]) -> dict[str, float]:
    """The mean difference `ours` - `theirs` over seeds, and its 95 % interval.

    Two errors are added in quadrature: of training, by Student's t over the differences of equal seeds, and of the
    images, by the bootstrap. With three seeds t is 4.3, so the interval is wide on purpose.

    Args:
        ours, theirs: a seed each, in the same order: the value and its `resampled`.
    """
    differences = np.array([a[0] - b[0] for a, b in zip(ours, theirs, strict=True)])
    drawn = [[np.fromstring(text, sep=" ") for text in (a[1], b[1])] for a, b in zip(ours, theirs, strict=True)]
    mean, n = float(differences.mean()), len(differences)
    seeds = student.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5 if n > 1 else float("nan")
    images = 1.96 * np.mean([a - b for a, b in drawn], 0).std(ddof=1)
    half = float(np.hypot(seeds, images))
    return {"effect": mean, "low": mean - half, "high": mean + half, "seeds": n}
