"""What the trainings of ex_dino1 to ex_dino4 share: their data, and what they are held against."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from lib import ROOT
from lib.data.movi import MoviDataset
from lib.features import Split
from lib.metrics import controls
from lib.models import backbones
from lib.models.backbones import Backbone
from lib.models.token_decoders import positions_of
from lib.models.video import VideoModel
from lib.studies.objects import experiment, tracking
from lib.training import Recipe, Run, place

#: Where no split is left to choose thresholds on: so many last scenes of training, which are not trained on then.
HELD_BACK, BACK = "train, held back", 64


@dataclass(frozen=True)
class ObjectStudy:
    """What all trainings of a notebook share, and how one is made; models are loaded where they are trained.

    Args:
        backbone, strides: see `backbones.load`; image_px: side that frames are resized to; root: of MOVi-A.
        every: every so many frames of a held-out video is an image to measure; training takes every second frame.
        batch: images a step.
        precision, device: see `training`.
        held_out: the split that tables report. Real MOVi-A has no "test"; with "validation" the thresholds of
            `merge` are chosen on `BACK` training scenes that are held back, or a quarter of few.
    """

    backbone: str = "efficientnet_lite0"
    strides: tuple[int, ...] = (2, 4)
    image_px: int = 256
    root: Path = ROOT / "data" / "movi_a"
    every: int = 8
    batch: int = 16
    precision: str = "bf16-mixed"
    device: str = "auto"
    held_out: str = "test"

    @property
    def splits(self) -> tuple[str, str, str]:
        """Where models are trained, thresholds chosen, and tables measured."""
        return "train", "validation" if self.held_out == "test" else HELD_BACK, self.held_out

    def data(self, **_: Any) -> str:
        """What a row of a sweep depends on beside its parameters: data and frames, tokens, batch and precision."""
        return described(self)

    def movi(
        self, name: str, every: int | None = None, fields: Iterable[str] = ("video", "segmentations")
    ) -> MoviDataset:
        """A split of `splits`, of every so many frames."""
        frames = slice(None, None, every or (2 if name == "train" else self.every))
        dataset = MoviDataset(self.root, name.removesuffix(", held back"), fields, frames)
        if dataset.split != "train" or self.held_out == "test":
            return dataset
        back = min(BACK, len(dataset) // 4)  # of fewer than four scenes none can be spared
        return dataset.only(slice(len(dataset) - back) if name == "train" else slice(-back, None))

    def network(self) -> Backbone:
        """The backbone, on the device."""
        return backbones.load(self.backbone, strides=self.strides).to(place(self.device))

    def scenes(self, name: str, grid: int = 32, every: int | None = None) -> Split:
        """A split of `splits` with its tokens on `grid` x `grid`, of every so many frames."""
        return Split(self.movi(name, every), self.network(), self.image_px, grid)

    def image_model(
        self,
        name: str,
        config: experiment.ImageConfig,
        seed: int,
        steps: int,
        *,
        warmup: int,
        lr: float = 4e-4,
        data: Split | None = None,
        watch_every: int = 0,
    ) -> Run:
        """Load or train an image model on `data`, the training images if None; see `experiment.train`.

        Every `watch_every` steps it is measured on held-out images that no table reports; 0 is never.
        """
        recipe = Recipe(steps, self.batch, lr, warmup, precision=self.precision, seed=seed)
        seen = {"held_out": self.scenes(self.splits[1]), "watch_every": watch_every} if watch_every else {}
        return experiment.train(name, data or self.scenes("train"), config, recipe, device=self.device, **seen)

    def video_model(
        self,
        name: str,
        config: tracking.ClipConfig,
        seed: int,
        steps: int,
        *,
        clips: int,
        warmup: int,
        lr: float,
        start: Run | None,
    ) -> VideoModel:
        """Load or train a video model, `clips` a step, on all frames at 16 x 16 tokens; see `tracking.train`."""
        recipe = Recipe(steps, clips, lr, warmup, precision=self.precision, seed=seed)
        data = self.scenes("train", 16, every=1)
        return tracking.train(name, data, config, recipe, start=start, device=self.device).model


@lru_cache
def described(study: ObjectStudy) -> str:
    """See `ObjectStudy.data`."""
    splits = [study.scenes(n) for n in study.splits]
    about = {k: v for k, v in splits[0].about.items() if k != "grid"}  # a study takes more than one
    prints = "-".join(s.fingerprint for s in splits)
    return f"{prints} {json.dumps(about)}, batch {study.batch}, {study.precision}"


def control_masks(
    name: str,
    split: Split,
    seed: int,
    *,
    side: int = 4,
    clusters: int = 9,
    place: float = 0.0,
    grid: int | None = None,
) -> Tensor:
    """Masks `[n, K, h, w]` that know nothing of objects, or, as `oracle_grid`, the ground truth on the token grid.

    Args:
        name: "blocks", `side` x `side`; "kmeans_rgb", clusters of colours; "kmeans_tokens", of standardised tokens; or
            "oracle_grid".
        place: weight of column and row, in -1..1, beside the standardised tokens of "kmeans_tokens", each of which
            counts by one over the root of their number.
        grid: side of the images that are divided; None: as they are.

    Raises:
        ValueError: another name.
    """
    ids = 1 + max(int(split.scene(s).masks.max()) for s in range(split.shape[0])) if name == "oracle_grid" else 0

    def masks(part: np.ndarray) -> Tensor:
        if name == "blocks":
            return controls.blocks(len(part), grid or split.shape[-1], side)
        if name == "kmeans_rgb":
            images = split.pictures(part)
            return controls.kmeans_rgb(adaptive_avg_pool2d(images, grid) if grid else images, clusters, seed)
        if name == "kmeans_tokens":
            tokens = (split.features.batch(part) - split.features.mean) / split.features.std
            if place:
                where = place * positions_of(split.features.grid, tokens.device).expand(len(tokens), -1, -1)
                tokens = torch.cat([tokens / tokens.shape[-1] ** 0.5, where], dim=-1)
            return controls.kmeans_rgb(tokens.mT.unflatten(2, split.features.grid), clusters, seed)
        if name == "oracle_grid":
            return adaptive_avg_pool2d(one_hot(split.ids(part), ids).movedim(-1, 1).float(), split.features.grid)
        raise ValueError(f"control is {name!r}; choose blocks, kmeans_rgb, kmeans_tokens or oracle_grid")

    return torch.cat([masks(part) for part in np.array_split(np.arange(split.count), -(-split.count // 16))])


@lru_cache
def tuned_kmeans(study: ObjectStudy) -> dict[str, float]:
    """`clusters` and `place` of `control_masks` "kmeans_tokens" with the largest FG-ARI + mBO on held-out images."""
    split, found = study.scenes(study.splits[1]), {}
    for clusters, weight in product((7, 9, 11, 13), (0.0, 0.5, 1.0, 2.0, 4.0)):
        masks = control_masks("kmeans_tokens", split, 0, clusters=clusters, place=weight)
        row = experiment.scores(masks, split.ids())
        found[clusters, weight] = row["fg_ari"] + row["mbo"]
    return dict(zip(("clusters", "place"), max(found, key=found.get), strict=True))
