"""Anomaly scores for every pixel, from the logits and features of a segmenter. Higher is more anomalous, everywhere.

Scores of logits alone are those of pytorch-ood, which has none of the others for pixels. The others need what `fit`
learns from the training split. Introduced in notebooks/streethazards.ipynb.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from pytorch_ood.detector import EnergyBased, Entropy, MaxLogit, MaxSoftmax
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, max_pool2d, normalize, one_hot, pad

from lib.metrics.segmentation import class_ids

PARTS = ("energy", "mahalanobis", "spatial")
TINY = 1e-6


@dataclass(frozen=True)
class Statistics:
    """What `fit` learned from the training split."""

    logit_mean: Tensor  # [C], of the maximum logit over pixels predicted as each class
    logit_std: Tensor  # [C]
    mean: Tensor  # [D], of all features; taken from a feature before it is whitened, or digits would be lost
    centres: Tensor  # [K, D], whitened mean feature of each class that was seen
    whitening: Tensor  # [D, D], makes the covariance within classes the identity
    bank: Tensor  # [n, D], features of unit length, double: near neighbours are told apart by their last digits
    middle: dict[str, float]  # median of each of PARTS
    spread: dict[str, float]  # from the median to the 95th percentile
    cell: int  # side of a feature's cell, pixels


@torch.no_grad()
def fit(
    outputs: Iterable[tuple[Tensor, Tensor, Tensor]], cell: int = 16, bank: int = 10_000, seed: int = 0
) -> Statistics:
    """Statistics of the training split, in one pass and in memory that does not grow with it.

    Args:
        outputs: logits `[B, C, H, W]`, features `[B, D, h, w]` and labels `[B, H, W]` of batches without augmentation;
            pixels whose label is no class 0..C-1 are left out.
        cell: side of a feature's cell in pixels; a cell has the label of the pixel at its centre.
        bank: how many features are kept for the nearest neighbours, drawn evenly from all.
        seed: of that draw.

    Raises:
        ValueError: nothing to fit on, labels of no integer type, or a logit or feature that counts is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = kept = None
    for logits, features, labels in outputs:
        logits, features = logits.float().cpu(), features.float().cpu()
        labels = torch.from_numpy(class_ids(labels.cpu(), "labels"))
        classes, known = logits.shape[1], (labels >= 0) & (labels < logits.shape[1])
        top, predicted = logits.max(1)
        top, predicted = top[known].double(), predicted[known]
        powers = torch.stack([torch.ones_like(top), top, top**2], 1)
        moments = torch.zeros(classes, 3, dtype=torch.double).index_add_(0, predicted, powers)

        centre = (..., slice(cell // 2, None, cell), slice(cell // 2, None, cell))
        known, labels = known[centre], labels[centre]  # [B, h, w], less where a cell's centre is outside the image
        cells = features[..., : labels.shape[1], : labels.shape[2]].movedim(1, -1)[known]  # [N, D]
        member, double = one_hot(labels[known], classes).double(), cells.double()
        added = (moments, member.sum(0), member.T @ double, double.T @ double)
        sums = added if sums is None else tuple(a + b for a, b in zip(sums, added, strict=True))

        local = [part[centre][known][:, None] for part in (EnergyBased.score(logits), spatial_inconsistency(logits))]
        keys = torch.rand(len(cells), 1, generator=generator, dtype=torch.double)
        rows = torch.cat([keys, *(part.double() for part in local), double], 1)
        for name, part in (("logits", moments), ("logits", rows[:, 1:3]), ("features", rows[:, 3:])):
            if not part.isfinite().all():
                raise ValueError(f"{name} of labelled pixels are not finite; the network diverged or overflowed")
        rows = rows if kept is None else torch.cat([kept, rows])
        kept = rows[rows[:, 0].argsort()[:bank]]  # the smallest of random keys are an even draw
    if kept is None or len(kept) < 2:
        raise ValueError("no labelled pixel to fit on; hand in batches of the training split")

    moments, counts, totals, products = sums
    seen, mean = counts > 0, totals.sum(0) / counts.sum()
    centres = totals[seen] / counts[seen, None]
    covariance = (products - (centres * counts[seen, None]).T @ centres) / counts.sum()
    unit = torch.eye(len(covariance), dtype=torch.double)
    ridge = 1e-4 * covariance.diagonal().mean() + 1e-12  # of the scale of the features, so that units do not matter
    whitening = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance + ridge * unit), unit, upper=False)
    centres = (centres - mean) @ whitening.T
    parts = (kept[:, 1], _nearest_centre((kept[:, 3:] - mean) @ whitening.T, centres), kept[:, 2])
    levels = {name: part.quantile(part.new_tensor([0.5, 0.95])) for name, part in zip(PARTS, parts, strict=True)}

    lacking = moments[:, 0] < 2  # classes that are never predicted take the statistics of all pixels together
    number, first, second = torch.where(lacking[:, None], moments.sum(0), moments).T
    level, square = first / number, second / number
    return Statistics(
        logit_mean=level.float(),
        logit_std=(square - level**2).clamp(min=TINY**2).sqrt().float(),
        mean=mean.float(),
        centres=centres.float(),
        whitening=whitening.float(),
        bank=normalize(kept[:, 3:], dim=1),
        middle={name: float(low) for name, (low, _) in levels.items()},
        spread={name: max(float(high - low), TINY) for name, (low, high) in levels.items()},
        cell=cell,
    )


def standardised_max_logit(
    logits: Tensor, known: Statistics, boundary: bool = False, smoothing: bool = False
) -> Tensor:
    """Maximum logit by the mean and deviation of the predicted class, negated: `[B, H, W]`.

    Jung et al. 2021, Standardized Max Logits, arXiv:2107.11264. `boundary` applies `suppress_boundaries` to it, then
    `smoothing` applies `smooth`.
    """
    top, predicted = logits.max(1)
    scores = -(top - known.logit_mean.to(logits)[predicted]) / known.logit_std.to(logits)[predicted]
    if boundary:
        scores = suppress_boundaries(scores, predicted)
    return smooth(scores) if smoothing else scores


def suppress_boundaries(scores: Tensor, predicted: Tensor, widths: Sequence[int] = (4, 3, 2, 1)) -> Tensor:
    """Iterative boundary suppression: the widest band first takes the mean of those of 3 x 3 pixels that lie beside it.

    Args:
        scores, predicted: `[B, H, W]`.
        widths: a pixel is in the band of width r if another class is within r steps up, down, left or right. The
            released code's are for images of 2048 x 1024 px. Its bands also hold pixels that touch a class of a smaller
            id by a corner; ours are the same for all classes.
    """
    for width in widths:
        band = boundaries(predicted, width)
        outside = (~band).to(scores.dtype)
        share = _local_mean(outside[:, None], True)[:, 0]
        mean = _local_mean((scores * outside)[:, None], True)[:, 0] / share.clamp(min=TINY)
        scores = torch.where(band & (share > TINY), mean, scores)
    return scores


def boundaries(labels: Tensor, width: int) -> Tensor:
    """Which pixels of `[B, H, W]` have another label within `width` steps of a rook: bool."""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    for dim in (1, 2):
        n = labels.shape[dim]
        differs = labels.narrow(dim, 0, n - 1) != labels.narrow(dim, 1, n - 1)
        edge.narrow(dim, 0, n - 1).logical_or_(differs)
        edge.narrow(dim, 1, n - 1).logical_or_(differs)
    band = edge[:, None].float()
    for _ in range(width - 1):
        band = torch.maximum(max_pool2d(band, (3, 1), 1, (1, 0)), max_pool2d(band, (1, 3), 1, (0, 1)))
    return band[:, 0] > 0


def smooth(scores: Tensor, dilation: int = 6) -> Tensor:
    """Dilated Gaussian smoothing of `[B, H, W]`: 7 x 7 taps, sigma 1 tap, `dilation` pixels between taps."""
    taps = torch.exp(-0.5 * torch.arange(-3, 4, dtype=scores.dtype, device=scores.device) ** 2)
    kernel = taps.outer(taps) / taps.sum() ** 2
    padded = pad(scores[:, None], (3 * dilation,) * 4, mode="replicate")
    return conv2d(padded, kernel[None, None], dilation=dilation)[:, 0]


def mahalanobis(features: Tensor, statistics: Statistics) -> Tensor:
    """Distance of features `[B, D, h, w]` to the nearest class centre, one covariance for all classes: `[B, h, w]`.

    Lee et al. 2018, arXiv:1807.03888, per cell.
    """
    centred = features.movedim(1, -1) - statistics.mean.to(features)
    whitened = centred @ statistics.whitening.to(features).T
    return _nearest_centre(whitened.flatten(0, 2), statistics.centres.to(features)).view(whitened.shape[:-1])


def neighbours(features: Tensor, statistics: Statistics, k: int = 10) -> Tensor:
    """Distance of features `[B, D, h, w]`, made unit length, to the k-th nearest of the bank: `[B, h, w]`.

    Sun et al. 2022, arXiv:2204.06507, per cell. Raises ValueError if the bank holds fewer than k.
    """
    if not 1 <= k <= len(statistics.bank):
        raise ValueError(f"k is {k}; the bank holds {len(statistics.bank)} features")
    cells = normalize(features.movedim(1, -1).flatten(0, 2).double(), dim=1)
    bank = statistics.bank.to(cells)
    found = [(part @ bank.T).topk(k).values[:, -1] for part in cells.split(4096)]
    return (2 - 2 * torch.cat(found)).clamp(min=0).sqrt().to(features).view(len(features), *features.shape[2:])


def to_pixels(cells: Tensor, size: Sequence[int], cell: int) -> Tensor:
    """Scores of cells `[B, h, w]` at pixels, bilinear: `[B, H, W]`; cells may reach beyond the image."""
    grown = interpolate(cells[:, None], scale_factor=cell, mode="bilinear", align_corners=False)
    return grown[:, 0, : size[0], : size[1]]


def spatial_inconsistency(logits: Tensor, repeat: bool = True) -> Tensor:
    """Divergence KL(p, mean of p over 3 x 3 pixels) `[B, H, W]`; beyond the border p repeats, or is zero."""
    log, p = logits.log_softmax(1), logits.softmax(1)
    return (p * (log - _local_mean(p, repeat).clamp(min=1e-12).log())).sum(1).clamp(min=0)


def heat(
    logits: Tensor,
    features: Tensor,
    statistics: Statistics,
    parts: Sequence[str] = PARTS,
    original: bool = False,
) -> Tensor:
    """HEAT: energy, Mahalanobis distance and spatial inconsistency together, `[B, H, W]`.

    Not the HEAT of Lafon et al. 2023. Each part is taken relative to its median and 95th percentile on the training
    split, and the parts are averaged.

    Args:
        logits, features: `[B, C, H, W]` and `[B, D, h, w]`.
        parts: those of `PARTS` that count.
        original: the original study's sum instead: parts in their own units, at each pixel weighted by 1 / entropy, 1
            and 1 / local variance of p (mean over classes), weights made to sum to one; zeros beyond the border. Its
            running standardisation over test batches is left out: it made a score depend on the order of images.

    Raises:
        ValueError: no part, or an unknown one.
    """
    if not parts or not set(parts) <= set(PARTS):
        raise ValueError(f"parts are {tuple(parts)}; choose some of {', '.join(PARTS)}")
    compute = {
        "energy": lambda: EnergyBased.score(logits),
        "mahalanobis": lambda: to_pixels(mahalanobis(features, statistics), logits.shape[-2:], statistics.cell),
        "spatial": lambda: spatial_inconsistency(logits, repeat=not original),
    }
    values = torch.stack([compute[part]() for part in parts])
    if not original:
        middle, spread = (values.new_tensor([of[p] for p in parts]) for of in (statistics.middle, statistics.spread))
        return ((values - middle.view(-1, 1, 1, 1)) / spread.view(-1, 1, 1, 1)).mean(0)
    p = logits.softmax(1)
    variance = (_local_mean(p**2, False) - _local_mean(p, False) ** 2).mean(1).clamp(min=0)
    trust = (1 / (Entropy.score(logits) + TINY), torch.ones_like(variance), 1 / (variance + TINY))
    weigh = dict(zip(PARTS, trust, strict=True))
    weights = torch.stack([weigh[part] for part in parts])
    return (values * weights).sum(0) / weights.sum(0)


#: Every score under the name of its row in a table: functions of logits, features and statistics, `[B, H, W]`.
SCORES: dict[str, Callable[[Tensor, Tensor, Statistics], Tensor]] = {
    "msp": lambda z, f, s: MaxSoftmax.score(z),
    "max_logit": lambda z, f, s: MaxLogit.score(z),
    "energy": lambda z, f, s: EnergyBased.score(z),
    "entropy": lambda z, f, s: Entropy.score(z),
    "sml": lambda z, f, s: standardised_max_logit(z, s),
    "sml_boundary": lambda z, f, s: standardised_max_logit(z, s, boundary=True),
    "sml_smooth": lambda z, f, s: standardised_max_logit(z, s, boundary=True, smoothing=True),
    "mahalanobis": lambda z, f, s: to_pixels(mahalanobis(f, s), z.shape[-2:], s.cell),
    "knn": lambda z, f, s: to_pixels(neighbours(f, s), z.shape[-2:], s.cell),
    "heat": lambda z, f, s: heat(z, f, s),
    "heat_original": lambda z, f, s: heat(z, f, s, original=True),
}


def _nearest_centre(whitened: Tensor, centres: Tensor) -> Tensor:
    # The quick way, by squares, loses the distance of two points that are far from zero.
    return torch.cdist(whitened, centres, compute_mode="donot_use_mm_for_euclid_dist").min(1).values


def _local_mean(p: Tensor, repeat: bool) -> Tensor:
    return avg_pool2d(pad(p, (1, 1, 1, 1), mode="replicate" if repeat else "constant"), 3, 1)
