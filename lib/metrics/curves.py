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
