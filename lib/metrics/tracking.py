"""How well slots follow objects through a video. Ids: 0 is background, object i has id i+1.

An object's holder in a frame is the slot whose hard mask has the best IoU with it. Frames in which the object is hidden
are skipped: who comes back should be held by the same slot. A run is a stretch of visible frames with one holder; where
slots tie for the best, the run goes on as long as any of them can hold it throughout, so that names of slots do not
matter. Objects visible in fewer than two frames say nothing and are left out; where none is left a measure is NaN.

Introduced in notebooks/ex_dino3.ipynb.
"""

import numpy as np
from numpy.typing import ArrayLike

from lib.metrics import objects


def runs(truth: ArrayLike, predicted: ArrayLike) -> dict[int, list[int]]:
    """Lengths of each object's runs, in frames and in order; they add up to the frames in which it is visible.

    Args:
        truth: ids `[T, H, W]`.
        predicted: soft masks `[T, K, H, W]`, the largest wins a pixel, or winners `[T, H, W]`.

    Returns:
        One list an object that is visible at all, by id.

    Raises:
        ValueError: the shapes do not agree, or a mask is not finite.
    """
    truth, soft = objects.ids_of("ground truth", truth), np.ndim(predicted) == 4
    winners = objects.finite("predicted", predicted).argmax(1) if soft else predicted
    winners = objects.ids_of("predicted", winners)
    if winners.shape != truth.shape or truth.ndim != 3:
        raise ValueError(
            f"ground truth {truth.shape} and predicted {winners.shape} are not [T, H, W] and [T, (K,) H, W]"
        )
    lengths: dict[int, list[int]] = {}
    holders: dict[int, set[int]] = {}
    for ids, slots in zip(truth, winners, strict=True):
        iou, names = objects.iou_matrix(ids, slots), np.unique(slots)
        for i, row in zip(np.unique(ids[ids > 0]).tolist(), iou, strict=True):
            best = set(names[row == row.max()].tolist())
            if i in lengths and holders[i] & best:
                lengths[i][-1] += 1
                holders[i] &= best
            else:
                lengths.setdefault(i, []).append(1)
                holders[i] = best
    return lengths


def identity_switches(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Share of an object's transitions between consecutive visible frames at which its holder changes, over objects.

    0: every object keeps its slot; 1: it changes at each frame. Slots reshuffled at random in each frame score
    (K - 1) / K. Arguments as in `runs`.
    """
    return _mean_over_objects(truth, predicted, lambda lengths: (len(lengths) - 1) / (sum(lengths) - 1))


def keep_length(truth: ArrayLike, predicted: ArrayLike) -> float:
    """An object's longest run as a share of its visible frames, mean over objects; 1: one slot throughout.

    Never below 1 / T. Arguments as in `runs`.
    """
    return _mean_over_objects(truth, predicted, lambda lengths: max(lengths) / sum(lengths))


def _mean_over_objects(truth: ArrayLike, predicted: ArrayLike, measure) -> float:
    values = [measure(lengths) for lengths in runs(truth, predicted).values() if sum(lengths) > 1]
    return float(np.mean(values)) if values else float("nan")
