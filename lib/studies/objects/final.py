"""The trials of ex_dino3 and ex_dino4, for `sweeps.run`: configuration and seed in, measures on the test split out."""

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from lib import ROOT
from lib.features import Split, split
from lib.masks import guided
from lib.metrics import controls
from lib.models import video
from lib.models.dinosaur import ORIGINAL
from lib.models.video import VideoModel
from lib.studies.objects import experiment, tracking
from lib.training import Recipe, Run

#: Backbone, strides and side of the picture in pixels of configurations that are not grouped on the setting's tokens.
SOURCES = {"pixels": ("pixels", (4,), 128), "random_vits14": ("random_vits14", None, 224)}
#: Those with coarse=1.0 are trained on 16 x 16 tokens: the one's own grid, and that of the original study, whose
#: convolutional decoder does not carry over to another, so it is measured there too.
RULES = {
    "original": experiment.Rules(model=ORIGINAL, area=0.0, diversity=0.01, coarse=1.0, sample=0),
    "random_vits14": experiment.Rules(coarse=1.0),
}
#: Thresholds of `merge` for whole videos; one is chosen on validation videos.
VIDEO_THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6)

THEIRS = ORIGINAL | {"num_slots": 3}
FOLLOWING_THEIRS = tracking.Rules(model=THEIRS, video=video.ORIGINAL, area=0.0, diversity=0.01, sample=0)
#: The ways of following that ex_dino3 compares. `carry` is not trained: slots are passed on as they are.
VARIANTS = {
    "carry": tracking.Rules(video={"predictor": "none"}),
    "carry_trained": tracking.Rules(video={"predictor": "none"}),
    "baseline": tracking.Rules(),
    "stop_gradient": tracking.Rules(video={"stop_gradient": True}),
    "output_norm": tracking.Rules(video={"output_norm": True}),
    "refresh": tracking.Rules(video={"refresh": 8}),
    "contrast": tracking.Rules(contrast=0.5),
    "original_clips": FOLLOWING_THEIRS,  # from nothing, on clips alone
    "original": FOLLOWING_THEIRS,
    "original_position": replace(FOLLOWING_THEIRS, model=THEIRS | {"position": True}),
}


@dataclass(frozen=True)
class Trials:
    """What all trials share.

    Args:
        backbone, strides, image_px, root: see `scenes.split`.
        every: every so many frames of a held-out video is an image to measure; training takes every second frame.
        batch: images a step.
        precision, device: see `training`.
        held_out: the split that tables report. Real MOVi-A has no "test"; with "validation" the thresholds of
            `merge` are chosen on training scenes.
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
        return "train", "validation" if self.held_out == "test" else "train", self.held_out

    def data(self, config: str = "ours", **_: Any) -> str:
        """What a row of a sweep depends on beside its parameters: data and frames, tokens, batch and precision."""
        return described(self, config if config in SOURCES else "ours")

    def scenes(self, config: str, name: str, grid: int = 32, every: int | None = None) -> Split:
        """A split with the tokens of a configuration."""
        backbone, strides, size = SOURCES.get(config, (self.backbone, self.strides, self.image_px))
        step = every or (2 if name == "train" else self.every)
        frames = slice(None, None, step)
        return split(name, grid, backbone=backbone, strides=strides, size=size, frames=frames, root=self.root)

    def model(self, config: str, seed: int, steps: int) -> Run:
        """Load or train `ours` or one of its controls; `original` keeps the original's learning rate and warm-up."""
        lr, warmup = (1e-3, steps // 40) if config == "original" else (4e-4, steps // 8)
        recipe = Recipe(steps, self.batch, lr, warmup, precision=self.precision, seed=seed)
        rules = RULES.get(config, experiment.Rules())
        name = f"ex_dino4-{config}-{seed}"
        return experiment.train(name, self.scenes(config, "train"), rules, recipe, device=self.device)

    def trained(self, config: str, seed: int, steps: int) -> dict:
        """A trained model on the test images: raw, merged and refined; of the original also its attention, raw."""
        run = self.model(config, seed, steps)
        grid = 16 if config == "original" else 32
        validation, test = (self.scenes(config, n, grid) for n in self.splits[1:])
        kind = "decoder" if config == "original" else "attention"
        found = experiment.report(run.model, validation, test, kind) | {"seconds": run.header["seconds"]}
        if config == "original":
            found["attention"] = experiment.report(run.model, validation, test)["raw"]
        return found

    def untrained(self, control: str, seed: int) -> dict:
        """A control of `control_masks`, raw, and drawn to the picture's edges."""
        test = self.scenes("ours", self.held_out)
        pictures, truth = test.images()
        masks = control_masks(control, test, seed)
        refined = guided(masks, pictures)
        return {"raw": experiment.scores(masks, truth), "refined": experiment.scores(refined, truth)}

    def small(self, sweep: str, slots: int, grid: int, seed: int, steps: int) -> dict:
        """A short training with other slots or tokens; beyond 16 a side, three quarters of it on half the grid.

        `sweep` says what is varied, "slots" or "tokens"; a configuration that is in both is trained once.
        """
        train, validation, test = (self.scenes("ours", n, grid) for n in self.splits)
        rules = experiment.Rules(model={"num_slots": slots}, coarse=0.75 if grid > 16 else 0.0)
        recipe = Recipe(steps, self.batch, 4e-4, 100, precision=self.precision, seed=seed)
        _peak_mb(reset=True)
        run = experiment.train(f"ex_dino4-k{slots}-{grid}-{seed}", train, rules, recipe, device=self.device)
        peak = _peak_mb()
        return experiment.report(run.model, validation, test) | {"seconds": run.header["seconds"], "peak_mb": peak}

    def video(self, seed: int, steps: int, image_steps: int) -> VideoModel:
        """`ours` trained on, on clips of six frames at 16 x 16 tokens, to follow its slots; nothing predicts them."""
        recipe = Recipe(steps, 3, 2e-4, 20, precision=self.precision, seed=seed)
        rules = tracking.Rules(video={"predictor": "none"}, clip=6)
        start, clips = self.model("ours", seed, image_steps), self.scenes("ours", "train", 16, every=1)
        run = tracking.train(f"ex_dino4-video-{seed}", clips, rules, recipe, start=start, device=self.device)
        return VideoModel(run.model.image_model, predictor="none", iterations=(3, 3)).eval()

    def clip_model(self, variant: str, seed: int, steps: int, clips: int, image_steps: int) -> VideoModel:
        """A variant of ex_dino3 on 16 x 16 tokens: an image model (that of ex_dino1), trained on as `VARIANTS` says."""
        recipe = Recipe(image_steps, self.batch, 4e-4, image_steps // 5, precision=self.precision, seed=seed)
        images, rules, name = self.scenes("ours", "train"), experiment.Rules(coarse=1.0), f"ex_dino1-frames-{seed}"
        if variant.startswith("original"):
            rules = experiment.Rules(VARIANTS[variant].model, area=0.0, diversity=0.01, coarse=1.0, sample=0)
            name = f"ex_dino3-{variant}_images-{seed}"
        start = None
        if variant != "original_clips":
            start = experiment.train(name, images, rules, recipe, device=self.device)
        if variant == "carry":
            return VideoModel(start.model, **VARIANTS[variant].video).eval()
        recipe = Recipe(steps, clips, 4e-4, 50, precision=self.precision, seed=seed)
        train = self.scenes("ours", "train", 16, every=1)
        name = f"ex_dino3-{variant}-{seed}"
        return tracking.train(name, train, VARIANTS[variant], recipe, start=start, device=self.device).model

    def clip(self, variant: str, seed: int, steps: int, clips: int, image_steps: int) -> dict:
        """That model on every second test video, raw masks, and the same in each frame under "frames"."""
        test = self.scenes("ours", self.held_out, 16, every=1)
        some = np.arange(0, len(test.truth), 2)
        model = self.clip_model(variant, seed, steps, clips, image_steps)
        found = tracking.follow(model, test, some, kind="decoder" if variant.startswith("original") else "attention")
        means, frames = tracking.measure(found, test, some)
        return means | {"frames": frames}

    def followed(self, seed: int, steps: int, image_steps: int) -> dict:
        """The video model on whole test videos at 32 x 32 tokens: raw, merged and refined.

        The threshold is chosen on a quarter of the validation videos.
        """
        model = self.video(seed, steps, image_steps)
        validation, videos = (self.scenes("ours", n, every=1) for n in self.splits[1:])
        few, every = np.arange(0, len(validation.truth), 4), np.arange(len(videos.truth))
        seen = tracking.follow(model, validation, few)
        tried = {t: tracking.measure(seen, validation, few, threshold=t)[0] for t in VIDEO_THRESHOLDS}
        threshold = max(tried, key=lambda t: tried[t]["video_fg_ari"] + tried[t]["video_mbo"])
        stages = {"raw": {}, "merged": {"threshold": threshold}, "refined": {"threshold": threshold, "guided": True}}
        seen = tracking.follow(model, videos, every)
        found = {stage: tracking.measure(seen, videos, every, **how) for stage, how in stages.items()}
        return {s: m[0] for s, m in found.items()} | {"frames": found["raw"][1], "threshold": threshold}


@lru_cache
def described(trials: Trials, config: str) -> str:
    """See `Trials.data`."""
    splits = [trials.scenes(config, n) for n in trials.splits]
    about = {k: v for k, v in splits[0].about.items() if k != "grid"}  # trials take more than one
    prints = "-".join(s.fingerprint for s in splits)
    return f"{prints} {json.dumps(about)}, batch {trials.batch}, {trials.precision}"


def control_masks(name: str, split: Split, seed: int) -> Tensor:
    """Masks `[n, K, h, w]` that know nothing of objects, or, as `oracle_grid`, the truth itself on the token grid.

    `blocks` are 4 x 4; `kmeans_rgb` has nine clusters of colours, `kmeans_tokens` of standardised tokens.
    """
    pictures, truth = split.images()
    if name == "blocks":
        return controls.blocks(len(truth), truth.shape[-1], 4)
    if name == "kmeans_rgb":
        return controls.kmeans_rgb(pictures, 9, seed)
    if name == "kmeans_tokens":
        tokens = (split.features.batch(slice(None)) - split.features.mean) / split.features.std
        return controls.kmeans_rgb(tokens.mT.unflatten(2, split.features.grid), 9, seed)
    if name == "oracle_grid":
        return adaptive_avg_pool2d(one_hot(truth).movedim(-1, 1).float(), split.features.grid)
    raise ValueError(f"control is {name!r}; choose blocks, kmeans_rgb, kmeans_tokens or oracle_grid")


def _peak_mb(reset: bool = False) -> float:
    """Peak resident memory of this process since the last reset, mapped token files included; NaN but on Linux."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except OSError:
        return float("nan")
