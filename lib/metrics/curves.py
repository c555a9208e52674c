"""Counts of anomalous and other pixels at falling thresholds: exact, or in bins of constant memory.

All measures of lib.metrics.anomaly are read from a `Curve`, and use the order of the scores alone: nothing is squashed
into 0..1 first. Introduced in notebooks/streethazards.ipynb.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


class Curve(NamedTuple):
    """Counts of pixels at falling thresholds, each with at least one pixel at it or above and below the one before."""

    thresholds: NDArray[np.float32]  # [n], strictly falling; a pixel is flagged when its score reaches it
    anomalies: NDArray[np.int64]  # [n]
    others: NDArray[np.int64]  # [n]
    binned: bool = False  # whether a step may hold different scores


def exact_curve(scores: ArrayLike, anomalies: ArrayLike) -> Curve:
    """The curve of all distinct scores: scores and truth (bool) of equal shape. Raises ValueError on NaN or shapes."""
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
            and takes 64 MiB. No range has to be known, and infinities have their places.
        device: where the counts are kept; scores may be on any.
    """

    def __init__(self, bits: int = 22, device: str = "cpu"):
        self.bits = bits
        self.counts = torch.zeros(2 << bits, dtype=torch.int64, device=device)  # [bins * 2], anomalies at odd places

    def add(self, scores: ArrayLike, anomalies: ArrayLike) -> None:
        """Count some pixels: scores (taken as float32) and truth (bool) of equal shape. ValueError on NaN or shapes."""
        scores, anomalies = checked(scores, anomalies)
        for part, truth in zip(scores.split(1 << 20), anomalies.split(1 << 20), strict=True):
            index = (bins_of(part, self.bits) * 2 + truth).to(self.counts.device)
            self.counts.scatter_add_(0, index, torch.ones_like(index))

    def curve(self) -> Curve:
        """What has been counted so far."""
        pairs = self.counts.view(-1, 2)
        bins = pairs.sum(1).nonzero()[:, 0].flip(0)
        others, anomalies = pairs[bins].T.cpu().numpy()
        return Curve(_edges(bins.cpu(), self.bits), anomalies, others, True)


def checked(scores: ArrayLike, anomalies: ArrayLike) -> tuple[Tensor, Tensor]:
    """Scores as float32 `[N]` and truth as bool `[N]`; ValueError where shapes differ or a score is NaN."""
    scores, anomalies = torch.as_tensor(scores), torch.as_tensor(anomalies)
    if scores.shape != anomalies.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and truth {tuple(anomalies.shape)} differ in shape")
    scores = scores.detach().flatten().float()
    if torch.isnan(scores).any():
        raise ValueError(f"{int(torch.isnan(scores).sum())} of {scores.numel()} scores are NaN; mend or ignore them")
    return scores + 0.0, anomalies.flatten().bool()  # -0.0 + 0.0 is 0.0, which it equals


def bins_of(scores: Tensor, bits: int) -> Tensor:
    """The bin of each score, int64, rising with it: flipping all but the sign of a negative float orders patterns."""
    key = scores.view(torch.int32)
    key = key ^ ((key >> 31) & 0x7FFFFFFF)
    return ((key >> (32 - bits)) + (1 << (bits - 1))).long()


def _edges(bins: Tensor, bits: int) -> NDArray[np.float32]:
    """The lowest score of each bin."""
    key = ((bins - (1 << (bits - 1))) << (32 - bits)).int()
    edges = (key ^ ((key >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return edges.nan_to_num(-torch.inf, torch.inf, -torch.inf).numpy()  # only below minus infinity is there no number
