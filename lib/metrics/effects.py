"""The road study's pairs through `intervals.difference`, until it calls that itself.

Introduced in notebooks/streethazards.ipynb.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from lib.metrics import segmentation
from lib.metrics.intervals import difference

DRAWS = 200  # as many as committed rows hold


def resampled(found: NDArray[np.int64], batch: int = 0) -> str:
    """mIoU, or with `batch` its mean over batches, of `DRAWS` draws of the images with replacement, as text."""
    draws = np.sort(np.random.default_rng(0).integers(len(found), size=(DRAWS, len(found))))
    measure = partial(segmentation.miou_per_batch, batch=batch) if batch else lambda m: segmentation.miou(m.sum(0))
    return " ".join(f"{measure(found[draw]):.5f}" for draw in draws)


def effect(ours: list[tuple[float, str]], theirs: list[tuple[float, str]]) -> dict[str, float]:
    """`intervals.difference` of values and their `resampled`, a seed each, in the same order on both sides."""
    values, draws = (
        [{s: pick(row) for s, row in enumerate(side)} for side in (ours, theirs)]
        for pick in (lambda row: row[0], lambda row: np.fromstring(row[1], sep=" "))
    )
    found = difference(*values, draws=tuple(draws))
    return {"effect": found.pop("difference")} | found
