"""Every score of a trained segmenter on held-out streets, and what a threshold costs: notebooks/streethazards.ipynb."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lib import anomaly
from lib.data.augment import Resize
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE
from lib.metrics import anomaly as measures
from lib.metrics import segmentation
from lib.metrics.anomaly import Pool, checked
from lib.metrics.intervals import bootstrap
from lib.provenance import code, short
from lib.studies.roads.experiment import KNOWN, MEMORY, RoadStudy

OTHER, PEDESTRIAN = CLASSES.index("other"), CLASSES.index("pedestrian")
Score = Callable[[Tensor, Tensor, anomaly.Statistics], Tensor]  # as those of `lib.anomaly.SCORES`
#: Shares of validation pixels flagged: where thresholds are tried.
RATES = np.geomspace(1e-4, 0.2, 24)
BUDGETS = (0.1, 0.5, 1.0, 2.0)  # false alarms a frame
#: Smallest components that count, as shares of a frame: 100 and 500 px of 2 MP (Chan et al. 2021, arXiv:2104.14812).
SMALLEST = (5e-5, 2.5e-4)
#: sIoU above which an anomaly counts as found, and PPV up to which what is flagged is a false alarm: the lowest
#: threshold of F1* there.
FOUND = 0.25


class OperatingPoints(NamedTuple):
    """What is flagged at each threshold, `[n]`."""

    false_alarms: NDArray[np.float64]  # components a frame whose PPV is at most FOUND
    found: NDArray[np.float64]  # share of anomalies whose sIoU is above FOUND; NaN where there is none
    precision: NDArray[np.float64]  # of pixels; NaN where none is flagged
    recall: NDArray[np.float64]  # of pixels; NaN where there is no anomaly


class SplitOutputs:
    """Logits, features and label of every frame of a split at `size`; kept if they fit into `MEMORY` bytes.

    Args:
        every: every so many frames.
    """

    def __init__(self, study: RoadStudy, split: str, model: nn.Module, every: int = 1):
        self._frames, self._resize, self.model = study.split(split), Resize(study.size), model.eval()
        self.picks = range(0, len(self._frames), every)
        size = 5 * KNOWN * study.size[0] * study.size[1] * len(self.picks)
        self._kept = list(self._computed()) if size < MEMORY else None

    def __len__(self) -> int:
        return len(self.picks)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter(self._computed() if self._kept is None else self._kept)

    @torch.no_grad()
    def _computed(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        where = next(self.model.parameters()).device
        for i in self.picks:
            x, y = self._frames.batch([i], self._resize)
            yield *(part.cpu() for part in self.model.outputs(x.to(where))), y

    def scored(self, score: Score, statistics: anomaly.Statistics) -> Iterator[tuple[Tensor, Tensor]]:
        """Score and label of each frame, both `[H, W]`."""
        for logits, features, label in self:
            yield score(logits, features, statistics)[0], label[0]

    def matrices(self) -> NDArray[np.int64]:
        """Confusion, one an image `[N, C+1, C+1]`: of the anomaly, the last, it says for what it is taken."""
        return np.array([segmentation.confusion(y.numpy(), z.argmax(1).numpy(), KNOWN + 1) for z, _, y in self])


def thresholds(pairs: Iterable[tuple[Tensor, Tensor]]) -> NDArray[np.float64]:
    """Thresholds that flag `RATES` of the pixels of frames without anomalies, falling."""
    pool = Pool()
    for score, label in pairs:
        pool.add(score[label != IGNORE], label[label != IGNORE] == ANOMALY)
    curve = pool.curve()
    return np.array([measures.threshold_at_fpr(curve, rate) for rate in RATES])


def components(flagged: NDArray[np.bool_], label: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """`segmentation.components` of the anomalies and of what is flagged `[H, W]`, without those below `SMALLEST`."""
    smallest = [max(1, round(share * label.size)) for share in SMALLEST]
    return segmentation.components(label == ANOMALY, flagged, label == IGNORE, *smallest)


def operating_points(pairs: Iterable[tuple[Tensor, Tensor]], at: NDArray[np.float64]) -> OperatingPoints:
    """What the thresholds `at` flag on frames of scores and labels, `[H, W]` each; ValueError as `curves.checked`."""
    false, sious, pixels, frames = np.zeros(len(at)), [[] for _ in at], np.zeros((len(at), 3)), 0
    for score, label in pairs:
        frames += 1
        checked(score[label != IGNORE], label[label != IGNORE] == ANOMALY)
        score, label = score.numpy(), label.numpy()
        truth = label == ANOMALY
        for i, threshold in enumerate(at):
            flagged = (score >= threshold) & (label != IGNORE)
            siou, ppv = components(flagged, label)
            false[i] += (ppv <= FOUND).sum()
            sious[i].append(siou)
            pixels[i] += (flagged & truth).sum(), flagged.sum(), truth.sum()
    hits, total, true = pixels.T
    found = [np.concatenate(s) > FOUND for s in sious]
    return OperatingPoints(
        false / frames,
        np.array([f.mean() if f.size else np.nan for f in found]),
        np.divide(hits, total, out=np.full(len(at), np.nan), where=total > 0),
        np.divide(hits, true, out=np.full(len(at), np.nan), where=true > 0),
    )


def within_budget(seen: OperatingPoints, budget: float) -> int:
    """Index of the lowest threshold up to which no threshold gives more false alarms a frame than `budget`.

    From the top, because at low thresholds components grow together and their number falls again. -1 if none does.
    """
    over = np.flatnonzero(seen.false_alarms > budget)
    return int(over[0]) - 1 if over.size else len(seen.false_alarms) - 1


@dataclass(frozen=True)
class AnomalyStudy:
    """What is measured of models that were trained to the end.

    Args:
        study: data, sizes and training.
        scores: by the names of their rows; see `lib.anomaly.SCORES`.
        held_out: the split with anomalies.
        draws: of the bootstrap over images.
    """

    study: RoadStudy
    scores: dict[str, Score]
    held_out: str = "test"
    draws: int = 300

    def data(self, **_: Any) -> str:
        """What a row of a sweep depends on beside its parameters; scores of a notebook's own count by their code."""
        own = {n: code(f) for n, f in self.scores.items() if getattr(f, "func", f).__module__ == "__main__"}
        names = ", ".join(f"{n} {own.get(n, '')}".rstrip() for n in self.scores)
        parts = {n: f.keywords.get("parts", f.keywords) for n, f in self.scores.items() if isinstance(f, partial)}
        found = f"{self.study.data(self.held_out)}, kinds {short(self.kinds())}; {self.draws} draws"
        return f"{found}; scores {names}, {json.dumps(parts)}"

    def statistics(self, model: nn.Module) -> anomaly.Statistics:
        """What the scores need from the training split."""
        return anomaly.fit(SplitOutputs(self.study, "train", model))

    def kinds(self) -> list[str]:
        """The kind of anomaly of each held-out frame; of the real set, which does not say, its town."""
        data, card = self.study.split(self.held_out).data, self.study.root / "frames.json"
        known = json.loads(card.read_text()) if card.exists() else {}
        return [known.get(name, {}).get("kind", town) for name, town in zip(data.names, data.towns, strict=True)]

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Everything about one trained model: mIoU on three splits, and `judged` for every score."""
        known = self.statistics(model)
        test, validation = (SplitOutputs(self.study, split, model) for split in (self.held_out, "validation"))
        train = SplitOutputs(self.study, "train", model, max(len(self.study.split("train")) // len(validation), 1))
        found = {"test": test.matrices(), "validation": validation.matrices(), "train": train.matrices()}
        closed = found["test"][:, :-1, :-1]
        low, high = bootstrap(lambda w: segmentation.miou(np.tensordot(w, closed, 1)), len(closed))
        means = {split: segmentation.summary(seen.sum(0), PEDESTRIAN) for split, seen in found.items()}
        means["test"] |= {"low": float(low), "high": float(high)}
        scores = {name: self.judged(score, known, validation, test) for name, score in self.scores.items()}
        return means | {"scores": scores}

    def judged(
        self, score: Score, known: anomaly.Statistics, validation: SplitOutputs, test: SplitOutputs
    ) -> dict[str, Any]:
        """One score: three protocols with intervals, each kind, budgets from validation, thresholds across towns."""
        pairs = list(test.scored(score, known))
        report = measures.evaluate(pairs, ANOMALY, (IGNORE,), rule="nearest")
        zagreb = measures.evaluate(pairs, ANOMALY, (IGNORE, OTHER)).values
        at = thresholds(validation.scored(score, known))
        allowed, seen = operating_points(validation.scored(score, known), at), operating_points(pairs, at)
        points = {}
        for budget in BUDGETS:
            i, there = within_budget(allowed, budget), seen._asdict() | {"on_validation": allowed.false_alarms}
            points[f"{budget:g}"] = {key: float(value[i]) for key, value in there.items()} if i >= 0 else {}
        return {
            **{key: report.values[key] for key in measures.NAMES},
            **{f"{key}_zagreb": zagreb[f"{key}_per_image"] for key in measures.KEYS},
            "intervals": {key: list(pair) for key, pair in report.intervals(self.draws).items()},
            "kinds": pd.Series(report.images[:, 0]).groupby(self.kinds()).mean().to_dict(),
            "budgets": points,
            "crossed": self.crossed(pairs, test),
        }

    def crossed(self, pairs: list[tuple[Tensor, Tensor]], test: SplitOutputs) -> dict[str, float]:
        """Thresholds of one held-out town used in the other: open-mIoU at 95 % recall, and components at the best F1.

        Averages over the ways round; NaN with one town. A town without anomalies chooses no threshold.
        """
        towns = np.array(self.study.split(self.held_out).data.towns)[list(test.picks)]
        predicted = [logits.argmax(1)[0].numpy() for logits, _, _ in test]
        rows = []
        for town in sorted(set(towns)):
            here, there = np.flatnonzero(towns != town), np.flatnonzero(towns == town)
            if not any((pairs[i][1] == ANOMALY).any() for i in here):
                continue
            curve = measures.evaluate((pairs[i] for i in here), ANOMALY, (IGNORE,)).curve
            recall, best = measures.threshold_at_recall(curve), measures.threshold_at_best_f1(curve)
            counts, parts = np.zeros((KNOWN + 1, KNOWN + 1), np.int64), []
            for i in there:
                score, label = (part.numpy() for part in pairs[i])
                labels = segmentation.open_labels(predicted[i], score, recall, ANOMALY)
                counts += segmentation.confusion(label, labels, KNOWN + 1)
                parts.append(components(score >= best, label))
            seen = segmentation.component_summary(*map(np.concatenate, zip(*parts, strict=True)))
            rows.append({"open_miou": segmentation.open_miou(counts)} | seen)
        return pd.DataFrame(rows, columns=["open_miou", "siou", "ppv", "f1"], dtype=float).mean().to_dict()
