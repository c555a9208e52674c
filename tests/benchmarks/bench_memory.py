"""Peak memory of the passes over a split at the size of the real sets; run by hand: minutes for MOVi-A.

    python tests/benchmarks/bench_memory.py [SCENES [PASS ...]]    # 9,703 scenes of MOVi-A
    MALLOC_MMAP_THRESHOLD_=1048576 python tests/benchmarks/bench_memory.py [FRAMES] roads   # as lib.run sets it; of
        # 1280 x 720 px, 1,500 frames take half an hour

A wrapper repeats the stand-in's scenes; what is asked for is decoded, and its tokens are read, by a small model. Tokens
are zeros in a file without content, mapped like those of the cache; resident pages of a mapped file count, though the
system may take them back at any time, so memory without them is said beside.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib import anomaly, features
from lib.data.movi import MoviDataset
from lib.data.streethazards import SPLITS, StreetHazards
from lib.features import Features, Split
from lib.models import backbones
from lib.models.dinosaur import Dinosaur
from lib.models.segmenters import Outputs
from lib.models.video import VideoModel
from lib.studies import comparison
from lib.studies.objects import experiment, tracking
from lib.studies.objects.final import BACK, control_masks
from lib.studies.roads.alarms import AnomalyStudy
from lib.studies.roads.experiment import RoadStudy
from lib.training import peak_memory, place

SIDE, CHANNELS = 16, 40  # of the tokens


class Repeated(MoviDataset):
    """As many scenes as are asked for, the stand-in's over and over."""

    def __init__(self, count, **options):
        super().__init__(**options)
        self._places = [self._places[i % len(self._places)] for i in range(count)]


def split(count, folder, name="train", frames=slice(None, None, 2)):
    """A split with tokens of its own."""
    data = Repeated(count, split=name, fields=("video", "segmentations"), frames=frames)
    made = Split(data, backbones.load("pixels"), 128, SIDE)
    path, shape = Path(folder) / f"{name}-{count}-{made.shape[1]}.npy", (*made.shape[:2], SIDE**2, CHANNELS)
    np.lib.format.open_memmap(path, "w+", np.float16, shape).flush()
    tokens = np.load(path, mmap_mode="r")
    vars(made)["features"] = Features(tokens, (SIDE, SIDE), torch.zeros(CHANNELS), torch.ones(CHANNELS), {"grid": SIDE})
    return made


def anonymous():
    """MB without mapped files, now."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) // 1024


def told(name, run):
    """Run it and say how much memory it took at most."""
    peak_memory(place("cpu"), reset=True)
    run()
    peak = peak_memory(place("cpu")).get("host_mb", "unknown")
    print(f"{name}: peak {peak} MB, {anonymous()} MB of its own after", flush=True)


class Coarse(torch.nn.Module):
    """In place of a segmenter: logits, and features of cells of 16 and 8 px, at no cost."""

    def __init__(self):
        super().__init__()
        self.coarse, self.fine = torch.nn.Conv2d(3, 12 + 24, 16, 16), torch.nn.Conv2d(3, 24, 8, 8)

    def outputs(self, images):
        logits, feature = self.coarse(images).split((12, 24), 1)
        logits = torch.nn.functional.interpolate(logits, images.shape[-2:], mode="bilinear")
        return Outputs(logits, (feature, self.fine(images)))


def roads(folder, count):
    """Some frames of the stand-in at 1280 x 720 px, over and over, as the test split; few as the others."""
    for split, (part, inner, _) in SPLITS.items():
        for i, pair in enumerate(StreetHazards(split=split).pairs[::8][:8]):
            for kind, path, how in zip(("images", "annotations"), pair, ("BICUBIC", "NEAREST"), strict=True):
                target = folder / part / kind / inner / path.parent.name / f"{i}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.open(path).resize((1280, 720), Image.Resampling[how]).save(target, compress_level=1)
    study = RoadStudy(folder, (720, 1280))
    data = study.split("test").data
    for key in ("pairs", "names", "towns"):
        setattr(data, key, (getattr(data, key) * count)[:count])
    return study


def main(count, chosen):
    torch.manual_seed(0)
    if chosen == ["roads"]:
        with tempfile.TemporaryDirectory(dir=features.FOLDER.parent) as folder:
            scores = {name: anomaly.SCORES[name] for name in ("max_logit", "heat, no spatial")}
            judge = AnomalyStudy(roads(Path(folder), count), scores).judge
            return told("roads", lambda: judge(Coarse(), crossed=True))
    net = Dinosaur(CHANNELS).eval()
    with tempfile.TemporaryDirectory(dir=features.FOLDER.parent) as folder:
        train = split(count, folder)
        test = split(min(count, 250), folder, "validation", slice(None, None, 8))
        back = split(min(count, BACK), folder, "train", slice(None, None, 8))
        videos = split(min(count, 8), folder, "validation", slice(None))
        passes = {
            "watch 32 images of training": lambda: experiment.measure(net, train, np.arange(32)),
            "one image of every 24th scene": lambda: experiment.measure(net, train, np.arange(0, train.count, 288)),
            "tried": lambda: experiment.tried(net, back),
            "report": lambda: experiment.report(net, back, test),
            "all stages in memory": lambda: experiment.stages(net, test, 0.3),
            "k-means of tokens": lambda: control_masks("kmeans_tokens", test, 0),
            "videos": lambda: tracking.report(VideoModel(net).eval(), videos, videos),
            "pixels": lambda: comparison.Patches(train, place("cpu")),
        }
        for name in chosen or passes:
            told(name, passes[name])


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 9703, sys.argv[2:])
