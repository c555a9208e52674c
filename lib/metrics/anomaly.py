"""How well scores find anomalous pixels: AUROC, AUPR and FPR95, pooled over all pixels and averaged over images.

Higher scores are more anomalous. Each measure is a function of a `Curve` (lib.metrics.anomaly). Introduced in
notebooks/streethazards.ipynb.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma
from torch import Tensor

from lib.metrics.intervals import bootstrap
from lib.metrics.segmentation import class_ids


class Curve(NamedTuple):
    """Counts of pixels at falling thresholds, each with at least one pixel at it or above and below the one before."""

    thresholds: NDArray[np.float32]  # [n], strictly falling; a pixel is flagged when its score reaches it
    anomalies: NDArray[np.int64]  # [n]
    others: NDArray[np.int64]  # [n]
    mixed: NDArray[np.bool_] | bool = False  # [n], which steps hold different scores; all others are ties


def exact_curve(scores: ArrayLike, anomalies: ArrayLike) -> Curve:
    """The curve of all distinct scores: scores and truth (bool) of equal shape; ValueError as `checked`."""
    scores, anomalies = checked(scores, anomalies)
    scores, order = torch.sort(scores, descending=True)
    hits = anomalies[order].long().cumsum(0).numpy()
    scores = scores.numpy()
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))[: len(scores)]
    found = np.diff(hits[last], prepend=0)
    return Curve(scores[last], found, np.diff(last, prepend=-1) - found)


class Pool:
    """Counts of scores in bins of equal float32 exponent and leading mantissa bits; memory does not grow with pixels.

    Args:
        bits: of the 32 that a bin keeps; 22 leaves 13 of the mantissa, so a bin is at most 1.3e-4 of its score wide,
            and takes 96 MiB. No range has to be known.
        device: where the counts are kept; scores may be on any.
    """

    def __init__(self, bits: int = 22, device: str = "cpu"):
        self.bits = bits
        self.counts = torch.zeros(2 << bits, dtype=torch.int64, device=device)  # [bins * 2], anomalies at odd places
        # A bin whose lowest score is its highest holds ties alone, so nothing about it is lost.
        self.low, self.high = (torch.full((1 << bits,), end, device=device) for end in (torch.inf, -torch.inf))

    def add(self, scores: ArrayLike, anomalies: ArrayLike) -> None:
        """Count some pixels: scores (taken as float32) and truth (bool) of equal shape; ValueError as `checked`."""
        scores, anomalies = checked(scores, anomalies)
        for part, truth in zip(scores.split(1 << 20), anomalies.split(1 << 20), strict=True):
            part, truth = part.to(self.counts.device), truth.to(self.counts.device)
            bins = bins_of(part, self.bits)
            self.counts.scatter_add_(0, bins * 2 + truth, torch.ones_like(bins))
            self.low.scatter_reduce_(0, bins, part, "amin")
            self.high.scatter_reduce_(0, bins, part, "amax")

    def curve(self) -> Curve:
        """What has been counted so far."""
        pairs = self.counts.view(-1, 2)
        bins = pairs.sum(1).nonzero()[:, 0].flip(0)
        low, high, counts = (part[bins].cpu().numpy() for part in (self.low, self.high, pairs))
        return Curve(low, counts[:, 1], counts[:, 0], low < high)


def checked(scores: ArrayLike, anomalies: ArrayLike) -> tuple[Tensor, Tensor]:
    """Scores as float32 `[N]` and truth as bool `[N]`, on their devices.

    Raises:
        ValueError: shapes differ, a score is not finite as float32, or truth is not bool.
    """
    scores, anomalies = tensor(scores).float(), tensor(anomalies)
    if scores.shape != anomalies.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and truth {tuple(anomalies.shape)} differ in shape")
    if anomalies.dtype != torch.bool:
        raise ValueError(f"truth is {anomalies.dtype}, not bool; hand in labels == anomaly")
    if lost := int((~scores.isfinite()).sum()):
        raise ValueError(f"{lost} of {scores.numel()} scores are not finite (NaN or infinite); mend or ignore them")
    return scores.flatten() + 0.0, anomalies.flatten()  # -0.0 + 0.0 is 0.0, which it equals


def tensor(values: ArrayLike) -> Tensor:
    """Values as a tensor without gradients, on its device; an array may be mirrored or read-only."""
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def bins_of(scores: Tensor, bits: int) -> Tensor:
    """The bin of each score, int64, rising with it: flipping all but the sign of a negative float orders patterns."""
    key = scores.view(torch.int32)
    key = key ^ ((key >> 31) & 0x7FFFFFFF)
    return ((key >> (32 - bits)) + (1 << (bits - 1))).long()


KEYS = ("auroc", "aupr", "fpr95")
NAMES = tuple(f"{key}_{kind}" for kind in ("pooled", "per_image") for key in KEYS)
COARSE = 6  # bits that the counts kept for each image lack


def auroc(curve: Curve) -> float:
    """Area under the ROC curve, ties counting half; NaN unless both kinds of pixels are there."""
    p, n = _totals(curve)
    below = n - np.cumsum(curve.others, dtype=float)
    return float((curve.anomalies * (below + curve.others / 2)).sum() / (p * n)) if p and n else float("nan")


def aupr(curve: Curve, rule: str = "step") -> float:
    """Area under precision over recall; NaN unless both kinds of pixels are there.

    Where a bin of a `Pool` holds different scores, anomalies and others are taken as evenly mixed; `bounds` assumes
    nothing. Equal scores are one step.

    Args:
        rule: "step" is average precision, as everywhere in this workbook; "trapezoid" joins the points by lines, as
            some packages do, which is optimistic.

    Raises:
        ValueError: another rule.
    """
    if rule not in ("step", "trapezoid"):
        raise ValueError(f"rule is {rule!r}; choose step or trapezoid")
    p, n = _totals(curve)
    if not (p and n):
        return float("nan")
    hits, flagged = np.cumsum(curve.anomalies, dtype=float), np.cumsum(curve.anomalies + curve.others, dtype=float)
    if rule == "trapezoid":
        return float(np.trapezoid(np.append(1, hits / flagged), np.append(0, hits / p)))
    a, before, tied = curve.anomalies, flagged - curve.anomalies - curve.others, curve.anomalies * hits / flagged
    gap = 1 + curve.others / (a + 1)  # pixels from one anomaly of the bin to the next, on average over all orders
    # The sum over j = 1..a of (hits + j) / (flagged + gap j), both as they stand before the bin.
    rest = (hits - a - before / gap) / gap
    steps = a / gap + rest * (digamma(before / gap + a + 1) - digamma(before / gap + 1))
    return float(np.where(curve.mixed, steps, tied).sum() / p)


def fpr(curve: Curve, recall: float = 0.95, rule: str = "first") -> float:
    """False-positive rate at a recall; NaN unless both kinds of pixels are there.

    Args:
        rule: "first" is the highest threshold whose recall is at least that; "nearest" is that of the published
            StreetHazards code (Hendrycks et al. 2022, fpr_and_fdr_at_recall): the recall that is nearest, and of
            thresholds with that recall the lowest, so that all others between two anomalies count.

    Raises:
        ValueError: another rule, or a recall outside 0..1.
    """
    p, n = _totals(curve)
    if not (p and n):
        return float("nan")
    return float(np.cumsum(curve.others)[_at_recall(curve, recall, rule)] / n)


def measure(curve: Curve, rule: str = "first") -> dict[str, float]:
    """AUROC, AUPR and FPR95 of one curve, under the names of `KEYS`; `rule` as in `fpr`."""
    return dict(zip(KEYS, (auroc(curve), aupr(curve), fpr(curve, rule=rule)), strict=True))


def bounds(curve: Curve) -> dict[str, tuple[float, float]]:
    """Between which values AUROC, AUPR and FPR95 (first) lie, whatever the order and the ties inside the bins."""
    p, n = _totals(curve)
    if not (p and n):
        return dict.fromkeys(KEYS, (float("nan"), float("nan")))
    a, b, mixed = curve.anomalies.astype(float), curve.others.astype(float), np.broadcast_to(curve.mixed, len(curve[0]))
    hits, alarms = np.cumsum(a), np.cumsum(b)
    area, half = auroc(curve), float((a * b * mixed).sum() / (2 * p * n))
    # Best: all anomalies of a mixed bin tie at its top. Worst: they come one by one after all others, and the
    # precisions (hits + j) / (hits + alarms + j), j = 1..a, sum to a - alarms * (digamma difference).
    best = a * hits / np.maximum(hits + alarms - b * mixed, 1)
    worst = a - alarms * (digamma(hits + alarms + 1) - digamma(hits - a + alarms + 1))
    i = _at_recall(curve, 0.95, "first")
    return {
        "auroc": (area - half, area + half),
        "aupr": (float(np.where(mixed, worst, best).sum() / p), float(best.sum() / p)),
        "fpr95": (float((alarms[i] - mixed[i] * b[i]) / n), float(alarms[i] / n)),
    }


def threshold_at_fpr(curve: Curve, rate: float) -> float:
    """The lowest threshold that flags at most `rate` of the pixels that are no anomalies; infinite if none does.

    The choice for validation data, which hold no anomaly: an alarm budget. Raises ValueError if all are anomalies, or
    for a rate outside 0..1.
    """
    if not curve.others.any() or not 0 <= rate <= 1:
        raise ValueError(f"no threshold for a rate of {rate} on {int(curve.others.sum())} pixels that are no anomalies")
    allowed = np.cumsum(curve.others) <= rate * curve.others.sum()
    return float(curve.thresholds[allowed][-1]) if allowed.any() else float("inf")


def threshold_at_recall(curve: Curve, recall: float = 0.95) -> float:
    """The highest threshold that finds at least `recall` of the anomalies; ValueError where there is none."""
    return float(curve.thresholds[_at_recall(curve, recall, "first")])


def threshold_at_best_f1(curve: Curve) -> float:
    """The threshold of the best F1; ValueError where there is no anomaly.

    On the data it is reported for it flatters: choose it in another town.
    """
    hits = _found(curve)
    return float(curve.thresholds[np.argmax(2 * hits / (hits + np.cumsum(curve.others) + curve.anomalies.sum()))])


@dataclass(frozen=True)
class Report:
    """What `evaluate` found."""

    curve: Curve  # over all pixels
    images: NDArray[np.float64]  # [images, 3]: KEYS of each image, NaN where it lacks either kind
    counts: NDArray[np.int64]  # [images, bins, 2]: others and anomalies at falling scores, bins 64 times wider
    mixed: NDArray[np.bool_]  # [bins], as in `Curve`

    @property
    def values(self) -> dict[str, float]:
        """`auroc_pooled` and so on, and `auroc_per_image`: the mean over images that hold both kinds."""
        return dict(zip(NAMES, [*measure(self.curve).values(), *_mean(self.images)], strict=True))

    def intervals(self, draws: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Bootstrap over images of everything in `values`."""
        flat = self.counts.reshape(len(self.counts), -1).astype(float)

        def statistic(weights: NDArray[np.int64]) -> list[float]:
            others, anomalies = (weights @ flat).reshape(-1, 2).T
            some = others + anomalies > 0  # the order is that of the bins, so no threshold is needed
            pooled = measure(Curve(np.zeros(some.sum(), np.float32), anomalies[some], others[some], self.mixed[some]))
            return [*pooled.values(), *_mean(np.repeat(self.images, weights, axis=0))]

        low, high = bootstrap(statistic, len(flat), draws, level, seed)
        return {name: (float(a), float(b)) for name, a, b in zip(NAMES, low, high, strict=True)}


def evaluate(
    images: Iterable[tuple[ArrayLike, ArrayLike]],
    anomaly: int,
    ignored: Sequence[int] = (255,),
    rule: str = "first",
) -> Report:
    """Score a dataset image by image.

    The three protocols of the literature: StreetHazards' own is `values["*_per_image"]` with rule="nearest" and
    nothing ignored; Zagreb's ignores "other" as well; pooled is `values["*_pooled"]`. They are not comparable.

    Args:
        images: pairs of scores and labels, both `[H, W]`; labels at the resolution that is to be judged.
        anomaly: id of the positives; every other id that is not ignored is a negative.
        ignored: ids that do not count.
        rule: of the FPR95 of each image, see `fpr`.

    Raises:
        ValueError: no image; shapes differ; a score that counts is not finite; labels are of no integer type.
    """
    pool, rows, coarse = Pool(), [], []
    for scores, labels in images:
        scores, labels = tensor(scores).cpu(), torch.from_numpy(class_ids(labels, f"labels of image {len(rows)}"))
        if scores.shape != labels.shape:
            raise ValueError(f"image {len(rows)}: scores {tuple(scores.shape)}, labels {tuple(labels.shape)}")
        counted = ~torch.isin(labels, torch.tensor(list(ignored), dtype=labels.dtype))
        scores, truth = checked(scores[counted], labels[counted] == anomaly)
        pool.add(scores, truth)
        rows.append(list(measure(exact_curve(scores, truth), rule).values()))
        keys = bins_of(scores, pool.bits - COARSE) * 2 + truth
        coarse.append(np.unique(keys.numpy(), return_counts=True))
    if not rows:
        raise ValueError("no image to evaluate")
    used = np.unique(np.concatenate([keys for keys, _ in coarse]) // 2)
    counts = np.zeros((len(rows), len(used), 2), np.int64)
    for image, (keys, number) in zip(counts, coarse, strict=True):
        image[np.searchsorted(used, keys // 2), keys % 2] = number
    curve = pool.curve()
    # A wide bin holds ties alone if it is one narrow bin that does.
    wide = bins_of(torch.from_numpy(curve.thresholds), pool.bits - COARSE).numpy()
    _, first, number = np.unique(wide, return_index=True, return_counts=True)
    return Report(curve, np.array(rows), counts[:, ::-1], (curve.mixed[first] | (number > 1))[::-1])


def _mean(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of the columns without NaN; NaN where nothing is left."""
    valid = ~np.isnan(images)
    return np.where(valid.any(0), np.nan_to_num(images).sum(0) / np.maximum(valid.sum(0), 1), np.nan)


def _totals(curve: Curve) -> tuple[int, int]:
    return int(curve.anomalies.sum()), int(curve.others.sum())


def _found(curve: Curve) -> NDArray[np.int64]:
    if not curve.anomalies.any():
        raise ValueError("no pixel is an anomaly, so no threshold finds any; choose it on images with anomalies")
    return np.cumsum(curve.anomalies)


def _at_recall(curve: Curve, recall: float, rule: str) -> int:
    if rule not in ("first", "nearest") or not 0 <= recall <= 1:
        raise ValueError(f"rule is {rule!r} and recall {recall}; choose first or nearest, and a recall in 0..1")
    hits = _found(curve)
    found = hits / hits[-1]
    if rule == "first":
        return int(np.argmax(found >= recall))
    last = int(np.argmax(hits == hits[-1]))
    return last - int(np.argmin(np.abs(found[last::-1] - recall)))
