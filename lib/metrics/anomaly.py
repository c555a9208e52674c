"""How well scores find anomalous pixels: AUROC, AUPR and FPR95, pooled over all pixels and averaged over images.

Higher scores are more anomalous. Each measure is a function of a `Curve` (lib.metrics.curves). Introduced in
notebooks/streethazards.ipynb.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma

from lib.metrics.curves import Curve, Pool, bins_of, checked, exact_curve
from lib.metrics.segmentation import bootstrap

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

    Inside a bin of a `Pool` anomalies and others are taken as evenly mixed; `bounds` assumes nothing.

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
    if not curve.binned:
        return float((curve.anomalies * hits / flagged).sum() / p)
    a, before = curve.anomalies, flagged - curve.anomalies - curve.others
    gap = 1 + curve.others / (a + 1)  # pixels from one anomaly of the bin to the next, on average over all orders
    # The sum over j = 1..a of (hits + j) / (flagged + gap j), both as they stand before the bin.
    rest = (hits - a - before / gap) / gap
    steps = a / gap + rest * (digamma(before / gap + a + 1) - digamma(before / gap + 1))
    return float(steps.sum() / p)


def fpr(curve: Curve, recall: float = 0.95, rule: str = "first") -> float:
    """False-positive rate at a recall; NaN unless both kinds of pixels are there.

    Args:
        rule: "first" is the highest threshold whose recall is at least that; "nearest" the one whose recall is
            nearest, as in the published StreetHazards code.

    Raises:
        ValueError: another rule.
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
    if not curve.binned or not (p and n):
        return {key: (value, value) for key, value in measure(curve).items()}
    a, b = curve.anomalies.astype(float), curve.others.astype(float)
    hits, alarms = np.cumsum(a), np.cumsum(b)
    area, half = auroc(curve), float((a * b).sum() / (2 * p * n))
    # Best: all anomalies of a bin tie at its top. Worst: they come one by one after all others, and the precisions
    # (hits + j) / (hits + alarms + j), j = 1..a, sum to a - alarms * (digamma difference).
    best = (a * hits / np.maximum(hits + alarms - b, 1)).sum() / p
    worst = (a - alarms * (digamma(hits + alarms + 1) - digamma(hits - a + alarms + 1))).sum() / p
    i = _at_recall(curve, 0.95, "first")
    return {
        "auroc": (area - half, area + half),
        "aupr": (float(worst), float(best)),
        "fpr95": (float((alarms[i] - b[i]) / n), float(alarms[i] / n)),
    }


def threshold_at_fpr(curve: Curve, rate: float) -> float:
    """The lowest threshold that flags at most `rate` of the pixels that are no anomalies; infinite if none does.

    The choice for validation data, which hold no anomaly: an alarm budget.
    """
    allowed = np.cumsum(curve.others) <= rate * curve.others.sum()
    return float(curve.thresholds[allowed][-1]) if allowed.any() else float("inf")


def threshold_at_recall(curve: Curve, recall: float = 0.95) -> float:
    """The highest threshold that finds at least `recall` of the anomalies; needs a town with anomalies."""
    return float(curve.thresholds[_at_recall(curve, recall, "first")])


def threshold_at_best_f1(curve: Curve) -> float:
    """The threshold of the best F1. On the data it is reported for it flatters: choose it in another town."""
    hits = np.cumsum(curve.anomalies)
    return float(curve.thresholds[np.argmax(2 * hits / (hits + np.cumsum(curve.others) + curve.anomalies.sum()))])


def at_threshold(curve: Curve, threshold: float) -> dict[str, float]:
    """Recall, false-positive rate, precision and F1 when every pixel that reaches `threshold` is flagged.

    Within a bin of a `Pool` it acts as the next threshold above; `threshold_*` return edges, which are exact.
    """
    flagged = curve.thresholds >= np.float32(threshold)
    hits, alarms, (p, n) = curve.anomalies[flagged].sum(), curve.others[flagged].sum(), _totals(curve)
    ratio = lambda x, y: float(x / y) if y else float("nan")  # noqa: E731
    return {
        "recall": ratio(hits, p),
        "fpr": ratio(alarms, n),
        "precision": ratio(hits, hits + alarms),
        "f1": ratio(2 * hits, hits + alarms + p),
    }


@dataclass(frozen=True)
class Report:
    """What `evaluate` found."""

    curve: Curve  # over all pixels
    images: NDArray[np.float64]  # [images, 3]: KEYS of each image, NaN where it lacks either kind
    counts: NDArray[np.int64]  # [images, bins, 2]: others and anomalies at falling scores, bins 64 times wider

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
            pooled = measure(Curve(np.zeros(some.sum(), np.float32), anomalies[some], others[some], True))
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
    """
    pool, rows, coarse = Pool(), [], []
    for scores, labels in images:
        scores, labels = torch.as_tensor(scores).detach().cpu(), torch.as_tensor(labels).cpu()
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
    return Report(pool.curve(), np.array(rows), counts[:, ::-1])


def _mean(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of the columns without NaN; NaN where nothing is left."""
    valid = ~np.isnan(images)
    return np.where(valid.any(0), np.nan_to_num(images).sum(0) / np.maximum(valid.sum(0), 1), np.nan)


def _totals(curve: Curve) -> tuple[int, int]:
    return int(curve.anomalies.sum()), int(curve.others.sum())


def _at_recall(curve: Curve, recall: float, rule: str) -> int:
    if rule not in ("first", "nearest"):
        raise ValueError(f"rule is {rule!r}; choose first or nearest")
    found = np.cumsum(curve.anomalies) / curve.anomalies.sum()
    return int(np.argmin(np.abs(found - recall)) if rule == "nearest" else np.argmax(found >= recall))
