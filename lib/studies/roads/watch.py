"""Alarms on the road, one threshold at a time: on held-out streets, and on a street of your own.

Shown by `lib.studies.explore`. Introduced in notebooks/streethazards.ipynb.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lib import plots
from lib.anomaly import Score, Statistics
from lib.data.streethazards import ANOMALY, IGNORE
from lib.metrics.anomaly import Pool
from lib.models.segmenters import Outputs
from lib.studies.roads.alarms import (
    DRIVABLE,
    FOUND,
    RATES,
    RED,
    Alarms,
    Frame,
    OperatingPoints,
    components,
    frames,
    thresholds,
    within_budget,
)
from lib.studies.roads.experiment import RoadStudy

#: What is offered: the best of untouched features first, and what training makes of such distances.
SCORES = ("mahalanobis + knn, ImageNet", "mahalanobis, ImageNet", "mahalanobis", "heat, no spatial", "max_logit")
REGIONS = ("every pixel", "the road, as labelled", "the road, as predicted")


class Counted(NamedTuple):
    """What the thresholds of a score do on validation."""

    at: np.ndarray  # [n], falling
    points: OperatingPoints


class Watch:
    """Frames, scores and thresholds, kept as they are asked for.

    Args:
        study: data and size.
        model: a segmenter, whose predictions say where the road is.
        ask: of a score's name the network whose outputs it takes, the score, and what it knows of training frames.
        scores: their names.
        each: goes through items, and may show how many are done.
    """

    def __init__(
        self,
        study: RoadStudy,
        model: nn.Module,
        ask: Callable[[str], tuple[nn.Module, Score, Statistics]],
        scores: Sequence[str],
        each: Callable[[Sequence, str], Iterable],
    ):
        self.study, self.model, self.ask, self.scores, self.each = study, model, ask, scores, each
        self.count, self.totals = len(study.split("test")), {}
        self.frame = lru_cache(4)(lambda i: next(frames(study, "test", model, [i])))
        self.map = lru_cache(24)(lambda i, score: self.score(self.frame(i), score))
        self.ordinary, self.counted = lru_cache(1)(self._ordinary), lru_cache(None)(self._counted)
        self.outputs = lru_cache(4)(self._outputs)

    def score(self, frame: Frame, score: str) -> Tensor:
        """`[H, W]`."""
        (model, function, known), outputs = self.ask(score), (frame.logits, frame.features)
        if model is not self.model:
            outputs = self.outputs(model, frame.image)
        return function(*outputs, known)[0].float().cpu()

    @torch.no_grad()
    def _outputs(self, model: nn.Module, image: Tensor) -> Outputs:
        return model.outputs(image[None].to(next(model.parameters()).device))

    def _ordinary(self) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """Labels of validation frames, by region, and scores, by name: one pass for all of them."""
        found = []
        for i in self.each(range(len(self.study.split("validation"))), "validation"):
            (frame,) = frames(self.study, "validation", self.model, [i])
            labels = {region: within(frame, region) for region in REGIONS}
            found.append((labels, {score: self.score(frame, score) for score in self.scores}))
        return found

    def _counted(self, score: str, region: str) -> Counted:
        """Thresholds by the shares that they flag on validation, and what else they do there."""
        pool = Pool()
        for labels, scores in self.ordinary():
            counts = labels[region] != IGNORE
            pool.add(scores[score][counts], labels[region][counts] == ANOMALY)
        found = Alarms(at := thresholds(pool.curve()))
        for labels, scores in self.each(self.ordinary(), "thresholds"):
            found.add(scores[score], labels[region])
        return Counted(at, found.points())

    def chosen(self, score: str, budget: float, at: int, region: str) -> int:
        """Number of the threshold: `at`, or with a budget the lowest within it, -1 where none is."""
        return within_budget(self.counted(score, region).points, budget) if budget else at

    def shown(self, frame: Frame, values: Tensor, score: str, i: int, region: str) -> tuple[dict[str, np.ndarray], str]:
        """A frame, what threshold `i` flags, the score and the anomaly as pictures; and what that comes to in words.

        A street of the user's own has no town, and no ground truth.
        """
        counted, label, image = self.counted(score, region), within(frame, region), plots.rgb(frame.image)
        flagged = ((values >= counted.at[i]) & (label != IGNORE)).numpy()
        low, high = counted.at[-1], counted.at[0]
        pictures = {
            f"frame {frame.index}" if frame.town else "your street": image,
            "flagged": np.where(flagged[..., None], 0.3 * image + 0.7 * RED, image),
            score: ((values - low) / (high - low)).clamp(0, 1).numpy(),
        }
        told = f"Threshold {counted.at[i]:.3g} flags {RATES[i]:.2%} of the pixels of validation frames, "
        told += f"{counted.points.false_alarms[i]:.2f} false alarms a frame. "
        if not frame.town:
            return pictures, f"{told}Here it flags {flagged.mean():.2%} of the pixels."
        truth = (label == ANOMALY).numpy()
        siou, ppv = components(flagged, label.numpy())
        hits = int((flagged & truth).sum())
        told += f"This frame: precision {_share(hits, flagged.sum())}, recall {_share(hits, truth.sum())}, "
        told += f"{int((siou > FOUND).sum())} of {len(siou)} anomalies found, {int((ppv <= FOUND).sum())} false alarms."
        if points := self.totals.get((score, region)):
            told += f"<br>All {self.count} frames: precision {points.precision[i]:.2f}, recall {points.recall[i]:.2f}, "
            told += f"{points.found[i]:.0%} of anomalies found, {points.false_alarms[i]:.2f} false alarms a frame."
        return pictures | {"anomaly": truth}, told

    def total(self, score: str, region: str) -> None:
        """Count what the score's thresholds do on all held-out frames, which takes a while; `shown` says it then."""
        found = Alarms(self.counted(score, region).at)
        for i in self.each(range(self.count), "held-out"):
            frame = next(frames(self.study, "test", self.model, [i]))
            found.add(self.score(frame, score), within(frame, region))
        self.totals[score, region] = found.points()


def within(frame: Frame, region: str) -> Tensor:
    """The label `[H, W]` with void outside one of `REGIONS`, as of `alarms.kinds_of`."""
    label = frame.label.cpu()
    if region == REGIONS[1] and frame.town:
        return label.where(torch.isin(label, DRIVABLE) | (label == ANOMALY), torch.tensor(IGNORE))
    if region == REGIONS[2]:
        drivable = torch.isin(frame.logits.argmax(1)[0].cpu(), DRIVABLE)
        return label.where(drivable.byte().cummax(0).values.bool(), torch.tensor(IGNORE))
    return label


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"
