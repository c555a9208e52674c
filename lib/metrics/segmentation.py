"""How well classes are segmented: dataset-level mIoU, open-mIoU, and measures of connected components.

Everything starts from confusion matrices `[C, C]`, rows the truth and columns the prediction. They add, so a dataset
is the sum over its images, and no number depends on the batch size. Introduced in notebooks/streethazards.ipynb.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

ABSENT = ("skip", "zero")
#: Thresholds of F1*, and the 8-neighbourhood (Chan et al. 2021, arXiv:2104.14812).
TAUS = np.linspace(0.25, 0.75, 11)
EIGHT = np.ones((3, 3), int)


def class_ids(labels: ArrayLike, name: str) -> NDArray[np.int64]:
    """Labels as int64; ValueError, under the argument's name, if their type is no integer (or bool) or one is negative.

    Eight signed bits turn void, 255, into -1, which no rule below would know.
    """
    found = np.asarray(labels)
    if found.dtype.kind not in "bui":
        raise ValueError(f"{name}: {found.dtype} is no integer type; hand in class ids")
    if found.size and found.min() < 0:
        raise ValueError(f"{name}: an id is {found.min()}; ids start at 0, and void is 255 in an unsigned type")
    return found.astype(np.int64)


def confusion(truth: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Pixel counts `[C, C]` of truth against prediction, both of equal shape.

    Args:
        truth: ids; pixels with an id of `classes` or above (the anomaly, 255) are dropped.
            The published StreetHazards rule keeps anomalies: hand in one class more, see `summary`.
        predicted: ids 0..C-1.
        classes: C.

    Raises:
        ValueError: shapes differ, labels are of no integer type, or a counted prediction is no class.
    """
    truth, predicted = class_ids(truth, "truth"), class_ids(predicted, "predicted")
    if truth.shape != predicted.shape:
        raise ValueError(f"labels differ in shape: truth {truth.shape}, prediction {predicted.shape}")
    counted = truth < classes
    rows, columns = truth[counted], predicted[counted]
    if columns.size and columns.max() >= classes:
        raise ValueError(f"predictions hold ids {columns.min()}..{columns.max()}; they must be 0..{classes - 1}")
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def iou(matrix: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of each class `[C]`; NaN for a class without a true pixel, even if it is predicted.

    What is wrongly predicted as an absent class still counts against the classes that it was taken from. Raises
    ValueError unless the matrix is square and holds counts.
    """
    matrix = np.asarray(matrix, float)
    if matrix.ndim != 2 or len(matrix) != len(matrix.T) or not (np.isfinite(matrix) & (matrix >= 0)).all():
        raise ValueError(f"matrix {matrix.shape} must be square and hold counts, none negative or NaN")
    true, hits = matrix.sum(1), np.diag(matrix)
    union = true + matrix.sum(0) - hits
    return np.where(true > 0, hits / np.maximum(union, 1), np.nan)


def miou(matrix: ArrayLike, absent: str = "skip") -> float:
    """Mean IoU over classes; NaN where none is left.

    Args:
        matrix: the sum of the confusion matrices of a dataset, `[C, C]`.
        absent: what a class without a true pixel counts: "skip" leaves it out, "zero", as in the published
            StreetHazards code, costs a thirteenth for one absent class of 13.

    Raises:
        ValueError: another rule.
    """
    if absent not in ABSENT:
        raise ValueError(f"absent is {absent!r}; choose one of {', '.join(ABSENT)}")
    return _mean(iou(matrix), absent)


def summary(matrix: ArrayLike, dropped: int) -> dict[str, float]:
    """The four means in use, of C known classes. Pixels of the anomaly count for `miou_published` alone.

    `miou` is over the classes present; `miou_C` counts an absent one as 0, and `miou_C-1` leaves `dropped` out.
    `miou_published` is the rule of the published StreetHazards code (Hendrycks et al. 2022): an absent class is 0, and
    what a network says of an anomaly is a false positive of the class that it names.

    Args:
        matrix: `[C+1, C+1]`, the last class the anomaly, which is never predicted.
        dropped: the class that `miou_C-1` leaves out (pedestrian: it has no pixel in the real test split).
    """
    matrix = np.asarray(matrix)
    known, count = matrix[:-1, :-1], len(matrix) - 1
    return {
        "miou": miou(known),
        f"miou_{count}": miou(known, "zero"),
        f"miou_{count - 1}": _mean(np.delete(iou(known), dropped), "zero"),
        "miou_published": _mean(iou(matrix)[:-1], "zero"),
    }


def miou_per_batch(matrices: ArrayLike, batch: int) -> float:
    """The original study's figure: mIoU over the classes present in each batch, averaged over batches.

    Shown in notebooks/streethazards.ipynb only to measure how far it moves with `batch`.

    Args:
        matrices: one an image, in the order of evaluation, `[N, C, C]`.
    """
    matrices = np.asarray(matrices)
    return float(np.nanmean([miou(matrices[i : i + batch].sum(0)) for i in range(0, len(matrices), batch)]))


def open_labels(predicted: ArrayLike, scores: ArrayLike, threshold: float, anomaly: int) -> NDArray:
    """Predictions with `anomaly` wherever the anomaly score reaches the threshold; all of equal shape.

    Raises ValueError if a score or the threshold is NaN.
    """
    scores = np.asarray(scores)
    if np.isnan(threshold) or np.isnan(scores).any():
        raise ValueError(f"the threshold ({threshold}) or {int(np.isnan(scores).sum())} scores are NaN")
    return np.where(scores >= threshold, anomaly, class_ids(predicted, "predicted"))


def open_miou(matrix: ArrayLike) -> float:
    """Mean IoU over the K known classes when a detector may withdraw pixels; class K is the anomaly.

    Anomalies that pass as class k are false positives of k, and pixels of k that raise an alarm are its false
    negatives; the IoU of the anomaly itself is not part of the mean. Grcić et al. 2022, arXiv:2207.02606.

    Args:
        matrix: `[K+1, K+1]`, from labels that hold the anomaly and from `open_labels`. With a threshold chosen on
            other images: another town, or validation.
    """
    return _mean(iou(matrix)[:-1], "skip")


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
    SegmentMeIfYouCan, arXiv:2104.14812. As in its code, components are found and sized before small ones are taken
    out, and pixels of a small true one count for nothing, whatever is predicted there.

    Args:
        truth, predicted: bool `[H, W]`.
        ignored: bool `[H, W]`; nothing there counts.
        smallest_truth: true components of fewer pixels are ignored (there: 100 px for large anomalies).
        smallest_predicted: predicted components of fewer pixels are dropped (there: 500 px).

    Raises:
        ValueError: shapes differ, or a mask is of no integer type.
    """
    truth, predicted = mask_of(truth, "truth"), mask_of(predicted, "predicted")
    ignored = np.zeros_like(truth) if ignored is None else mask_of(ignored, "ignored")
    if not truth.shape == predicted.shape == ignored.shape:
        raise ValueError(f"masks differ in shape: {truth.shape}, prediction {predicted.shape}, void {ignored.shape}")
    true, sizes_true, small = labelled(truth & ~ignored, smallest_truth)
    found, sizes_found, tiny = labelled(predicted & ~ignored, smallest_predicted)
    # Truth is a small part of a frame, and only there the two meet.
    one, other = (labels[true > 0].astype(np.int64) for labels in (true, found))
    sizes_found = sizes_found - np.bincount(other[small[one]], minlength=len(sizes_found))
    sizes_true[small], sizes_found[tiny] = 0, 0
    meet = ~small[one] & ~tiny[other] & (other > 0)
    # Few of all pairs meet, so only these are listed: n x m would be 10^10 for a noisy frame of 0.9 MP.
    pairs, shared = np.unique(one[meet] * len(sizes_found) + other[meet], return_counts=True)
    one, other = np.divmod(pairs, len(sizes_found))
    hits_true, hits_found = (
        np.bincount(which, shared, len(sizes)) for which, sizes in ((one, sizes_true), (other, sizes_found))
    )
    beside = np.bincount(one, (sizes_found - hits_found)[other], len(sizes_true))  # what touches it, on no true pixel
    left, right = (np.flatnonzero(sizes[1:]) + 1 for sizes in (sizes_true, sizes_found))
    return hits_true[left] / (sizes_true + beside)[left], hits_found[right] / sizes_found[right]


def component_summary(siou: ArrayLike, ppv: ArrayLike) -> dict[str, float]:
    """Means over all components of a dataset, and F1* averaged over the thresholds 0.25..0.75.

    Args:
        siou: of all true components of all images, concatenated.
        ppv: of all predicted ones.

    Returns:
        `siou`, `ppv` (NaN where there is no component) and `f1` (NaN only where there is neither kind).

    Raises:
        ValueError: a value is NaN or outside 0..1.
    """
    siou, ppv = np.asarray(siou, float), np.asarray(ppv, float)
    for name, values in (("siou", siou), ("ppv", ppv)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} holds values that are NaN or outside 0..1")
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


def _mean(each: NDArray[np.float64], absent: str) -> float:
    each = each[~np.isnan(each)] if absent == "skip" else np.nan_to_num(each, nan=0.0)
    return float(each.mean()) if each.size else float("nan")


def mask_of(labels: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Where `class_ids` are above 0."""
    found = np.asarray(labels)
    return found if found.dtype == bool else class_ids(found, name) > 0


def labelled(mask: NDArray[np.bool_], smallest: int) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Components of a mask, their sizes, and which (never 0, what is beside them) are smaller."""
    labels = np.zeros(mask.shape, np.int32)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if rows.size:  # the rest is empty
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        labels[box] = ndimage.label(mask[box], EIGHT)[0]
    sizes = np.bincount(labels[mask], minlength=1)
    small = sizes < smallest
    small[0] = False
    return labels, sizes, small
