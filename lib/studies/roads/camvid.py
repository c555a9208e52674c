"""The road study on photographs: CamVid to train on, and three sets with anomalies to score.

Networks, recipes, treatments and scores are those of notebooks/streethazards.ipynb, where this is introduced. What is
made of its rows stands in lib/studies/roads/photographs.py, so that a table can change and no row is measured anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from lib import anomaly
from lib.anomaly import SCORES, Statistics
from lib.data import camvid
from lib.data.augment import Resize, resized
from lib.data.camvid import CamVid
from lib.data.road_anomaly import RoadAnomaly
from lib.data.streethazards import ANOMALY, IGNORE
from lib.data.streethazards import CLASSES as STREETS
from lib.files import packed
from lib.metrics import anomaly as measures
from lib.metrics import intervals, segmentation
from lib.metrics.anomaly import Evaluation, pixel_kinds
from lib.studies.roads import alarms
from lib.studies.roads.alarms import Frame, Judged
from lib.studies.roads.experiment import MEMORY, Frames, RoadStudy, matrices, resampled

#: CamVid's classes under the names of the stand-in's, so that the same code trains and judges; no photograph has "road
#: line" or "wall". What is sky there is "unlabeled" in StreetHazards, and bicyclists are "other".
SAME = {"sky": "unlabeled", "pavement": "sidewalk", "tree": "vegetation", "sign symbol": "traffic sign"}
SAME |= {"bicyclist": "other"}
STREET_IDS = torch.full((256,), IGNORE, dtype=torch.uint8)
STREET_IDS[: len(camvid.CLASSES)] = torch.tensor([STREETS.index(SAME.get(c, c)) for c in camvid.CLASSES]).byte()
MOVERS = [STREETS.index(name) for name in ("car", "pedestrian", "other")]
SETS = ("road_anomaly", "road_obstacle_21", "fishyscapes_static")
KEYS = ("auroc_pooled", "aupr_pooled")
HALVES = ("first", "second")
DRAWS = 200  # of the images of a set
#: Smallest true and predicted components that count, as shares of an image; SegmentMeIfYouCan has 10 and 50 px of 2 MP
#: for its obstacles, and elsewhere 100 and 500.
SMALLEST = {"road_obstacle_21": (5e-6, 2.5e-5)}

SCALE = (0.5, 2.0)
#: Some of the notebook's treatments, under its names.
TREATMENTS: dict[str, dict[str, Any]] = {
    "none": {},
    "flip": {"flip": "joint"},
    "image_only_flip": {"flip": "image only"},
    "degenerate": {"crops": "degenerate", "scale": SCALE},
    "scale": {"crops": "true", "scale": SCALE},
    "all": {"crops": "true", "scale": SCALE, "flip": "joint", "degrees": 5.0, "colour": True, "blur": True},
    "original_baseline": {"crops": "squash", "flip": "image only"},
    "original_mended": {"crops": "squash", "flip": "joint"},
    "original_augmented": {"crops": "degenerate", "scale": SCALE, "flip": "joint", "colour": True, "blur": True},
}


class Photographs(Frames):
    """`Frames` of a split of CamVid, or of every n-th frame of it, with the ids of StreetHazards."""

    def __init__(self, root: Path, split: str, every: int = 1):
        self.data = CamVid(root, split)
        for key in ("pairs", "names", "towns"):
            setattr(self.data, key, getattr(self.data, key)[::every])
        self.height, self.width = self.data.label(0).shape
        small = 4 * self.height * self.width * len(self.data) <= MEMORY
        self._pair = cache(self._decoded) if small else self._decoded
        self._blank = tv_tensors.Image(torch.empty(3, self.height, self.width, dtype=torch.uint8, device="meta"))

    def _decoded(self, i: int) -> tuple[Tensor, Tensor]:
        image, label = super()._decoded(i)
        return image, STREET_IDS[label.long()]


photographs = lru_cache(Photographs)


class PhotographStudy(RoadStudy):
    """The road study on CamVid, and on the sets beside its folder."""

    def split(self, name: str) -> Frames:
        """train, validation or test."""
        return photographs(self.root, name)

    def full_data(self, **params: Any) -> str:
        """What a row of `judged` depends on beside its parameters."""
        prints = " ".join(RoadAnomaly(self.root.parent / name).fingerprint for name in SETS)
        return f"{self.data('test', **params)}; {prints}; {DRAWS} draws; scores {', '.join(SCORES)}"

    @torch.no_grad()
    def scenes(self, name: str, model: nn.Module | None = None) -> Iterator[Frame]:
        """What a model says of every image of a set with anomalies, at the height that the study judges at.

        The first half of them, by name, is "first", the others are "second": the town of a frame, so that thresholds
        and places of one half can be used in the other; most images of one scene are neighbours. Without a model there
        are labels only. A frame has its image float32 `[3, H, W]` in 0..1, logits `[1, C, H, W]`, features, and label
        int64 `[H, W]` with `ANOMALY` and `IGNORE`. DataError as of `RoadAnomaly`.
        """
        data = RoadAnomaly(self.root.parent / name)
        for i in range(len(data)):
            image, label = data[i]
            size = (self.size[0], round(self.size[0] * label.shape[1] / label.shape[0]))
            image = tv_tensors.Image((image * 255).round().byte())
            label = tv_tensors.Mask(torch.where(label == 1, ANOMALY, label).byte())
            x, y = (part.as_subclass(Tensor) for part in Resize(size)(image, label))
            x, y = x.float() / 255, y.long()
            where = next(model.parameters()).device if model else "cpu"
            said = model.outputs(x[None].to(where)) if model else (torch.empty(0), ())
            yield Frame(i, HALVES[2 * i // len(data)], x, *said, y.to(where))

    def treated(self, treatment: str, **settings: Any) -> dict[str, Any]:
        """`RoadStudy.trial` of one of `TREATMENTS`."""
        return self.trial(TREATMENTS[treatment], **settings)

    def judged(self, **settings: Any) -> dict[str, Any]:
        """Load or train a main model; mIoU on three splits, and every score on every set.

        Returns:
            `miou` by split; `iou` by class, test; `draws` of images of test; `sets` by name, `scored` of each.
        """
        model, clean = self.main(TREATMENTS["all"], **settings).model, Resize(self.size)
        seen = {s: matrices(model, self.split(s), clean, most=120) for s in ("train", "validation")}
        seen["test"] = matrices(model, self.split("test"), clean)
        every = seen["test"].sum(0)
        frames = range(0, len(self.split("train")), 2)
        known = anomaly.fit(
            ((f.logits, f.features, f.label[None]) for f in alarms.frames(self, "train", model, frames)), MOVERS
        )
        known = anomaly.levels(
            ((f.logits, f.features, f.label[None]) for f in alarms.frames(self, "validation", model)), known
        )
        iou = dict(zip(STREETS, segmentation.iou(every).tolist(), strict=False))
        return {
            "miou": {split: segmentation.miou(found.sum(0)) for split, found in seen.items()},
            "iou": {name: iou[SAME.get(name, name)] for name in camvid.CLASSES},
            "draws": resampled(seen["test"]),
            "sets": {name: {"scores": self.scored(name, model, known)} for name in SETS},
        }

    def places(self, name: str) -> dict[str, Tensor]:
        """Of each half of a set, where anomalies are in the other: `[H, W]` of `size`, 0..1, by `HALVES`."""
        found: dict[str, list[Tensor]] = {half: [] for half in HALVES}
        for frame in self.scenes(name):
            (other,) = {*HALVES} - {frame.town}
            found[other].append(resized((frame.label == ANOMALY).float()[None], self.size)[0])
        return {town: anomaly.smoothed(torch.stack(maps).mean(0)) for town, maps in found.items() if maps}

    def scored(self, name: str, model: nn.Module, known: Statistics) -> dict[str, dict[str, Any]]:
        """Measures of every score on one set, inside its region of interest, with intervals and draws over images.

        Args:
            known: statistics of the training split, with thresholds of validation.
        """
        places = {half: replace(known, elsewhere=place) for half, place in self.places(name).items()}

        def run(names: Sequence[str]) -> Iterator[tuple[Frame, dict[str, Tensor]]]:
            for frame in self.scenes(name, model):
                here, size = places.get(frame.town, known), frame.label.shape
                maps = {key: resized(getattr(here, key)[None], size)[0] for key in ("place", "elsewhere")}
                here = replace(here, **maps)
                yield frame, {n: SCORES[n](frame.logits, frame.features, here)[0] for n in names}

        found = {n: Evaluation({"all": range(2)}) for n in SCORES}
        for frame, scores in run(list(SCORES)):
            kinds = pixel_kinds(frame.label, ANOMALY, (IGNORE,))
            for n, score in scores.items():
                found[n].add(score, kinds, frame.town)
        parts = Judged(found=found, smallest=SMALLEST.get(name, alarms.SMALLEST))
        parts.cross(run(list(SCORES)))
        rows = {}
        for n, evaluation in found.items():
            report = evaluation.report("all", rule="nearest")
            drawn = report.draws(DRAWS)
            rows[n] = report.values | {k: v for k, v in parts.crossed[n].items() if k != "open_miou"}
            rows[n]["intervals"] = {key: intervals.percentiles(drawn[key]).tolist() for key in measures.NAMES}
            rows[n]["draws"] = {key: packed(drawn[key]) for key in KEYS}
        return rows


class Treatments(PhotographStudy):
    """The same for short trainings, of which nothing is chosen: judged on every fifth frame of the test split.

    The validation split is seven seconds of one street.
    """

    def split(self, name: str) -> Frames:
        """train, or else the test split."""
        return super().split(name) if name == "train" else photographs(self.root, "test", 5)
