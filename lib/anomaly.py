"""Anomaly scores for every pixel, from the logits and features of a segmenter. Higher is more anomalous, everywhere.

Scores of logits alone are those of pytorch-ood, which has none of the others for pixels. The others need what `fit`
learns from the training split. Introduced in notebooks/streethazards.ipynb.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from pytorch_ood.detector import EnergyBased, Entropy, MaxLogit
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, max_pool2d, normalize, one_hot, pad

from lib.metrics.segmentation import class_ids

PARTS = ("energy", "mahalanobis", "spatial")
VIEWS = ("raw", "unit", "stages")
LEVELLED = ("energy", "mahalanobis_unit", "mahalanobis_stages")  # scores of SCORES that are fused
CELL = 16  # side in pixels of a cell of the coarser features; half of it of the finer ones
TINY = 1e-6
RARE = 1e-3  # the lowest share of frames that a place is said to have


class Gaussian(NamedTuple):
    """Features of the training split, with one covariance for all classes."""

    mean: Tensor  # [D], of all features; taken from a feature before it is whitened, or digits would be lost
    centres: Tensor  # [K, D], whitened mean feature of each class that was seen
    whitening: Tensor  # [D, D], makes the covariance within classes the identity
    rest: Tensor  # [D, D // 2], the directions in which features vary least about their mean


@dataclass(frozen=True)
class Statistics:
    """What `fit` learned from the training split, and `levels` from validation."""

    logit_mean: Tensor  # [C], of the maximum logit over pixels predicted as each class
    logit_std: Tensor  # [C]
    features: dict[str, Gaussian]  # of each of `views`
    bank: Tensor  # [n, D], features of unit length, double: near neighbours are told apart by their last digits
    middle: dict[str, float]  # median of each of PARTS
    spread: dict[str, float]  # from the median to the 95th percentile
    virtual: float  # mean maximum logit by mean residual, see `vim`
    place: Tensor  # [H, W], where the classes that were asked for are in training frames
    elsewhere: Tensor  # [H, W], a place that is known otherwise, such as from another town
    levels: dict[str, tuple[float, float]]  # mean and deviation of scores on validation


def views(features: Sequence[Tensor]) -> dict[str, tuple[Tensor, int]]:
    """The features that distances are taken of, `[B, D, h, w]`, and the side of their cells in pixels.

    `raw` are those of stride 16, `unit` the same with length one (Mueller and Hein 2025, Mahalanobis++,
    arXiv:2505.18032), `stages` those of stride 16, brought to stride 8, beside those of stride 8, both with length one.
    """
    coarse, fine = features
    unit, fine = normalize(coarse, dim=1), normalize(fine, dim=1)
    grown = interpolate(unit, scale_factor=2, mode="bilinear", align_corners=False)
    stages = torch.cat([grown[..., : fine.shape[2], : fine.shape[3]], fine], 1)
    return {"raw": (coarse, CELL), "unit": (unit, CELL), "stages": (stages, CELL // 2)}


@torch.no_grad()
def fit(
    outputs: Iterable[tuple[Tensor, Sequence[Tensor], Tensor]],
    movers: Sequence[int] = (),
    bank: int = 10_000,
    seed: int = 0,
) -> Statistics:
    """Statistics of the training split, in one pass and in memory that does not grow with it.

    Args:
        outputs: logits `[B, C, H, W]`, features (of strides 16 and 8, `[B, D, h, w]` each) and labels `[B, H, W]` of
            batches without augmentation; pixels whose label is no class 0..C-1 are left out.
        movers: classes whose place in the frame is learned.
        bank: how many features are kept for the nearest neighbours, drawn evenly from all.
        seed: of that draw.

    Raises:
        ValueError: nothing to fit on, labels of no integer type, or a logit or feature that counts is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    sums, kept = None, None
    for logits, features, labels in outputs:
        logits, where = logits.float(), logits.device
        labels = torch.from_numpy(class_ids(labels.cpu(), "labels")).to(where)
        classes, known = logits.shape[1], (labels >= 0) & (labels < logits.shape[1])
        top, predicted = logits.max(1)
        high, predicted = top[known].double(), predicted[known]
        moments = torch.zeros(classes, 3, dtype=torch.double, device=where)
        moments.index_add_(0, predicted, torch.stack([torch.ones_like(high), high, high**2], 1))
        there = torch.isin(labels, torch.tensor(list(movers), device=where)).double()
        added = [moments, there.sum(0), torch.tensor(len(labels), dtype=torch.double)]
        local = [part[:, None] for part in (EnergyBased.score(logits), spatial_inconsistency(logits), top)]
        for name, (cells, cell) in views([part.float() for part in features]).items():
            cells, ids, chosen = _labelled(cells, labels, known, cell)
            member, double = one_hot(ids, classes).double(), cells.double()
            added += [member.sum(0), member.T @ double, double.T @ double]
            if name == "raw":
                keys = torch.rand(len(cells), 1, generator=generator, dtype=torch.double).to(where)
                at_cells = [part.movedim(1, -1)[chosen] for part in local]
                rows = torch.cat([keys, *(part.double() for part in at_cells), double], 1)
        sums = added if sums is None else [a + b for a, b in zip(sums, added, strict=True)]
        counted = {"logits": (moments, rows[:, 1:4]), "features": (rows[:, 4:], sums[-1])}
        for name, part in ((name, part) for name, parts in counted.items() for part in parts):
            if not part.isfinite().all():
                raise ValueError(f"{name} of labelled pixels are not finite; the network diverged or overflowed")
        rows = rows if kept is None else torch.cat([kept, rows])
        kept = rows[rows[:, 0].argsort()[:bank]]  # the smallest of random keys are an even draw
    if kept is None or len(kept) < 2:
        raise ValueError("no labelled pixel to fit on; hand in batches of the training split")

    moments, there, frames, *sums = sums
    models = {name: _gaussian(*sums[3 * i : 3 * i + 3]) for i, name in enumerate(VIEWS)}
    raw = kept[:, 4:]
    parts = (kept[:, 1], _distance(raw, models["raw"]), kept[:, 2])
    levels = {name: part.quantile(part.new_tensor([0.5, 0.95])) for name, part in zip(PARTS, parts, strict=True)}
    residual = ((raw - models["raw"].mean) @ models["raw"].rest).norm(dim=1)

    lacking = moments[:, 0] < 2  # classes that are never predicted take the statistics of all pixels together
    number, first, second = torch.where(lacking[:, None], moments.sum(0), moments).T
    level, square = first / number, second / number
    place = smoothed((there / frames).float())
    return Statistics(
        logit_mean=level.float(),
        logit_std=(square - level**2).clamp(min=TINY**2).sqrt().float(),
        features={name: Gaussian(*(part.float() for part in model)) for name, model in models.items()},
        bank=normalize(raw, dim=1),
        middle={name: float(low) for name, (low, _) in levels.items()},
        spread={name: max(float(high - low), TINY) for name, (low, high) in levels.items()},
        virtual=float(kept[:, 3].mean() / residual.mean().clamp(min=TINY)),
        place=place,
        elsewhere=torch.zeros_like(place),
        levels={},
    )


def _labelled(cells: Tensor, labels: Tensor, known: Tensor, cell: int) -> tuple[Tensor, Tensor, tuple]:
    """Features `[N, D]` and labels `[N]` of cells whose centre has a known one, and how to take the same of pixels."""
    centre = (..., slice(cell // 2, None, cell), slice(cell // 2, None, cell))
    some, ids = known[centre], labels[centre]  # [B, h, w], less where a cell's centre is outside the image
    chosen = torch.zeros_like(known)
    chosen[centre] = some
    return cells[..., : ids.shape[1], : ids.shape[2]].movedim(1, -1)[some], ids[some], chosen


def _gaussian(counts: Tensor, totals: Tensor, products: Tensor) -> Gaussian:
    """From counts `[C]`, sums `[C, D]` and the sum of outer products `[D, D]` of features, in double."""
    seen, mean = counts > 0, totals.sum(0) / counts.sum()
    centres = totals[seen] / counts[seen, None]
    covariance = (products - (centres * counts[seen, None]).T @ centres) / counts.sum()
    unit = torch.eye(len(covariance), dtype=torch.double, device=covariance.device)
    ridge = 1e-4 * covariance.diagonal().mean() + 1e-12  # of the scale of the features, so that units do not matter
    whitening = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance + ridge * unit), unit, upper=False)
    about = products / counts.sum() - mean.outer(mean)
    rest = torch.linalg.eigh(about).eigenvectors[:, : len(mean) // 2]
    return Gaussian(mean, (centres - mean) @ whitening.T, whitening, rest)


@torch.no_grad()
def levels(
    outputs: Iterable[tuple[Tensor, Sequence[Tensor], Tensor]], known: Statistics, names: Iterable[str] = LEVELLED
) -> Statistics:
    """`known` with mean and deviation of some of `SCORES` on frames without anomalies, for `fused`."""
    sums: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)
    for logits, features, _ in outputs:
        for name in sums:
            score = SCORES[name](logits, features, known).double()
            sums[name] = sums[name] + torch.stack([torch.ones_like(score), score, score**2]).flatten(1).sum(1).cpu()
    found = {name: (float(one / n), float((two / n - (one / n) ** 2) ** 0.5)) for name, (n, one, two) in sums.items()}
    return replace(known, levels=found)


def smoothed(share: Tensor) -> Tensor:
    """A mean mask `[H, W]`, blurred by 10 px of 320."""
    blurred = ndimage.gaussian_filter(share.cpu().numpy(), 10 * share.shape[1] / 320)
    return torch.from_numpy(blurred).to(share.device)


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


def mahalanobis(features: Tensor, known: Gaussian) -> Tensor:
    """Distance of features `[B, D, h, w]` to the nearest class centre, one covariance for all classes: `[B, h, w]`.

    Lee et al. 2018, arXiv:1807.03888, per cell.
    """
    return _distance(features.movedim(1, -1).flatten(0, 2), known).view(len(features), *features.shape[2:])


def neighbours(features: Tensor, bank: Tensor, k: int = 10) -> Tensor:
    """Distance of features `[B, D, h, w]`, made unit length, to the k-th nearest of a bank `[n, D]`: `[B, h, w]`.

    Sun et al. 2022, arXiv:2204.06507, per cell. Raises ValueError if the bank holds fewer than k.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}; the bank holds {len(bank)} features")
    cells = normalize(features.movedim(1, -1).flatten(0, 2).double(), dim=1)
    found = [(part @ bank.to(cells).T).topk(k).values[:, -1] for part in cells.split(4096)]
    return (2 - 2 * torch.cat(found)).clamp(min=0).sqrt().to(features).view(len(features), *features.shape[2:])


def vim(logits: Tensor, features: Tensor, known: Statistics) -> Tensor:
    """Virtual-logit matching: alpha times the residual of a feature, plus the energy, `[B, H, W]`.

    Wang et al. 2022, arXiv:2203.10807: the residual is the length of what lies outside the principal subspace, here of
    half the dimensions; alpha makes it as large as a maximum logit on average. Their score is the softmax of that
    virtual logit, which rises with this one. Features are not those of the last layer, so the origin is their mean.
    """
    model = known.features["raw"]
    centred = features.movedim(1, -1) - model.mean.to(features)
    residual = (centred @ model.rest.to(features)).norm(dim=-1)
    return known.virtual * to_pixels(residual, logits.shape[-2:], CELL) + EnergyBased.score(logits)


def distances(features: Sequence[Tensor], size: Sequence[int], known: Statistics, view: str) -> Tensor:
    """`mahalanobis` of one of `views` at pixels: `[B, H, W]`."""
    cells, cell = views(features)[view]
    return to_pixels(mahalanobis(cells, known.features[view]), size, cell)


def fused(
    z: Tensor, f: Sequence[Tensor], s: Statistics, parts: Sequence[str] = ("energy", "mahalanobis_unit")
) -> Tensor:
    """Sum of some of `SCORES`, each less its mean and by its deviation on validation: `[B, H, W]`.

    Raises ValueError before `levels`.
    """
    if lacking := [part for part in parts if part not in s.levels]:
        raise ValueError(f"{', '.join(lacking)} has no level; hand in what `levels` returns")
    return sum((SCORES[part](z, f, s) - s.levels[part][0]) / s.levels[part][1] for part in parts)


def placed(z: Tensor, f: Sequence[Tensor], s: Statistics, parts: Sequence[str]) -> Tensor:
    """One of `SCORES`, or some that are `fused`, plus the logarithm of `place`: `[B, H, W]`.

    Distances of `LEVELLED` are in deviations on validation, all other single scores as they are.
    """
    score = SCORES[parts[0]](z, f, s) if _bare(parts) else fused(z, f, s, parts)
    return score + s.place.to(z).clamp(min=RARE).log()


def _bare(parts: Sequence[str]) -> bool:
    """Whether `placed` takes a score as it is."""
    return len(parts) == 1 and parts[0] not in LEVELLED[1:]


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
    features: Sequence[Tensor],
    statistics: Statistics,
    parts: Sequence[str] = PARTS,
    original: bool = False,
) -> Tensor:
    """HEAT: energy, Mahalanobis distance and spatial inconsistency together, `[B, H, W]`.

    Not the HEAT of Lafon et al. 2023. Each part is taken relative to its median and 95th percentile on the training
    split, and the parts are averaged.

    Args:
        logits, features: as of `fit`.
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
        "mahalanobis": lambda: distances(features, logits.shape[-2:], statistics, "raw"),
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


def softmax_doubt(logits: Tensor) -> Tensor:
    """log(1 - max p), which orders pixels as -max p does (Hendrycks and Gimpel 2017, arXiv:1610.02136); `[B, H, W]`.

    It tells confident pixels apart, whose p are so near to 1 that what counts scores in bins takes them for equal.
    """
    others = logits.scatter(1, logits.argmax(1, keepdim=True), float("-inf"))
    return others.logsumexp(1) - logits.logsumexp(1)


Score = Callable[[Tensor, Sequence[Tensor], Statistics], Tensor]
#: Every score under the name of its row in a table: functions of logits, features and statistics, `[B, H, W]`.
SCORES: dict[str, Score] = {
    "msp": lambda z, f, s: softmax_doubt(z),
    "max_logit": lambda z, f, s: MaxLogit.score(z),
    "energy": lambda z, f, s: EnergyBased.score(z),
    "entropy": lambda z, f, s: Entropy.score(z),
    "sml": lambda z, f, s: standardised_max_logit(z, s),
    "sml_boundary": lambda z, f, s: standardised_max_logit(z, s, boundary=True),
    "sml_smooth": lambda z, f, s: standardised_max_logit(z, s, boundary=True, smoothing=True),
    "mahalanobis": lambda z, f, s: distances(f, z.shape[-2:], s, "raw"),
    "mahalanobis_unit": lambda z, f, s: distances(f, z.shape[-2:], s, "unit"),
    "mahalanobis_stages": lambda z, f, s: distances(f, z.shape[-2:], s, "stages"),
    "knn": lambda z, f, s: to_pixels(neighbours(f[0], s.bank), z.shape[-2:], CELL),
    "vim": lambda z, f, s: vim(z, f[0], s),
    "fused_unit": fused,
    "fused_stages": partial(fused, parts=["energy", "mahalanobis_stages"]),
    "heat": lambda z, f, s: heat(z, f, s),
    "heat, no spatial": partial(heat, parts=["energy", "mahalanobis"]),
    "heat_original": lambda z, f, s: heat(z, f, s, original=True),
    "place_train": lambda z, f, s: s.place.to(z).expand_as(z[:, 0]),
    "place_other_town": lambda z, f, s: s.elsewhere.to(z).expand_as(z[:, 0]),
}
WITH_PLACE = ("max_logit", "energy", "mahalanobis_stages", "fused_stages", "heat, no spatial")
SCORES |= {f"{name} + place": partial(placed, parts=[name]) for name in WITH_PLACE}

#: Scores that need no logits.
FEATURES = ("mahalanobis", "mahalanobis_unit", "mahalanobis_stages", "knn")
#: What is judged of a network that no street has touched: those, and two of them together, without and with the place.
DISTANCES: dict[str, Score] = {name: SCORES[name] for name in FEATURES}
DISTANCES["mahalanobis + knn"] = partial(fused, parts=["mahalanobis", "knn"])
DISTANCES["mahalanobis + knn + place"] = partial(placed, parts=["mahalanobis", "knn"])


def levelled(scores: Iterable[Score]) -> list[str]:
    """What of `SCORES` must have a level for some scores, each once; `LEVELLED` for functions that are none of them."""
    names: list[str] = []
    for score in scores:
        kind, parts = getattr(score, "func", score), getattr(score, "keywords", {}).get("parts", LEVELLED[:2])
        if kind is placed and _bare(parts):
            names += levelled([SCORES[parts[0]]])
        elif kind in (fused, placed):
            names += parts
        elif kind is score and score not in SCORES.values():
            names += LEVELLED  # it may fuse them
    return list(dict.fromkeys(names))


#: Scores that know the place in the frame alone: what a score must beat before it is said to see an anomaly.
PLACES = ("place_train", "place_other_town")


def _distance(cells: Tensor, known: Gaussian) -> Tensor:
    """Of features `[N, D]` to the nearest centre: `[N]`."""
    whitened = (cells - known.mean.to(cells)) @ known.whitening.to(cells).T
    # The quick way, by squares, loses the distance of two points that are far from zero.
    return torch.cdist(whitened, known.centres.to(cells), compute_mode="donot_use_mm_for_euclid_dist").min(1).values


def _local_mean(p: Tensor, repeat: bool) -> Tensor:
    return avg_pool2d(pad(p, (1, 1, 1, 1), mode="replicate" if repeat else "constant"), 3, 1)
