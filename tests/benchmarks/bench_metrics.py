"""Metrics

Numbers of competitors are equal, which is checked before anything is timed.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import adjusted_rand_score

from lib.metrics import objects, segmentation
from lib.metrics.anomaly import Pool, aupr, exact_curve

FRAMES = runpy.run_path(str(Path(__file__).with_name("bench_roads.py")))["frames"]
IMAGES = 100  # of them a multiple is a dataset: every image is measured alone


def labels():
    """Ground truth of up to ten discs and a prediction that is nearly it, uint8 [IMAGES, 128, 128]."""
    rng, rows = np.random.default_rng(0), np.indices((128, 128))
    truth = np.zeros((IMAGES, 128, 128), np.uint8)
    for ids in truth:
        for i in range(rng.integers(3, 11)):
            ids[np.square(rows - rng.integers(0, 128, (2, 1, 1))).sum(0) < rng.integers(8, 24) ** 2] = i + 1
    return truth, np.where(rng.random(truth.shape) < 0.05, rng.integers(0, 11, truth.shape), truth).astype(np.uint8)


def fg_ari(truth, predicted):
    """Foreground ARI by scikit-learn, on labels as they come."""
    seen = truth > 0
    return adjusted_rand_score(truth[seen], predicted[seen])


def mbo(truth, predicted):
    """Mean best overlap by masks, pair by pair."""
    best = []
    for i in np.unique(truth[truth > 0]):
        mask = truth == i
        others = [predicted == k for k in np.unique(predicted)]
        best.append(max((mask & other).sum() / (mask | other).sum() for other in others))
    return np.mean(best)


@pytest.mark.parametrize("name", ["FG-ARI", "mBO"])
def test_objects(compare, name):
    """Images of 128 x 128 px with 3 to 10 objects, one after the other. FG-ARI against a loop over scikit-learn's
    adjusted_rand_score (which ours calls, on labels of two bytes); mBO against masks compared pair by pair.
    """
    mine, other = {"FG-ARI": (objects.fg_ari, fg_ari), "mBO": (objects.mbo, mbo)}[name]
    pairs = list(zip(*labels(), strict=True))
    measure = {which: lambda f=f: [f(*pair) for pair in pairs] for which, f in (("a loop", other), ("ours", mine))}
    off = np.abs(np.subtract(*(f() for f in measure.values()))).max()
    assert off < 1e-9
    compare(f"{name} of {IMAGES} images", measure, {"largest difference": off}, rounds=5)


def test_miou(compare):
    """IoU of 13 classes over 40 road labels of 320 x 180 px, summed image by image, void left out: ours against the
    confusion matrix of torchmetrics.
    """
    metrics = pytest.importorskip("torchmetrics.classification")
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 13, (2, 40, 180, 320))
    truth[rng.random(truth.shape) < 0.1] = 255
    tensors = torch.from_numpy(truth), torch.from_numpy(predicted)

    def mine():
        return segmentation.iou(sum(segmentation.confusion(t, p, 13) for t, p in zip(truth, predicted, strict=True)))

    def theirs():
        metric = metrics.MulticlassJaccardIndex(13, average="none", ignore_index=255, validate_args=False)
        for pair in zip(*tensors, strict=True):
            metric.update(pair[1], pair[0])
        return metric.compute().numpy()

    off = np.abs(mine() - theirs()).max()
    assert off < 1e-6
    compare("mIoU", {"torchmetrics": theirs, "ours": mine}, {"largest difference": off}, rounds=5)


def frame_by_masks(truth, predicted, void):
    """Components as the published code of SegmentMeIfYouCan finds them, from its description: for each a mask of the
    whole frame, and membership in a list of components asked of every pixel. sIoU of true ones, PPV of predicted ones.
    """
    mine, other = (ndimage.label(mask & ~void, np.ones((3, 3)))[0] for mask in (truth, predicted))
    siou, ppv = [], []
    for i in np.unique(mine[mine > 0]):
        touching = np.unique(other[(mine == i) & (other > 0)])
        flagged, elsewhere = np.isin(other, touching), ~np.isin(mine, [0, i])
        hits = (flagged & (mine == i)).sum()
        siou.append(hits / (flagged.sum() + (mine == i).sum() - hits - (flagged & elsewhere).sum()))
    for i in np.unique(other[other > 0]):
        touching = np.unique(mine[(other == i) & (mine > 0)])
        ppv.append((np.isin(mine, touching) & (other == i)).sum() / (other == i).sum())
    return np.array(siou), np.array(ppv)


@pytest.mark.parametrize("many", [10, 100])
def test_components(compare, many):
    """sIoU and PPV of connected components in four frames of 640 x 360 px with so many predicted ones on average and a
    third as many true ones: ours against a mask of the whole frame for each component, as the published code of
    SegmentMeIfYouCan has it.
    """
    rng = np.random.default_rng(0)

    def discs(count):
        found, rows = np.zeros((360, 640), bool), np.indices((360, 640))
        for centre in rng.integers(0, (360, 640), (count, 2)):
            found |= np.square(rows - centre[:, None, None]).sum(0) < rng.integers(2, 9) ** 2
        return found

    frames = [(discs(max(many // 3, 1)), discs(many), np.zeros((360, 640), bool)) for _ in range(4)]
    measure = {
        "masks of whole frames": lambda: [frame_by_masks(*frame) for frame in frames],
        "ours": lambda: [segmentation.components(*frame) for frame in frames],
    }
    pairs = zip(*(f() for f in measure.values()), strict=True)
    off = max(np.abs(np.sort(a) - np.sort(b)).max() for pair in pairs for a, b in zip(*pair, strict=True))
    assert off < 1e-9
    compare(f"components, about {many} a frame", measure, {"largest difference": off}, rounds=5)


def stream(pixels):
    pool = Pool()
    for part in pixels:
        pool.add(*part)
    return aupr(pool.curve())


def whole(pixels):
    return aupr(exact_curve(*(np.concatenate(part) for part in zip(*pixels, strict=True))))


def test_streaming(compare, growth):
    """AUPR by pixels that come a frame (0.9 million) at a time: the time of counting them in bins, and the memory that
    it takes beside the pixels themselves, against sorting all of them. The real test split has 1.38 x 10^9 pixels.
    """
    sizes = (10**6, 10**7, 10**8)
    made = {size: list(FRAMES(size)) for size in sizes}
    binned, sorted_ = ([growth(lambda n=n, f=f: f(made[n])) for n in sizes[:2]] for f in (stream, whole))
    facts = {
        "AUPR of 10^7 pixels, error of counting": abs(stream(made[10**7]) - whole(made[10**7])),
        "memory at 10^7 pixels / at 10^6, counted": binned[1] / max(binned[0], 1),
        "memory at 10^7 pixels / at 10^6, sorted": sorted_[1] / max(sorted_[0], 1),
        "memory at 10^7 pixels, sorted / counted": sorted_[1] / max(binned[1], 1),
    }
    assert facts["AUPR of 10^7 pixels, error of counting"] < 1e-4
    functions = {f"{size:.0e}": lambda size=size: stream(made[size]) for size in sizes}
    compare("streaming AUPR", functions, facts, sizes, rounds=3, unit="pixels")
