"""How well classes are segmented: dataset-level mIoU, open-mIoU, and measures of connected components.

Everything starts from confusion matrices `[C, C]`, rows the truth and columns the prediction. They add, so a dataset
is the sum over its images, and no number depends on the batch size. Introduced in notebooks/streethazards.ipynb.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

ABSENT = ("skip", "zero", "one")
#: Thresholds of F1*, and the 8-neighbourhood (Chan et al. 2021, arXiv:2104.14812).
TAUS = np.linspace(0.25, 0.75, 11)
EIGHT = np.ones((3, 3), int)


def confusion(truth: ArrayLike, predicted: ArrayLike, classes: int, ignored: Sequence[int] = ()) -> NDArray[np.int64]:
    """Pixel counts `[C, C]` of truth against prediction, both of equal shape.

    Args:
        truth: ids; pixels with an id of `classes` or above (the anomaly, 255) are dropped, and so are `ignored` ones.
        predicted: ids 0..C-1.
        classes: C.
        ignored: true ids below C that do not count, such as "other" in the Zagreb protocol.

    Raises:
        ValueError: shapes differ, or a counted prediction is no class.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(f"labels differ in shape: truth {truth.shape}, prediction {predicted.shape}")
    counted = (truth >= 0) & (truth < classes) & ~np.isin(truth, ignored)
    rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    if columns.size and not 0 <= columns.min() <= columns.max() < classes:
        raise ValueError(f"predictions hold ids {columns.min()}..{columns.max()}; they must be 0..{classes - 1}")
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def iou(matrix: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of each class `[C]`; NaN for a class without a true pixel, even if it is predicted.

    What is wrongly predicted as an absent class still counts against the classes that it was taken from.
    """
    matrix = np.asarray(matrix, float)
    true, hits = matrix.sum(1), np.diag(matrix)
    union = true + matrix.sum(0) - hits
    return np.where(true > 0, hits / np.maximum(union, 1), np.nan)


def miou(matrix: ArrayLike, absent: str = "skip") -> float:
    """Mean IoU over classes; NaN where none is left.

    Args:
        matrix: the sum of the confusion matrices of a dataset, `[C, C]`.
        absent: what a class without a true pixel counts: "skip" leaves it out, "zero" is the rule of the published
            StreetHazards code (one absent class of 13 costs a thirteenth), "one" flatters.

    Raises:
        ValueError: another rule.
    """
    if absent not in ABSENT:
        raise ValueError(f"absent is {absent!r}; choose one of {', '.join(ABSENT)}")
    each = iou(matrix)
    each = each[~np.isnan(each)] if absent == "skip" else np.nan_to_num(each, nan=float(absent == "one"))
    return float(each.mean()) if each.size else float("nan")


def summary(matrix: ArrayLike, dropped: int) -> dict[str, float]:
    """The three means in use, of C classes: `miou` over those present, `miou_C` with an absent one as 0, `miou_C-1`.

    Args:
        matrix: `[C, C]`.
        dropped: the class that `miou_C-1` leaves out (pedestrian: it has no pixel in the real test split).
    """
    matrix = np.asarray(matrix)
    rest = np.delete(np.nan_to_num(iou(matrix)), dropped)
    count = len(matrix)
    return {"miou": miou(matrix), f"miou_{count}": miou(matrix, "zero"), f"miou_{count - 1}": float(rest.mean())}


def miou_per_batch(matrices: ArrayLike, batch: int) -> float:
    """The original study's figure: mIoU over the classes present in each batch, averaged over batches.

    Shown in notebooks/streethazards.ipynb only to measure how far it moves with `batch`.

    Args:
        matrices: one an image, in the order of evaluation, `[N, C, C]`.
    """
    matrices = np.asarray(matrices)
    return float(np.nanmean([miou(matrices[i : i + batch].sum(0)) for i in range(0, len(matrices), batch)]))


def open_labels(predicted: ArrayLike, scores: ArrayLike, threshold: float, anomaly: int) -> NDArray:
    """Predictions with `anomaly` wherever the anomaly score reaches the threshold; all of equal shape."""
    return np.where(np.asarray(scores) >= threshold, anomaly, np.asarray(predicted))


def open_miou(matrix: ArrayLike) -> float:
    """Mean IoU over the K known classes when a detector may withdraw pixels; class K is the anomaly.

    Anomalies that pass as class k are false positives of k, and pixels of k that raise an alarm are its false
    negatives; the IoU of the anomaly itself is not part of the mean. Grcić et al. 2022, arXiv:2207.02606.

    Args:
        matrix: `[K+1, K+1]`, from labels that hold the anomaly and from `open_labels`. With a threshold chosen on
            other images: another town, or validation.
    """
    each = iou(matrix)[:-1]
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


def components(
    truth: ArrayLike,
    predicted: ArrayLike,
    ignored: ArrayLike | None = None,
    smallest_truth: int = 1,
    smallest_predicted: int = 1,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """sIoU of every true and PPV of every predicted component (8-connected) of one image.

    sIoU is the IoU of a true component with all predicted components that touch it, where what these share with
    other true components is no error; PPV is the share of a predicted component on true pixels. Chan et al. 2021,
    SegmentMeIfYouCan, arXiv:2104.14812.

    Args:
        truth, predicted: bool `[H, W]`.
        ignored: bool `[H, W]`; nothing there counts.
        smallest_truth: true components of fewer pixels are ignored (there: 100 px for large anomalies).
        smallest_predicted: predicted components of fewer pixels are dropped (there: 500 px).
    """
    truth, predicted = np.asarray(truth, bool), np.asarray(predicted, bool)
    if truth.shape != predicted.shape:
        raise ValueError(f"masks differ in shape: truth {truth.shape}, prediction {predicted.shape}")
    ignored = np.zeros_like(truth) if ignored is None else np.asarray(ignored, bool)
    truth = truth & ~ignored
    large = _without_small(truth, smallest_truth)
    ignored = ignored | (truth & ~large)
    true, n = ndimage.label(large, EIGHT)
    found, m = ndimage.label(_without_small(predicted & ~ignored, smallest_predicted), EIGHT)
    overlap = np.bincount((true * (m + 1) + found).ravel(), minlength=(n + 1) * (m + 1)).reshape(n + 1, m + 1)
    sizes_true, sizes_found, overlap = overlap[1:].sum(1), overlap[:, 1:].sum(0), overlap[1:, 1:]
    outside = sizes_found - overlap.sum(0)  # pixels of each predicted component that are on no true one
    siou = overlap.sum(1) / (sizes_true + (overlap > 0) @ outside)
    return siou, overlap.sum(0) / sizes_found


def component_summary(siou: ArrayLike, ppv: ArrayLike) -> dict[str, float]:
    """Means over all components of a dataset, and F1* averaged over the thresholds 0.25..0.75.

    Args:
        siou: of all true components of all images, concatenated.
        ppv: of all predicted ones.

    Returns:
        `siou`, `ppv` (NaN where there is no component) and `f1` (NaN only where there is neither kind).
    """
    siou, ppv = np.asarray(siou, float), np.asarray(ppv, float)
    f1 = float("nan")
    if siou.size or ppv.size:
        hits = (siou[:, None] > TAUS).sum(0)
        misses, alarms = siou.size - hits, (ppv[:, None] <= TAUS).sum(0)
        f1 = float((2 * hits / np.maximum(2 * hits + misses + alarms, 1)).mean())
    return {
        "siou": float(siou.mean()) if siou.size else float("nan"),
        "ppv": float(ppv.mean()) if ppv.size else float("nan"),
        "f1": f1,
    }


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], ArrayLike],
    images: int,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Percentile interval `[2, ...]` of a statistic when images are drawn with replacement; NaN draws are left out.

    Pixels of one image are not independent, images are nearly so. With test images from two towns the interval says
    nothing about a third town.

    Args:
        statistic: one number or several, of weights `[images]`: how often each image was drawn. For dataset mIoU
            `lambda w: miou(np.tensordot(w, matrices, 1))` with matrices `[images, C, C]`.
        level: coverage.
    """
    generator = np.random.default_rng(seed)
    values = [statistic(generator.multinomial(images, np.full(images, 1 / images))) for _ in range(draws)]
    return np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)


def _without_small(mask: NDArray[np.bool_], smallest: int) -> NDArray[np.bool_]:
    if smallest <= 1:
        return mask
    labels, _ = ndimage.label(mask, EIGHT)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= smallest)[labels]
