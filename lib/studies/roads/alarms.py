"""Every score of a trained segmenter on held-out streets, and what a threshold costs: notebooks/streethazards.ipynb."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects
from skimage.color import rgb2lab
from torch import Tensor, nn

from lib import anomaly
from lib.anomaly import Score
from lib.data.augment import Resize
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE
from lib.files import packed
from lib.metrics import anomaly as measures
from lib.metrics import segmentation
from lib.metrics.anomaly import Curve, Evaluation, Pool, checked, pixel_kinds
from lib.metrics.intervals import bootstrap, percentiles
from lib.models.segmenters import LITE0, Outputs
from lib.provenance import code, short
from lib.studies.roads.experiment import KNOWN, MEMORY, RoadStudy

OTHER, PEDESTRIAN, CAR = (CLASSES.index(name) for name in ("other", "pedestrian", "car"))
DRIVABLE = torch.tensor([CLASSES.index(name) for name in ("road", "road line", "sidewalk")])
#: Pixels that each protocol counts, by the kinds of `kinds_of`: 2 is "other", 4 the region, 8 the predicted region.
SUBSETS = {
    "all": range(16),
    "zagreb": [k for k in range(16) if not k & 2],
    "region": [k for k in range(16) if k & 4],
    "predicted": [k for k in range(16) if k & 8],
}
#: Shares of validation pixels flagged: where thresholds are tried.
RATES = np.geomspace(1e-4, 0.2, 24)
BUDGETS = (0.1, 0.5, 1.0, 2.0)  # false alarms a frame
#: Smallest components that count, as shares of a frame: 100 and 500 px of 2 MP (Chan et al. 2021, arXiv:2104.14812).
SMALLEST = (5e-5, 2.5e-4)
#: sIoU above which an anomaly counts as found, and PPV up to which what is flagged is a false alarm: the lowest
#: threshold of F1* there.
FOUND = 0.25
RED = np.array([0.95, 0.1, 0.0])  # of what is flagged


class Frame(NamedTuple):
    """One frame of a split, on the model's device."""

    index: int
    town: str
    image: Tensor  # [3, H, W] in 0..1, in the host's memory
    logits: Tensor  # [1, C, H, W]
    features: tuple[Tensor, ...]  # [1, D, h, w] each
    label: Tensor  # [H, W]

    def predicted(self) -> Tensor:
        """The class that each pixel is taken for, `[H, W]`."""
        return self.logits.max(1).indices[0]  # many times as fast as argmax, which walks through memory in steps


@torch.no_grad()
def frames(study: RoadStudy, split: str, model: nn.Module, picks: Sequence[int] | None = None) -> Iterator[Frame]:
    """What a model says of every frame of a split at `study.size`, or of some, one after the other; none is kept."""
    data, resize, where = study.split(split), Resize(study.size), next(model.parameters()).device
    model.eval()
    for i in range(len(data)) if picks is None else picks:
        x, y = data.batch([i], resize)
        yield Frame(i, data.data.towns[i], x[0], *model.outputs(x.to(where)), y[0].to(where))


def scored(
    seen: Iterable[Frame], scores: dict[str, Score], known: anomaly.Statistics, places: dict[str, Tensor]
) -> Iterator[tuple[Frame, dict[str, Tensor]]]:
    """Frames, and what scores say of each, `[H, W]`; `places` `[H, W]` are what is known elsewhere of some towns."""
    for frame in seen:
        here = replace(known, elsewhere=places[frame.town]) if frame.town in places else known
        yield frame, {name: score(frame.logits, frame.features, here)[0] for name, score in scores.items()}


class Ensemble(nn.Module):
    """Models as one whose logits are the logarithm of their mean softmax; features are those of the first."""

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def outputs(self, images: Tensor) -> Outputs:
        found = [model.outputs(images) for model in self.models]
        mean = torch.stack([one.logits.log_softmax(1) for one in found]).logsumexp(0) - np.log(len(found))
        return Outputs(mean, found[0].features)


def traits(study: RoadStudy, split: str) -> pd.DataFrame:
    """What may make an anomaly hard to find, a row a frame; NaN where a frame has none.

    "size, % of the frame"; "contrast", the distance of its mean colour from that of what surrounds it within 12 steps
    of a pixel (of 640 a row), in CIE L*a*b*; "on the road", whether most of what surrounds it below its lowest pixel is
    road or road line; and of the stand-in "distance, m".
    """
    data, card = study.split(split), study.root / "frames.json"
    known = json.loads(card.read_text()) if card.exists() else {}
    wide, rows = max(round(12 * study.size[1] / 640), 1), []
    for i, name in enumerate(data.data.names):
        x, y = (part[0].numpy() for part in data.batch([i], Resize(study.size)))
        row = {"distance, m": known.get(name, {}).get("metres", np.nan)}
        for box in find_objects((y == ANOMALY).astype(int)):  # one, of all its pixels, or none
            row["size, % of the frame"] = 100 * (y == ANOMALY).mean()
            near = tuple(slice(max(side.start - wide, 0), side.stop + wide) for side in box)
            x, y = x[:, *near], y[near]
            inside = y == ANOMALY
            around = binary_dilation(inside, iterations=wide) & ~inside & (y != IGNORE)
            if around.any():
                colours = rgb2lab(x.transpose(1, 2, 0))
                row["contrast"] = float(np.linalg.norm(colours[inside].mean(0) - colours[around].mean(0)))
                below = y[around & (np.arange(len(y)) > np.flatnonzero(inside.any(1))[-1])[:, None]]
                row["on the road"] = float(np.isin(below, DRIVABLE[:2]).mean() > 0.5) if below.size else np.nan
        rows.append(row)
    return pd.DataFrame(rows, columns=["size, % of the frame", "distance, m", "contrast", "on the road"])


def kinds_of(frame: Frame) -> Tensor:
    """`pixel_kinds` of a frame, `[H, W]`: anomalies, "other", the region of interest, and the predicted one.

    The region is road, road line and sidewalk, and anomalies; the predicted one all that lies in its column at or below
    a pixel that is taken for one of the three, so that what stands on the road is in it.
    """
    drivable = DRIVABLE.to(frame.label.device)
    region = torch.isin(frame.label, drivable) | (frame.label == ANOMALY)
    predicted = torch.isin(frame.predicted(), drivable).byte().cummax(0).values.bool()
    return pixel_kinds(frame.label, ANOMALY, (IGNORE,), [frame.label == OTHER, region, predicted])


class OperatingPoints(NamedTuple):
    """What is flagged at each threshold, `[n]`."""

    false_alarms: NDArray[np.float64]  # components a frame whose PPV is at most FOUND
    found: NDArray[np.float64]  # share of anomalies whose sIoU is above FOUND; NaN where there is none
    precision: NDArray[np.float64]  # of pixels; NaN where none is flagged
    recall: NDArray[np.float64]  # of pixels; NaN where there is no anomaly


class Alarms:
    """What falling thresholds flag, counted frame by frame.

    Args:
        at: thresholds.
        most: false alarms in all, beyond which a threshold and all below it are given up.
    """

    def __init__(self, at: NDArray[np.float64], most: float = np.inf):
        self.at, self.most, self.frames = at, most, 0
        self.false: list[list[int]] = [[] for _ in at]  # by threshold, of each frame
        self.sious: list[list[NDArray]] = [[] for _ in at]
        self.pixels = np.zeros((len(at), 3))

    def add(self, score: Tensor, label: Tensor) -> None:
        """One frame, both `[H, W]`; ValueError as `checked`."""
        self.frames += 1
        checked(score[label != IGNORE], label[label != IGNORE] == ANOMALY)
        score, label = score.cpu().numpy(), label.cpu().numpy()
        truth, counted = label == ANOMALY, label != IGNORE
        for i, threshold in enumerate(self.at):
            flagged = (score >= threshold) & counted
            siou, ppv = components(flagged, label)
            self.false[i].append(int((ppv <= FOUND).sum()))
            self.sious[i].append(siou)
            self.pixels[i] += (flagged & truth).sum(), flagged.sum(), truth.sum()
            if sum(self.false[i]) > self.most:
                self.at = self.at[:i]
                break

    def points(self) -> OperatingPoints:
        """So far, of the thresholds that were not given up."""
        n = len(self.at)
        hits, total, true = self.pixels[:n].T
        found = [np.concatenate(s) > FOUND for s in self.sious[:n]]
        return OperatingPoints(
            np.array([sum(found) for found in self.false[:n]]) / max(self.frames, 1),
            np.array([f.mean() if f.size else np.nan for f in found]),
            np.divide(hits, total, out=np.full(n, np.nan), where=total > 0),
            np.divide(hits, true, out=np.full(n, np.nan), where=true > 0),
        )

    def cases(self, i: int) -> dict[str, int]:
        """Numbers of the frames that show best what threshold `i` does, of those kinds of which there is one.

        "hit": of the frames with an anomaly that is found those with fewest false alarms, and of these the one with
        the largest sIoU; "miss": the first frame with anomalies none of which is found, and without a false alarm;
        "false alarm": the frame with most of them. None for -1, which is no threshold.
        """
        if i < 0:
            return {}
        best = np.array([siou.max(initial=-1.0) for siou in self.sious[i]])  # -1 without an anomaly
        false = np.array(self.false[i])
        hits, misses = np.flatnonzero(best > FOUND), np.flatnonzero((best >= 0) & (best <= FOUND) & (false == 0))
        found = {"hit": hits[np.lexsort((-best[hits], false[hits]))][:1], "miss": misses[:1]}
        found["false alarm"] = [false.argmax()] if false.any() else []
        return {kind: int(frames[0]) for kind, frames in found.items() if len(frames)}


def raised(score: Tensor, label: Tensor, threshold: float) -> NDArray[np.bool_]:
    """What is flagged of a frame, all `[H, W]`, without void and without components that are too small to count."""
    flagged, smallest = ((score >= threshold) & (label != IGNORE)).cpu().numpy(), round(SMALLEST[1] * label.numel())
    found, _, small = segmentation.labelled(flagged, smallest)
    return flagged & ~small[found]


def components(
    flagged: NDArray[np.bool_], label: NDArray[np.int64], smallest: Sequence[float] = SMALLEST
) -> tuple[NDArray, NDArray]:
    """`segmentation.components` of the anomalies and of what is flagged `[H, W]`, without those that are smaller."""
    least = [max(1, round(share * label.size)) for share in smallest]
    return segmentation.components(label == ANOMALY, flagged, label == IGNORE, *least)


def thresholds(curve: Curve) -> NDArray[np.float64]:
    """Thresholds that flag `RATES` of the pixels of frames without anomalies, falling."""
    return np.array([measures.threshold_at_fpr(curve, rate) for rate in RATES])


def within_budget(seen: OperatingPoints, budget: float) -> int:
    """Index of the lowest threshold up to which no threshold gives more false alarms a frame than `budget`.

    From the top, because at low thresholds components grow together and their number falls again. -1 if none does.
    """
    over = np.flatnonzero(seen.false_alarms > budget)
    return int(over[0]) - 1 if over.size else len(seen.false_alarms) - 1


@dataclass
class Judged:
    """What the passes over one model's frames leave: counts, no pixel of any frame."""

    known: anomaly.Statistics | None = None
    matrices: dict[str, list[NDArray[np.int64]]] = field(default_factory=lambda: defaultdict(list))
    ordinary: dict[str, Pool] = field(default_factory=dict)  # by score, validation pixels
    allowed: dict[str, Alarms] = field(default_factory=dict)  # by score, on validation
    seen: dict[str, Alarms] = field(default_factory=dict)  # the same thresholds on the held-out split
    found: dict[str, Evaluation] = field(default_factory=dict)  # by score, pooled by town
    crossed: dict[str, dict[str, float]] = field(default_factory=dict)
    smallest: Sequence[float] = SMALLEST  # of components that count

    def confuse(self, split: str, frame: Frame) -> None:
        """Count one image `[C+1, C+1]`: of the anomaly, the last, it says for what it is taken."""
        predicted = frame.predicted().cpu().numpy()
        self.matrices[split].append(segmentation.confusion(frame.label.cpu().numpy(), predicted, KNOWN + 1))

    def cross(self, held_out: Iterable[tuple[Frame, dict[str, Tensor]]]) -> None:
        """Thresholds of one held-out town used in the other: open-mIoU at 95 % recall, and components at the best F1.

        Averages over the ways round; NaN with one town. A town without anomalies chooses no threshold.
        """
        at, counts, parts = {}, defaultdict(int), defaultdict(list)
        for name, found in self.found.items():
            for town in found.pools:
                others = [pool.of(*found.sides()) for other, pool in found.pools.items() if other != town]
                curve = sum(others, Pool()).curve()
                if curve.anomalies.any():
                    at[name, town] = measures.threshold_at_recall(curve), measures.threshold_at_best_f1(curve)
        for frame, scores in held_out:
            label, predicted = frame.label.cpu().numpy(), frame.predicted().cpu().numpy()
            for key in ((name, frame.town) for name in scores if (name, frame.town) in at):
                (recall, best), score = at[key], scores[key[0]].cpu().numpy()
                labels = segmentation.open_labels(predicted, score, recall, ANOMALY)
                counts[key] += segmentation.confusion(label, labels, KNOWN + 1)
                parts[key].append(components(score >= best, label, self.smallest))
        rows = defaultdict(list)
        for key in at:
            seen = segmentation.component_summary(*map(np.concatenate, zip(*parts[key], strict=True)))
            rows[key[0]].append({"open_miou": segmentation.open_miou(counts[key])} | seen)
        for name in self.found:
            table = pd.DataFrame(rows[name], columns=["open_miou", "siou", "ppv", "f1"], dtype=float)
            self.crossed[name] = table.mean().to_dict()

    def against_validation(self, score: str) -> float:
        """AUROC of the anomalies against the pixels of validation, whose towns the network knows."""
        here = self.found[score].pool()
        return measures.auroc((here.of([1], []) + self.ordinary[score].of([], [0])).curve())


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

    def data(self, network: str = LITE0, **_: Any) -> str:
        """What a row of a sweep depends on beside its parameters; scores of a notebook's own count by their code."""
        own = {n: code(f) for n, f in self.scores.items() if getattr(f, "func", f).__module__ == "__main__"}
        names = ", ".join(f"{n} {own.get(n, '')}".rstrip() for n in self.scores)
        parts = {n: f.keywords.get("parts", f.keywords) for n, f in self.scores.items() if isinstance(f, partial)}
        found = f"{self.study.data(self.held_out, network)}, kinds {short(self.kinds())}; {self.draws} draws"
        return f"{found}; scores {names}, {json.dumps(parts)}"

    def kinds(self) -> list[str]:
        """The kind of anomaly of each held-out frame; of the real set, which does not say, its town."""
        data, card = self.study.split(self.held_out).data, self.study.root / "frames.json"
        known = json.loads(card.read_text()) if card.exists() else {}
        return [known.get(name, {}).get("kind", town) for name, town in zip(data.names, data.towns, strict=True)]

    def places(self) -> dict[str, Tensor]:
        """Of each held-out town, how often each pixel `[H, W]` is an anomaly in frames of the other towns, blurred."""
        data, resize = self.study.split(self.held_out), Resize(self.study.size)
        towns = data.data.towns
        sums = {town: torch.zeros(self.study.size) for town in sorted(set(towns))}
        for i, town in enumerate(towns):
            sums[town] += data.batch([i], resize)[1][0] == ANOMALY
        every, others = sum(sums.values()), {town: len(towns) - towns.count(town) for town in sums}
        return {t: anomaly.smoothed((every - own) / others[t]) for t, own in sums.items() if others[t]}

    def judge(self, model: nn.Module, names: Sequence[str] = (), crossed: bool = False) -> Judged:
        """Judge some scores, or all, in passes of which counts are left.

        Train for statistics; validation for levels, if a score needs them, for thresholds and for what they flag; the
        held-out split for all measures, and once more, if `crossed`, for thresholds of its other towns. Validation is
        passed once if what is said of it fits into `MEMORY` bytes.
        """
        scores = {name: self.scores[name] for name in names or self.scores}
        run, places = partial(frames, self.study, model=model), self.places()
        judged = Judged()

        def trained() -> Iterator[tuple[Tensor, Sequence[Tensor], Tensor]]:
            half = range(0, len(self.study.split("train")), 2)  # of all frames the time would double
            for frame in run("train", picks=half):
                judged.confuse("train", frame)
                yield frame.logits, frame.features, frame.label[None]

        judged.known = anomaly.fit(trained(), movers=(CAR, PEDESTRIAN))
        self._allow(judged, scores, partial(run, "validation"), places)
        judged.seen = {name: Alarms(alarms.at) for name, alarms in judged.allowed.items()}
        judged.found = {name: Evaluation(SUBSETS, 16) for name in scores}
        for frame, found in scored(run(self.held_out), scores, judged.known, places):
            judged.confuse(self.held_out, frame)
            kinds = kinds_of(frame)
            for name, score in found.items():
                judged.found[name].add(score, kinds, frame.town)
                judged.seen[name].add(score, frame.label)
        if crossed:
            judged.cross(scored(run(self.held_out), scores, judged.known, places))
        return judged

    def _allow(
        self, judged: Judged, scores: dict[str, Score], run: Callable[[], Iterator[Frame]], places: dict[str, Tensor]
    ) -> None:
        """Levels, ordinary pixels, and what thresholds flag, from passes over validation."""
        maps = 2 * len(CLASSES) + len(scores)  # for a pixel: logits and scores; image, label and features are less
        small = 4 * maps * math.prod(self.study.size) * len(self.study.split("validation")) <= MEMORY
        kept = lambda made: cache(lambda: list(made())) if small else made  # noqa: E731
        seen = kept(run)
        if names := anomaly.levelled(scores.values()):
            outputs = ((f.logits, f.features, f.label[None]) for f in seen())
            judged.known = anomaly.levels(outputs, judged.known, names)
        ordinary = kept(lambda: scored(seen(), scores, judged.known, places))
        judged.ordinary = {name: Pool() for name in scores}
        for frame, found in ordinary():
            judged.confuse("validation", frame)
            for name, score in found.items():
                judged.ordinary[name].add(score[frame.label != IGNORE], frame.label[frame.label != IGNORE] == ANOMALY)
        most = max(BUDGETS) * len(judged.matrices["validation"])
        judged.allowed = {name: Alarms(thresholds(pool.curve()), most) for name, pool in judged.ordinary.items()}
        for frame, found in ordinary():
            for name, score in found.items():
                judged.allowed[name].add(score, frame.label)

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Everything about one trained model: mIoU on three splits, and `summary` of every score."""
        judged = self.judge(model, crossed=True)
        closed = np.array(judged.matrices[self.held_out])[:, :-1, :-1]
        low, high = bootstrap(lambda w: segmentation.miou(np.tensordot(w, closed, 1)), len(closed))
        splits = {"test": self.held_out, "validation": "validation", "train": "train"}
        means = {n: segmentation.summary(sum(judged.matrices[s]), PEDESTRIAN) for n, s in splits.items()}
        means["test"] |= {"low": float(low), "high": float(high)}
        return means | {"scores": {name: self.summary(judged, name) for name in judged.found}}

    def summary(self, judged: Judged, name: str) -> dict[str, Any]:
        """One score: protocols with intervals and draws, each kind, towns, budgets from validation."""
        evaluation = judged.found[name]
        report, inside = evaluation.report("all", rule="nearest"), evaluation.report("region")
        values = {key: report.values[key] for key in measures.NAMES}
        zagreb = evaluation.report("zagreb").values
        values |= {f"{key}_zagreb": zagreb[f"{key}_per_image"] for key in measures.KEYS}
        predicted = evaluation.report("predicted")
        for where, part in (("region", inside), ("predicted_region", predicted)):
            values |= {f"{key}_{where}": part.values[f"{key}_pooled"] for key in measures.KEYS}
        values["anomalies_in_predicted_region"] = float(predicted.curve.anomalies.sum() / report.curve.anomalies.sum())
        drawn = report.draws(self.draws) | {"auroc_region": inside.draws(self.draws)["auroc_pooled"]}
        before, after = judged.allowed[name].points(), judged.seen[name].points()
        points = {}
        for budget in BUDGETS:
            i, there = within_budget(before, budget), after._asdict() | {"on_validation": before.false_alarms}
            points[f"{budget:g}"] = {key: float(value[i]) for key, value in there.items()} if i >= 0 else {}
        some = np.flatnonzero(after.found > 0)
        pools = {town: pool.of(*evaluation.sides()) for town, pool in evaluation.pools.items()}
        return {
            **values,
            "first_found": float(before.false_alarms[some[0]]) if some.size else float("nan"),
            "intervals": {key: percentiles(values).tolist() for key, values in drawn.items()},
            "draws": {key: packed(drawn[key]) for key in PAIRED},
            "kinds": pd.Series(report.images[:, 0]).groupby(self.kinds()).mean().to_dict(),
            "towns": {town: measures.measure(pool.curve()) for town, pool in pools.items()},
            "budgets": points,
            "crossed": judged.crossed.get(name, {}),
        }


#: Measures that are compared with those of `anomaly.PLACES`, frame by frame drawn anew.
PAIRED = ("auroc_pooled", "aupr_pooled", "auroc_region")
