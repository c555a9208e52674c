"""How well scores find anomalous pixels: AUROC, AUPR and FPR95, pooled over all pixels and averaged over images.

Higher scores are more anomalous. Each measure is a function of a `Curve` (lib.metrics.anomaly). Introduced in
notebooks/streethazards.ipynb.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma
from torch import Tensor

from lib.metrics.intervals import weights
from lib.metrics.segmentation import class_ids


class Curve(NamedTuple):
    """Counts of pixels at falling thresholds, each with at least one pixel at it or above and below the one before."""

    thresholds: NDArray[np.float32]  # [n], strictly falling; a pixel is flagged when its score reaches it
    anomalies: NDArray[np.int64]  # [n]
    others: NDArray[np.int64]  # [n]
    mixed: NDArray[np.bool_] | bool = False  # [n], which steps hold different scores; all others are ties


def exact_curve(scores: ArrayLike, anomalies: ArrayLike) -> Curve:
    """The curve of all distinct scores: scores and truth (bool) of equal shape; ValueError as `checked`."""
    scores, order = torch.sort(checked(scores, anomalies)[0], descending=True)
    return _exact(scores, tensor(anomalies).flatten()[order])


class Pool:
    """Counts of scores in bins of equal float32 exponent and leading mantissa bits; memory grows with bins, not pixels.

    Pools of the same kinds add up. No range has to be known.

    Args:
        bits: of the 32 that a bin keeps; 22 leaves 13 of the mantissa, so a bin is at most 1.3e-4 of its score wide.
        kinds: how many kinds of pixels are told apart; of two, 1 is the anomaly.
    """

    def __init__(self, bits: int = 22, kinds: int = 2):
        self.bits = bits
        self.bins = torch.zeros(0, dtype=torch.int64)  # rising, those in use
        self.counts = torch.zeros(0, kinds, dtype=torch.int64)
        # A bin whose lowest score is its highest holds ties alone, so nothing about it is lost.
        self.ends = torch.zeros(0, 2)  # lowest score, and minus the highest

    def add(self, scores: ArrayLike, kinds: ArrayLike) -> None:
        """Count some pixels: scores (taken as float32) and kinds (bool, or uint8 if there are more than two).

        Raises ValueError as `checked`.
        """
        scores, kinds = checked(scores, kinds, self.counts.shape[1])
        bins, at = torch.unique(bins_of(scores, self.bits), return_inverse=True)
        self._merge(bins, *_gathered(at, len(bins), kinds, self.counts.shape[1], scores))

    def of(self, anomalies: Sequence[int], others: Sequence[int]) -> "Pool":
        """The pool of two kinds that takes some kinds for anomalies, some for others, and leaves out the rest."""
        found = Pool(self.bits)
        sides = [self.counts[:, list(kinds)].sum(1) for kinds in (others, anomalies)]
        found._merge(self.bins, torch.stack(sides, 1), self.ends)
        return found

    def __add__(self, other: "Pool") -> "Pool":
        found = Pool(self.bits, self.counts.shape[1])
        for pool in (self, other):
            found._merge(pool.bins, pool.counts, pool.ends)
        return found

    def curve(self) -> Curve:
        """What has been counted so far, of two kinds."""
        some = self.counts.sum(1).nonzero()[:, 0].flip(0)
        low, high, counts = self.ends[some, 0].cpu(), -self.ends[some, 1].cpu(), self.counts[some].cpu().numpy()
        return Curve(low.numpy(), counts[:, 1], counts[:, 0], (low < high).numpy())

    def _merge(self, bins: Tensor, counts: Tensor, ends: Tensor) -> None:
        known = (part.to(bins.device) for part in (self.bins, self.counts, self.ends))
        bins, counts, ends = (torch.cat(pair) for pair in zip(known, (bins, counts, ends), strict=True))
        self.bins, at = torch.unique(bins, return_inverse=True)
        self.counts = counts.new_zeros(len(self.bins), counts.shape[1]).index_add_(0, at, counts)
        lowest = ends.new_full((len(self.bins), 2), torch.inf)
        self.ends = lowest.scatter_reduce_(0, at[:, None].expand(-1, 2), ends, "amin")


def checked(scores: ArrayLike, kinds: ArrayLike, many: int = 2) -> tuple[Tensor, Tensor]:
    """Scores as float32 `[N]` and kinds, one of `many` each, as `[N]`, on their devices; of two, as bool.

    Raises:
        ValueError: shapes differ, a score is not finite as float32, or truth is not bool (more kinds: uint8).
    """
    scores, kinds = tensor(scores).float(), tensor(kinds)
    if scores.shape != kinds.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and truth {tuple(kinds.shape)} differ in shape")
    if kinds.dtype != (torch.bool if many == 2 else torch.uint8):
        raise ValueError(f"truth is {kinds.dtype}, not bool; hand in labels == anomaly")
    if lost := int((~scores.isfinite()).sum()):
        raise ValueError(f"{lost} of {scores.numel()} scores are not finite (NaN or infinite); mend or ignore them")
    return scores.flatten() + 0.0, kinds.flatten()  # -0.0 + 0.0 is 0.0, which it equals


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
    if not np.any(curve.mixed):
        return float(tied.sum() / p)
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
    """What an `Evaluation` found, of all pixels or of some."""

    curve: Curve  # over all pixels that count
    images: NDArray[np.float64]  # [images, 3]: KEYS of each image, NaN where it lacks either kind
    counts: NDArray[np.int64]  # [images, bins, 2]: others and anomalies at falling scores, bins 64 times wider
    mixed: NDArray[np.bool_]  # [bins], as in `Curve`

    @property
    def values(self) -> dict[str, float]:
        """`auroc_pooled` and so on, and `auroc_per_image`: the mean over images that hold both kinds."""
        return dict(zip(NAMES, [*measure(self.curve).values(), *_mean(self.images)], strict=True))

    def draws(self, draws: int = 1000) -> dict[str, NDArray[np.float64]]:
        """Everything in `values` under `intervals.weights` of the images, `[draws]` each: the same for every score."""
        flat = self.counts.reshape(len(self.counts), -1).astype(float)

        def statistic(weights: NDArray[np.int64]) -> list[float]:
            others, anomalies = (weights @ flat).reshape(-1, 2).T
            some = others + anomalies > 0  # the order is that of the bins, so no threshold is needed
            pooled = measure(Curve(np.zeros(some.sum(), np.float32), anomalies[some], others[some], self.mixed[some]))
            return [*pooled.values(), *_mean(np.repeat(self.images, weights, axis=0))]

        found = np.array([statistic(w) for w in weights(len(flat), draws)])
        return dict(zip(NAMES, found.T, strict=True))


class Evaluation:
    """One score over a dataset, image by image; keeps counts and three measures an image, no pixel.

    The three protocols of the literature: StreetHazards' own is `values["*_per_image"]` with rule="nearest" and
    nothing left out; Zagreb's leaves out "other" as well; pooled is `values["*_pooled"]`. They are not comparable.

    Args:
        subsets: by name, the kinds of pixels (see `pixel_kinds`) of which each image is measured.
        kinds: how many kinds there may be.
    """

    def __init__(self, subsets: Mapping[str, Sequence[int]], kinds: int = 2):
        self.subsets = {name: list(chosen) for name, chosen in subsets.items()}
        self.kinds, self.pools = kinds, {}
        self.rows: dict[str, list[list[float]]] = {name: [] for name in subsets}
        self.coarse: dict[str, list[tuple[NDArray, NDArray]]] = {name: [] for name in subsets}

    def add(self, scores: ArrayLike, kinds: Tensor, group: str = "") -> None:
        """One image: scores and `pixel_kinds`, both `[H, W]`; pixels of the kind `IGNORED` do not count.

        Args:
            group: where pixels are pooled, such as a town; all of them together are the dataset.

        Raises:
            ValueError: shapes differ, or a score that counts is not finite.
        """
        scores = tensor(scores)
        if scores.shape != kinds.shape:
            shapes = f"scores {tuple(scores.shape)}, labels {tuple(kinds.shape)}"
            raise ValueError(f"image {len(next(iter(self.rows.values())))}: {shapes}")
        scores, kinds = checked(scores[kinds != IGNORED], kinds[kinds != IGNORED], 0)
        scores, order = scores.sort(descending=True)
        kinds, pool = kinds[order].long(), self.pools.setdefault(group, Pool(22, self.kinds))
        bins, at = bins_of(scores, pool.bits).flip(0).unique_consecutive(return_inverse=True)
        pool._merge(bins, *_gathered(at, len(bins), kinds.flip(0), self.kinds, scores.flip(0)))
        for name, chosen in self.subsets.items():
            member = torch.zeros(self.kinds, dtype=torch.bool, device=kinds.device)
            member[chosen] = True
            some = member[kinds]
            mine, true = scores[some], kinds[some] % 2
            curve = _shortened(_exact(mine, true == 1))
            self.rows[name].append([*measure(curve).values(), fpr(curve, rule="nearest")])
            wide, at = bins_of(mine, pool.bits - COARSE).unique_consecutive(return_inverse=True)
            number = torch.bincount(at * 2 + true, minlength=2 * len(wide)).view(len(wide), 2)
            self.coarse[name].append((wide.int().cpu().numpy(), number.int().cpu().numpy()))

    def pool(self, subset: str | None = None) -> Pool:
        """All pixels, or those of the kinds of a subset, as anomalies and others; ValueError if no image was added."""
        if not self.pools:
            raise ValueError("no image to evaluate")
        return sum(list(self.pools.values())[1:], next(iter(self.pools.values()))).of(*self.sides(subset))

    def sides(self, subset: str | None = None) -> tuple[list[int], list[int]]:
        """Kinds of anomalies, which are odd, and of others in a subset."""
        kinds = range(self.kinds) if subset is None else self.subsets[subset]
        return [k for k in kinds if k % 2], [k for k in kinds if not k % 2]

    def report(self, subset: str, rule: str = "first") -> Report:
        """What was found in a subset; `rule` of the FPR95 of each image, see `fpr`."""
        curve, coarse = self.pool(subset).curve(), self.coarse[subset]
        used = np.unique(np.concatenate([wide for wide, _ in coarse]))
        counts = np.zeros((len(coarse), len(used), 2), np.int64)
        for image, (wide, number) in zip(counts, coarse, strict=True):
            image[np.searchsorted(used, wide)] = number
        # A wide bin holds ties alone if it is one narrow bin that does.
        wide = bins_of(torch.from_numpy(curve.thresholds), 22 - COARSE).numpy()
        _, first, number = np.unique(wide, return_index=True, return_counts=True)
        images = np.array(self.rows[subset])[:, [0, 1, 3 if rule == "nearest" else 2]]
        return Report(curve, images, counts[:, ::-1], (curve.mixed[first] | (number > 1))[::-1])


IGNORED = 255  # of `pixel_kinds`


def pixel_kinds(
    labels: ArrayLike, anomaly: int, ignored: Sequence[int] = (255,), marks: Sequence[Tensor] = ()
) -> Tensor:
    """The kind of each pixel, uint8: 1 for an anomaly, else 0, plus 2, 4, 8 ... where the mask i holds; or `IGNORED`.

    Args:
        labels: ids `[H, W]`, at the resolution that is to be judged.
        anomaly: id of the positives; every other id that is not ignored is a negative.
        ignored: ids that do not count.
        marks: bool masks `[H, W]`, such as where the road is.

    Raises:
        ValueError: labels are of no integer type, or one is negative.
    """
    where = labels.device if isinstance(labels, Tensor) else "cpu"
    labels = torch.from_numpy(class_ids(labels.cpu() if isinstance(labels, Tensor) else labels, "labels")).to(where)
    kinds = (labels == anomaly).byte()
    for i, mark in enumerate(marks):
        kinds = kinds + mark.to(where).byte() * (2 << i)
    return torch.where(torch.isin(labels, torch.tensor(list(ignored), device=where)), IGNORED, kinds).byte()


def _exact(scores: Tensor, anomalies: Tensor) -> Curve:
    """The curve of scores that fall."""
    hits = anomalies.long().cumsum(0).cpu().numpy()
    scores = scores.cpu().numpy()
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))[: len(scores)]
    found = np.diff(hits[last], prepend=0)
    return Curve(scores[last], found, np.diff(last, prepend=-1) - found)


def _shortened(curve: Curve) -> Curve:
    """A curve of ties with steps without anomalies joined, which moves none of `KEYS`, whatever the rule."""
    kept = (curve.anomalies > 0) | (np.append(curve.anomalies[1:], 1) > 0)
    others = np.diff(np.cumsum(curve.others)[kept], prepend=0)
    return Curve(curve.thresholds[kept], curve.anomalies[kept], others)


def _gathered(at: Tensor, bins: int, kinds: Tensor, many: int, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Counts `[bins, many]` and ends `[bins, 2]` of scores in the bins `at`."""
    counts = torch.bincount(at * many + kinds, minlength=bins * many).view(bins, many)
    ends = torch.full((bins, 2), torch.inf, device=at.device)
    return counts, ends.scatter_reduce_(0, at[:, None].expand(-1, 2), torch.stack([scores, -scores], 1), "amin")


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
