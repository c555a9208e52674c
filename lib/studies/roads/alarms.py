"""Anomalies on the road: every score of a trained segmenter on the held-out split, and what a threshold costs there.

Introduced in notebooks/streethazards.ipynb.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
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
from lib.studies.roads.experiment import KNOWN, MEMORY, Trials

OTHER, PEDESTRIAN = CLASSES.index("other"), CLASSES.index("pedestrian")
#: HEAT's parts: each alone (energy and the distance have rows of their own), and all but one.
PARTS = {
    "spatial": ["spatial"],
    "heat, no energy": ["mahalanobis", "spatial"],
    "heat, no distance": ["energy", "spatial"],
    "heat, no spatial": ["energy", "mahalanobis"],
}
SCORES: dict[str, Callable] = anomaly.SCORES | {
    name: lambda z, f, s, parts=parts: anomaly.heat(z, f, s, parts=parts) for name, parts in PARTS.items()
}
#: Shares of validation pixels flagged: where thresholds are tried.
RATES = np.geomspace(1e-4, 0.2, 24)
BUDGETS = (0.1, 0.5, 1.0, 2.0)  # false alarms a frame
#: Smallest components that count, as shares of a frame: 100 and 500 px of 2 MP (Chan et al. 2021, arXiv:2104.14812).
SMALLEST = (5e-5, 2.5e-4)
#: sIoU above which an anomaly counts as found, and PPV up to which what is flagged is a false alarm: the lowest
#: threshold of F1* there.
FOUND = 0.25


class Alarms(NamedTuple):
    """What is flagged at each threshold, `[n]`."""

    false_alarms: NDArray[np.float64]  # components a frame whose PPV is at most FOUND
    found: NDArray[np.float64]  # share of anomalies whose sIoU is above FOUND; NaN where there is none
    precision: NDArray[np.float64]  # of pixels; NaN where none is flagged
    recall: NDArray[np.float64]  # of pixels; NaN where there is no anomaly


class Scenes:
    """Logits, features and label of every frame of a split at `size`; kept if they fit into `roads.MEMORY` bytes.

    Args:
        every: every so many frames.
    """

    def __init__(self, trials: Trials, split: str, model: nn.Module, every: int = 1):
        self._frames, self._resize, self.model = trials.split(split), Resize(trials.size), model.eval()
        self.picks = range(0, len(self._frames), every)
        size = 5 * KNOWN * trials.size[0] * trials.size[1] * len(self.picks)
        self._kept: list | None = None
        if size < MEMORY:
            self._kept = list(self._computed())

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

    def scores(self, name: str, statistics: anomaly.Statistics) -> Iterator[tuple[Tensor, Tensor]]:
        """Score and label of each frame, both `[H, W]`."""
        for logits, features, label in self:
            yield SCORES[name](logits, features, statistics)[0], label[0]

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


def alarms(pairs: Iterable[tuple[Tensor, Tensor]], at: NDArray[np.float64]) -> Alarms:
    """What the thresholds `at` flag on frames of scores and labels, `[H, W]` each; ValueError as `curves.checked`."""
    false, sious, pixels, frames = np.zeros(len(at)), [[] for _ in at], np.zeros((len(at), 3)), 0
    for score, label in pairs:
        frames += 1
        checked(score[label != IGNORE], label[label != IGNORE] == ANOMALY)
        score, truth, ignored = score.numpy(), label.numpy() == ANOMALY, label.numpy() == IGNORE
        smallest = [max(1, round(share * truth.size)) for share in SMALLEST]
        for i, threshold in enumerate(at):
            flagged = (score >= threshold) & ~ignored
            siou, ppv = segmentation.components(truth, flagged, ignored, *smallest)
            false[i] += (ppv <= FOUND).sum()
            sious[i].append(siou)
            pixels[i] += (flagged & truth).sum(), flagged.sum(), truth.sum()
    hits, total, true = pixels.T
    found = [np.concatenate(s) > FOUND for s in sious]
    return Alarms(
        false / frames,
        np.array([f.mean() if f.size else np.nan for f in found]),
        np.divide(hits, total, out=np.full(len(at), np.nan), where=total > 0),
        np.divide(hits, true, out=np.full(len(at), np.nan), where=true > 0),
    )


def within_budget(seen: Alarms, budget: float) -> int:
    """Index of the lowest threshold up to which no threshold gives more false alarms a frame than `budget`.

    From the top, because at low thresholds components grow together and their number falls again. -1 if none does.
    """
    over = np.flatnonzero(seen.false_alarms > budget)
    return int(over[0]) - 1 if over.size else len(seen.false_alarms) - 1


@dataclass(frozen=True)
class Hazards:
    """The anomaly tables, for `sweeps.run`.

    Args:
        trials: data, sizes and training.
        held_out: the split with anomalies.
        draws: of the bootstrap over images.
    """

    trials: Trials
    held_out: str = "test"
    draws: int = 300

    def data(self, **_: Any) -> str:
        """What a row of a sweep depends on beside its parameters; scores of a notebook's own count by their code."""
        own = {n: code(f) for n, f in SCORES.items() if f.__module__ == "__main__"}
        names = ", ".join(f"{n} {own.get(n, '')}".rstrip() for n in SCORES)
        kinds = short(self.kinds())
        return (
            f"{self.trials.data(self.held_out)}, kinds {kinds}; {self.draws} draws; scores {names}, {json.dumps(PARTS)}"
        )

    def statistics(self, model: nn.Module, every: int = 1) -> anomaly.Statistics:
        """What the scores need from the training split."""
        return anomaly.fit(iter(Scenes(self.trials, "train", model, every)))

    def kinds(self) -> list[str]:
        """The kind of anomaly of each held-out frame; of the real set, which does not say, its town."""
        data, card = self.trials.split(self.held_out).data, self.trials.root / "frames.json"
        known = json.loads(card.read_text()) if card.exists() else {}
        return [known.get(name, {}).get("kind", town) for name, town in zip(data.names, data.towns, strict=True)]

    def anomalies(self, seed: int, steps: int, lr: float, crop: list[int]) -> dict[str, Any]:
        """Everything about one trained model: mIoU on three splits, and `judged` for every score."""
        model = self.trials.main(seed, steps, lr, crop).model
        known = self.statistics(model)
        test, validation = (Scenes(self.trials, split, model) for split in (self.held_out, "validation"))
        train = Scenes(self.trials, "train", model, max(len(self.trials.split("train")) // len(validation), 1))
        found = {"test": test.matrices(), "validation": validation.matrices(), "train": train.matrices()}
        closed = found["test"][:, :-1, :-1]
        low, high = bootstrap(lambda w: segmentation.miou(np.tensordot(w, closed, 1)), len(closed))
        means = {split: segmentation.summary(seen.sum(0), PEDESTRIAN) for split, seen in found.items()}
        means["test"] |= {"low": float(low), "high": float(high)}
        return means | {
            "scores": {name: self.judged(name, known, validation, test) for name in SCORES},
        }

    def judged(self, name: str, known: anomaly.Statistics, validation: Scenes, test: Scenes) -> dict[str, Any]:
        """One score: three protocols with intervals, each kind, budgets from validation, thresholds across towns."""
        pairs, kinds = list(test.scores(name, known)), self.kinds()
        report = measures.evaluate(pairs, ANOMALY, (IGNORE,), rule="nearest")
        zagreb = measures.evaluate(pairs, ANOMALY, (IGNORE, OTHER))
        at = thresholds(validation.scores(name, known))
        allowed, seen = alarms(validation.scores(name, known), at), alarms(pairs, at)
        points = {}
        for budget in BUDGETS:
            i = within_budget(allowed, budget)
            there = {key: float(value[i]) for key, value in seen._asdict().items()} if i >= 0 else {}
            points[f"{budget:g}"] = there | {"on_validation": float(allowed.false_alarms[i])} if i >= 0 else {}
        values = {key: report.values[key] for key in measures.NAMES}
        by_kind = {kind: _nanmean(report.images[np.array(kinds) == kind, 0]) for kind in sorted(set(kinds))}
        return {
            **values,
            **{f"{key}_zagreb": zagreb.values[f"{key}_per_image"] for key in measures.KEYS},
            "intervals": {key: list(pair) for key, pair in report.intervals(self.draws).items()},
            "kinds": by_kind,
            "budgets": points,
            "crossed": self.crossed(pairs, test),
        }

    def crossed(self, pairs: list[tuple[Tensor, Tensor]], test: Scenes) -> dict[str, float]:
        """Thresholds of one held-out town used in the other: open-mIoU at 95 % recall, and components at the best F1.

        Averages over the ways round; NaN with one town. A town without anomalies chooses no threshold.
        """
        towns = np.array(self.trials.split(self.held_out).data.towns)[list(test.picks)]
        predicted = [logits.argmax(1)[0].numpy() for logits, _, _ in test]
        rows = []
        for town in sorted(set(towns)):
            here, there = np.flatnonzero(towns != town), np.flatnonzero(towns == town)
            if not len(here):
                continue
            curve = measures.evaluate((pairs[i] for i in here), ANOMALY, (IGNORE,)).curve
            if not curve.anomalies.any():
                continue
            recall, best = measures.threshold_at_recall(curve), measures.threshold_at_best_f1(curve)
            counts, parts = np.zeros((KNOWN + 1, KNOWN + 1), np.int64), []
            for i in there:
                score, label = (part.numpy() for part in pairs[i])
                labels = segmentation.open_labels(predicted[i], score, recall, ANOMALY)
                counts += segmentation.confusion(label, labels, KNOWN + 1)
                smallest = [max(1, round(share * label.size)) for share in SMALLEST]
                parts.append(segmentation.components(label == ANOMALY, score >= best, label == IGNORE, *smallest))
            siou, ppv = (np.concatenate(part) for part in zip(*parts, strict=True))
            rows.append({"open_miou": segmentation.open_miou(counts), **segmentation.component_summary(siou, ppv)})
        return {key: _nanmean(np.array([row[key] for row in rows])) for key in ("open_miou", "siou", "ppv", "f1")}


def _nanmean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
