"""Your own street in one call: how little each pixel looks like what a segmenter was trained on.

`lib.anomaly_of` is the function here. Introduced in notebooks/streethazards.ipynb.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim.swa_utils import update_bn
from torchvision import tv_tensors
from tqdm.auto import tqdm

from lib import ROOT, anomaly, checkpoints, provenance
from lib.apply import zoo
from lib.data.augment import Resize
from lib.data.streethazards import CLASSES, StreetHazards
from lib.models.segmenters import Outputs, Segmenter
from lib.models.weights import WeightsError
from lib.training import Run

IMAGENET = ", ImageNet"  # ends the names of scores of features that no street has touched
SCORES = {name: score for name, score in anomaly.SCORES.items() if name != anomaly.PLACES[1]}  # which knows test labels
SCORES |= {f"{name}{IMAGENET}": score for name, score in anomaly.DISTANCES.items()}
BEST = f"mahalanobis + knn{IMAGENET}"  # of the tables of notebooks/streethazards.ipynb


def anomaly_of(
    source: Any, model: str | Path | Run = "streethazards", *, score: str = BEST, device: str = "auto"
) -> np.ndarray:
    """How little each pixel of a street looks like what was learned: float32 `[H, W]`, of a video `[T, H, W]`.

    Introduced in notebooks/streethazards.ipynb. Higher is more anomalous; a score has no unit, and its threshold is
    chosen on images without anomalies. Scores called "..., ImageNet" are of features of the same network before it
    learned from streets; for all others the model gets batch statistics of whole frames. What scores know of training
    frames is measured by the first call (half a minute) and kept in cache/anomaly.

    Args:
        source: see `masks_of`. It is brought to as many pixels as the frames that the model is judged at.
        model: a name or path for `lib.load`, or what it returned.
        score: one of `SCORES`: those of `lib.anomaly`, and its `DISTANCES` with ", ImageNet" behind.
        device: see `training.place`.

    Raises:
        zoo.Wrong: the source cannot be used, there is no such model or score, the training frames are not those of the
            checkpoint, or ImageNet weights of its network are not to be had.
    """
    if score not in SCORES:
        raise zoo.Wrong(f"there is no score {score!r}; choose one of {', '.join(SCORES)}")
    images, video = zoo.pictures(source)
    run, name = zoo.run_of(model, device, False)
    if not zoo.is_of_streets(run):
        raise zoo.Wrong(f"{name} names no classes of a street; take streethazards")
    run = seen_by(run, score)
    known, size, found = statistics(run), tuple(images.shape[-2:]), []
    for image in images:
        outputs, _ = outputs_of(run, image, judged_at(run, size))
        values = SCORES[score](*outputs, known).float()
        found.append(interpolate(values[None], size, mode="bilinear", align_corners=False)[0, 0].cpu())
    scores = torch.stack(found).numpy()
    return scores if video else scores[0]


def judged_at(run: Run, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that a street is brought to: its own shape, as many pixels as the training frames have."""
    height, width = run.header["config"]["size"]
    scale = (height * width / (size[0] * size[1])) ** 0.5
    return tuple(max(round(side * scale), 32) for side in size)


@torch.no_grad()
def outputs_of(run: Run, image: Tensor, size: tuple[int, int]) -> tuple[Outputs, Tensor]:
    """What a segmenter says of an image `[3, H, W]` in 0..1 that is brought to `size`, and that image."""
    pixels = Resize(size)(tv_tensors.Image((image * 255).round().byte())).as_subclass(Tensor).float() / 255
    return run.model.outputs(pixels[None].to(zoo.device_of(run.model))), pixels


_UNTOUCHED: WeakKeyDictionary[nn.Module, Run] = WeakKeyDictionary()
_PRECISE: WeakKeyDictionary[nn.Module, Run] = WeakKeyDictionary()
_MADE: WeakSet[nn.Module] = WeakSet()  # the models in it
_STATISTICS: WeakKeyDictionary[nn.Module, anomaly.Statistics] = WeakKeyDictionary()
STREETS = ROOT / "data" / "streethazards"
FUSED = anomaly.levelled(SCORES.values())  # what needs a level for some score


def seen_by(run: Run, score: str, root: Path = STREETS) -> Run:
    """A run whose model gives the outputs that a score of `SCORES` takes: `untouched` or `precise`."""
    return untouched(run) if score.endswith(IMAGENET) else precise(run, root)


def untouched(run: Run) -> Run:
    """A run whose model is the same network with its ImageNet weights, as before any training on streets.

    Its decoder is random, so its logits say nothing. Raises Wrong where the weights are not to be had.
    """
    if run.model not in _UNTOUCHED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                made = Segmenter(run.model.name, run.model.classes, True).to(zoo.device_of(run.model))
            except WeightsError as error:
                raise zoo.Wrong(f"{error}; or take a score of what was learned, such as 'heat, no spatial'") from error
        _UNTOUCHED[run.model] = replace(run, model=made.eval())
    return _UNTOUCHED[run.model]


def offered(run: Run, names: Sequence[str]) -> list[str]:
    """The names of scores that a network has: all, or, without its ImageNet weights, those of what it learned."""
    try:
        untouched(run)
    except zoo.Wrong:
        return [name for name in names if not name.endswith(IMAGENET)]
    return list(names)


def precise(run: Run, root: Path = STREETS) -> Run:
    """A run whose model has the batch statistics of whole training frames, at the size that they are judged at.

    Precise BN (Wu and Johnson 2021, arXiv:2105.07576), as of the tables. Kept in cache/anomaly; Wrong as `statistics`.
    """
    if run.model in _MADE:
        return run
    if run.model not in _PRECISE:
        train, resize = StreetHazards(root, "train"), Resize(run.header["config"]["size"])
        batch, picks = run.header["config"]["recipe"]["batch"], range(0, len(train), max(len(train) // 16, 1))
        shares = [len(share) for share in np.array_split(picks, max(len(picks) // batch, 1))]
        path, made = _cached(run, root, f"precise, every {picks.step}", str(shares)), deepcopy(run.model)
        where = zoo.device_of(made)
        if path.exists():
            made.load_state_dict(checkpoints.load(path, str(where))[0], strict=False)
        else:
            images = (resize(tv_tensors.Image((train[i][0] * 255).round().byte())) for i in picks)
            with torch.random.fork_rng(devices=[]):  # dropout draws
                torch.manual_seed(0)
                update_bn((torch.stack([*islice(images, n)]).float() / 255 for n in shares), made, where)
            kept = (".running_mean", ".running_var", ".num_batches_tracked")
            checkpoints.save(path, {k: v for k, v in made.state_dict().items() if k.endswith(kept)}, {})
        _MADE.add(made)
        _PRECISE[run.model] = replace(run, model=made.eval())
    return _PRECISE[run.model]


def statistics(run: Run, root: Path = STREETS) -> anomaly.Statistics:
    """What `anomaly.fit` learns from every second training frame, and `levels` from validation; kept in cache/anomaly.

    Raises:
        zoo.Wrong: the training frames in `root` are not those that the model has learned from.
    """
    if run.model not in _STATISTICS:
        held_out = StreetHazards(root, "validation").fingerprint
        path = _cached(run, root, held_out, *FUSED, provenance.code(anomaly.fit))
        if not path.exists():
            train, validation = (StreetHazards(root, split) for split in ("train", "validation"))
            known = anomaly.fit(_outputs(run, train, 2), [CLASSES.index(name) for name in ("car", "pedestrian")])
            _keep(path, anomaly.levels(_outputs(run, validation, 1), known, FUSED))
        _STATISTICS[run.model] = _kept(path, zoo.device_of(run.model))
    return _STATISTICS[run.model]


def _cached(run: Run, root: Path, *others: str) -> Path:
    """Where what is measured of a model on its training frames is kept; Wrong as of `statistics`."""
    train = StreetHazards(root, "train").fingerprint
    if train != run.header["data"]:
        raise zoo.Wrong(f"{root} holds {train}, the model learned from {run.header['data']}; restore those")
    weights, size = checkpoints.digest(run.model.state_dict()), list(run.header["config"]["size"])
    key = provenance.short([weights, size, train, *others])
    return ROOT / "cache" / "anomaly" / f"{key}.safetensors"


@torch.no_grad()
def _outputs(run: Run, data: StreetHazards, every: int) -> Iterator[tuple[Tensor, tuple[Tensor, ...], Tensor]]:
    resize = Resize(run.header["config"]["size"])
    for i in tqdm(range(0, len(data), every), desc=f"statistics of {data.split} streets", unit="frame", leave=False):
        image, label = data[i]
        x, y = resize(tv_tensors.Image((image * 255).round().byte()), tv_tensors.Mask(label.byte()))
        logits, cells = run.model.outputs(x.as_subclass(Tensor)[None].to(zoo.device_of(run.model)).float() / 255)
        yield logits, cells, y.as_subclass(Tensor)[None].long()


def _keep(path: Path, known: anomaly.Statistics) -> None:
    whole = vars(known)
    tensors = {key: value for key, value in whole.items() if isinstance(value, Tensor)}
    for name, model in known.features.items():
        tensors |= {f"features.{name}.{part}": value for part, value in model._asdict().items()}
    plain = {key: whole[key] for key in ("middle", "spread", "virtual", "levels")}
    checkpoints.save(path, tensors, plain)


def _kept(path: Path, device: torch.device) -> anomaly.Statistics:
    tensors, plain = checkpoints.load(path, str(device))
    models: dict[str, dict[str, Tensor]] = {}
    for key in [key for key in tensors if key.startswith("features.")]:
        _, name, part = key.split(".")
        models.setdefault(name, {})[part] = tensors.pop(key)
    found = {name: anomaly.Gaussian(**parts) for name, parts in models.items()}
    levels = {name: tuple(pair) for name, pair in plain["levels"].items()}
    plain = {key: plain[key] for key in ("middle", "spread", "virtual")}
    return anomaly.Statistics(**tensors, **plain, features=found, levels=levels)
