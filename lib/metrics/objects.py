"""How well slots hold objects. Ids: 0 is background, object i has id i+1; masks are soft and sum to one over slots.

Per image hand in `[H, W]` and `[K, H, W]`; per video `[T, H, W]` and `[K, T, H, W]`: time is flattened into space, so a
slot must keep its object. `evaluate` does both for a batch. Introduced in notebooks/ex_slot1.ipynb.

A measure that has nothing to measure is NaN, never a perfect score, and means are taken over the rest: FG-ARI, mBO and
mIoU where no object is in sight, mask similarity and slot diversity with a single slot. One object held by one slot
scores FG-ARI 1, one object split over slots 0. Objects beyond the number of slots count with IoU 0 in mIoU.

What is not finite is refused (ValueError, which names the argument): an argmax of NaN is a mask like any other. Labels
may be of any integer or bool type and stride, masks of any floating type and with gradients.
"""

from itertools import combinations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor

KEYS = ("fg_ari", "ari", "mbo", "miou", "oir_50", "dof_50", "mask_similarity", "mask_entropy", "active_slots")


def finite(name: str, values: ArrayLike) -> Tensor:
    """Masks, slots or images as a tensor where they are, in single precision or better, without gradients.

    Raises:
        ValueError: a value is not finite.
    """
    values = torch.as_tensor(np.ascontiguousarray(values) if isinstance(values, np.ndarray) else values)
    values = values.detach()
    if not (ok := torch.isfinite(values)).all():
        raise ValueError(f"{name}: {int((~ok).sum())} of {ok.numel()} values are not finite; did training diverge?")
    return values if values.dtype == torch.float64 else values.float()


def ids_of(name: str, labels: ArrayLike) -> NDArray:
    """Labels as an array, whatever holds them. Raises ValueError where one is not finite."""
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = (labels.float() if labels.is_floating_point() else labels).numpy()
    labels = np.asarray(labels)
    if labels.dtype.kind == "f":
        finite(name, labels)
    return labels.view(np.uint8) if labels.dtype == bool else labels


def ari(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Adjusted Rand index of two labellings of equal shape, background included; 1 is equal up to names.

    Hubert and Arabie 1985, through scikit-learn. Chance is 0, worse than chance is negative.
    """
    truth, predicted = _labels(truth, predicted)
    return float(adjusted_rand_score(truth, predicted))


def fg_ari(truth: ArrayLike, predicted: ArrayLike) -> float:
    """ARI over the pixels of objects alone (Greff et al. 2019); NaN where there is no object.

    Blind to the background: two half-planes over two objects score 1. Report it beside `ari` and `mbo`.
    """
    truth, predicted = _labels(truth, predicted)
    objects = truth > 0
    return ari(truth[objects], predicted[objects]) if objects.any() else float("nan")


def iou_matrix(truth: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union `[objects, segments]` of every object present with every predicted segment present."""
    truth, predicted = _labels(truth, predicted)
    overlap = contingency_matrix(truth, predicted).astype(float)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    return (overlap / union)[np.unique(truth) > 0]


def mbo(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean best overlap: each object's best IoU with any segment, which may serve twice; NaN without objects.

    Pont-Tuset et al. 2017; background is no object here, unlike in some published tables.
    """
    iou = iou_matrix(truth, predicted)
    return float(iou.max(1).mean()) if iou.size else float("nan")


def miou(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean IoU of objects under the best one-to-one matching; an object left over counts 0; NaN without objects."""
    iou = iou_matrix(truth, predicted)
    return float(iou[linear_sum_assignment(-iou)].sum() / len(iou)) if iou.size else float("nan")


def oir(truth: ArrayLike, predicted: ArrayLike, least: float = 0.5) -> float:
    """Object identification recall: the share of objects that a segment holds with IoU `least`; NaN without objects.

    Named by SlotCurri (Moon et al. 2026, arXiv:2603.22758); its released code has neither this nor `dof`, so both are
    defined here.
    """
    iou = iou_matrix(truth, predicted)
    return float((iou.max(1) >= least).mean()) if iou.size else float("nan")


def dof(truth: ArrayLike, predicted: ArrayLike, least: float = 0.5) -> float:
    """Degree of over-fragmentation: how many segments lie in an object by `least` of their pixels, a count.

    Mean over the objects in which any segment does, NaN without such; 1 is whole, 2 is cut in two. See `oir`.
    """
    truth, predicted = _labels(truth, predicted)
    overlap = contingency_matrix(truth, predicted)
    within = (overlap >= least * overlap.sum(0))[np.unique(truth) > 0].sum(1)
    return float(within[within > 0].mean()) if within.any() else float("nan")


def mean_pairwise_cosine(vectors: Tensor) -> float:
    """Mean cosine over pairs of different rows of `[K, D]`; NaN for a single row, 0 with a row of zeros.

    Of slots it is reported as `slot_diversity`, the original study's slot similarity: lower is more diverse. Its
    ex_comparison called the cosine between masks by this name too, `mask_similarity` here.
    """
    if len(vectors) < 2:
        return float("nan")
    unit = torch.nn.functional.normalize(finite("vectors", vectors).double(), dim=1)
    return float((unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool, device=unit.device)].mean())


def mask_similarity(masks: Tensor) -> float:
    """Mean pairwise cosine between the masks `[K, ...]` of different slots: 1 is full collapse, 0 no overlap at all."""
    return mean_pairwise_cosine(finite("masks", masks).flatten(1))


def mask_entropy(masks: Tensor) -> float:
    """Mean entropy over slots at each pixel of `[K, ...]`, divided by log K: 0 is certain, 1 is uniform."""
    num_slots, masks = len(masks), finite("masks", masks)
    if num_slots < 2:
        return 0.0
    return float(torch.special.entr(masks.double()).sum(0).mean() / np.log(num_slots))


def active_slots(masks: Tensor, share: float = 0.01) -> int:
    """How many slots win (argmax) at least `share` of the pixels of `[K, ...]`; a count, not in 0..1."""
    winners = finite("masks", masks).flatten(1).argmax(0)
    return int((torch.bincount(winners, minlength=len(masks)) >= share * winners.numel()).sum())


def mask_stability(first: Tensor, second: Tensor, matched: bool = True) -> float:
    """Mean cosine between the masks `[K, ...]` of one image before and after a change; 1 is unmoved.

    Args:
        first, second: masks on the same pixel grid.
        matched: pair slots by the best assignment (Hungarian) or, as the original study did, by index. With slots
            drawn at random the index carries no identity, so the second measures mostly a permutation.
            Shown in notebooks/ex_slot5.ipynb.
    """
    if first.shape != second.shape:
        raise ValueError(f"masks differ in shape: {tuple(first.shape)} and {tuple(second.shape)}")
    pair = (finite("first", first), finite("second", second))
    a, b = (torch.nn.functional.normalize(m.flatten(1).double(), dim=1) for m in pair)
    cosine = (a @ b.T).cpu().numpy()
    pairs = linear_sum_assignment(-cosine) if matched else (range(len(a)), range(len(a)))
    return float(cosine[pairs].mean())


def pairwise_stability(masks: Tensor, matched: bool = True) -> float:
    """`mask_stability` averaged over all pairs of `V` versions of one image, masks `[V, K, H, W]`."""
    return float(np.mean([mask_stability(a, b, matched) for a, b in combinations(masks, 2)]))


def evaluate(truth: Tensor, masks: Tensor) -> dict[str, NDArray[np.float64]]:
    """All measures of a batch, one value a sample.

    Args:
        truth: ids, images `[B, H, W]` or videos `[B, T, H, W]`.
        masks: soft masks `[B, K, H, W]` or `[B, T, K, H, W]`; resized bilinearly where their size differs.

    Returns:
        Arrays `[B]` under the names of `KEYS`; of a video `video_fg_ari` and so on: all over time and space at once.
    """
    truth, masks = ids_of("ground truth", truth), finite("masks", masks)
    video = truth.ndim == 4
    if masks.shape[-2:] != truth.shape[-2:]:
        # Soft masks grow bilinearly before anything is decided; the ground truth is never resized.
        flat = masks.flatten(0, -4)
        masks = torch.nn.functional.interpolate(flat, truth.shape[-2:], mode="bilinear", align_corners=False).view(
            *masks.shape[:-2], *truth.shape[-2:]
        )
    if video:
        masks = masks.transpose(1, 2)  # [B, K, T, H, W]
    rows = []
    for ids, soft in zip(truth, masks, strict=True):
        hard = soft.argmax(0).cpu().numpy()
        agreement = [measure(ids, hard) for measure in (fg_ari, ari, mbo, miou, oir, dof)]
        rows.append([*agreement, mask_similarity(soft), mask_entropy(soft), active_slots(soft)])
    prefix = "video_" if video else ""
    return {prefix + key: column for key, column in zip(KEYS, np.array(rows, dtype=float).T, strict=True)}


def _labels(truth: ArrayLike, predicted: ArrayLike) -> tuple[NDArray, NDArray]:
    truth, predicted = ids_of("ground truth", truth), ids_of("predicted", predicted)
    if truth.shape != predicted.shape:
        raise ValueError(f"labels differ in shape: {truth.shape} and {predicted.shape}")
    if truth.size == 0:
        raise ValueError("labels are empty")
    return _narrow(truth.ravel()), _narrow(predicted.ravel())


def _narrow(labels: NDArray) -> NDArray:
    # Most of the time of every measure is the sorting of labels, several times faster in two bytes than in eight.
    narrow = labels.astype(np.int16)
    return narrow if np.array_equal(narrow, labels) else labels
