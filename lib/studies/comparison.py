"""Pixels against features under the same conditions: the same images and transforms, slots, steps or core seconds.

Introduced in notebooks/ex_comparison.ipynb.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import interpolate, normalize, pixel_unshuffle
from torchvision.transforms.v2 import functional as F

from lib import ROOT, parallel, plots
from lib.data.movi import MoviDataset, Scene
from lib.features import Features, Split
from lib.metrics import objects
from lib.models import backbones
from lib.models.dinosaur import Dinosaur, on_image
from lib.models.pixel_autoencoder import PATCH, SIZE, Convolutions, Painter
from lib.studies.objects import experiment
from lib.studies.objects.final import control_masks
from lib.studies.pixels import jitter, linear_temperature
from lib.training import Fitted, Recipe, Run, State, indices, load_or_train, place, settled

#: What is done to an image, uint8 `[3, H, W]`; "jitter" is the original's, and draws.
TRANSFORMS = {
    "identity": lambda x: x,
    "jitter": lambda x: jitter(1.0)(x),
    "flip": lambda x: x.flip(-1),
    "contrast": lambda x: F.adjust_contrast(F.adjust_brightness(x, 0.6), 1.5),
}
SLOTS, GRID = 5, SIZE // PATCH  # of the controls and of every model; tokens a side
WARM = 2  # steps before a step is timed
SHOWN = 0  # the held-out scene whose masks are kept in every row
#: Of the measures that are not a share.
UNITS = {"boundary_sharpness": " (1/px of 224)", "boundary_contrast": " (ratio)"}


@dataclass(frozen=True)
class Config:
    """One of the models to compare.

    Args:
        channels: of the `Convolutions` that read pixels; 0: frozen tokens are read, and reconstructed.
        rules: of the training; its `coarse` is not used here.
        kind: whose masks count, Slot Attention's ("attention") or the "decoder"'s.
        lr: Adam's peak learning rate.
        cooled: lower the temperature of attention and decoder masks from 1.0 to 0.01 in training, as the original did.
    """

    channels: int
    rules: experiment.ImageConfig
    kind: str = "attention"
    lr: float = 1e-3
    cooled: bool = False


class Varied(MoviDataset):
    """A split of MOVi-A that shows every frame in V versions of `TRANSFORMS`, side by side: T frames become T x V."""

    def __init__(self, root: Path, split: str, frames: slice, kinds: tuple[str, ...]):
        super().__init__(root, split, fields=("video", "segmentations"), frames=frames)
        self.kinds, self.fingerprint = kinds, f"{self.fingerprint} {' '.join(kinds)}"

    def __getitem__(self, i: int) -> Scene:
        scene = super().__getitem__(i)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(i)
            images = torch.from_numpy(scene.video).permute(0, 3, 1, 2)
            video = torch.stack([TRANSFORMS[k](image) for image in images for k in self.kinds])
        masks = np.stack([m[:, ::-1] if k == "flip" else m for m in scene.masks for k in self.kinds])
        return replace(scene, video=video.permute(0, 2, 3, 1).numpy(), masks=masks)


class Patches:
    """Images where a model expects tokens: `batch` gives `[B, N, 192]`, the colours of the 8 x 8 px of each patch.

    Raises:
        ValueError: the images are not square.
    """

    def __init__(self, data: Split, device: torch.device):
        scenes, _, height, width = data.shape
        if height != width:
            raise ValueError(f"frames of {height} x {width} px; crop or pad them to squares")
        self._data, self._device, count = data, device, data.count * height * width
        each = (torch.from_numpy(data.scene(s).video).flatten(0, 2).double() / 255 for s in range(scenes))
        total, squares = torch.stack([torch.stack([c.sum(0), c.square().sum(0)]) for c in each]).sum(0)
        std = ((squares - total.square() / count) / (count - 1)).sqrt()
        self.mean, self.std = (v.float().repeat_interleave(PATCH**2) for v in (total / count, std))

    def batch(self, index: Tensor | np.ndarray) -> Tensor:
        images = interpolate(self._data.frames(index), (SIZE, SIZE), mode="bicubic").to(self._device)
        return pixel_unshuffle(images / 255, PATCH).flatten(2).transpose(1, 2)


def build(config: Config, dim: int) -> Dinosaur:
    """An untrained model, at its last temperature; `dim` is that of frozen tokens."""
    arguments = config.rules.model
    if not config.channels:
        return Dinosaur(dim, **arguments)
    model = Dinosaur(3 * PATCH**2, **(arguments | {"decoder": "mlp"}))
    model.projection = Convolutions(config.channels, model.slot_dim, arguments.get("glorot", True))
    if arguments.get("decoder") == "conv":
        model.decoder = Painter(model.slot_dim, config.channels)
    if config.cooled:
        model.attention_temperature = model.mask_temperature = linear_temperature(1, 1)
    return model


@dataclass(frozen=True)
class ComparisonStudy:
    """What all trainings of ex_comparison share, and what is measured of them, for `sweeps.rows`.

    Args:
        backbone, strides: see `backbones.load`; root: of MOVi-A. Images are brought to 224 px, tokens to 28 x 28.
        train_every: every so many frames of a training video is trained on, as it is and with its colours jittered.
        batch, precision, device: see `training`.
        held_out: the split that is measured: frame 0 of every scene, in all `TRANSFORMS`.
    """

    backbone: str = "efficientnet_lite0"
    strides: tuple[int, ...] | None = (2, 4)
    root: Path = ROOT / "data" / "movi_a"
    train_every: int = 4
    batch: int = 8
    precision: str = "bf16-mixed"
    device: str = "auto"
    held_out: str = "test"

    @cached_property
    def train(self) -> Split:
        varied = Varied(self.root, "train", slice(None, None, self.train_every), ("identity", "jitter"))
        return Split(varied, self._network, SIZE, GRID)

    @cached_property
    def test(self) -> Split:
        """Scene s in version v has the number s x V + v."""
        varied = Varied(self.root, self.held_out, slice(0, 1), tuple(TRANSFORMS))
        return Split(varied, self._network, SIZE, GRID)

    @cached_property
    def _network(self) -> backbones.Backbone:
        return backbones.load(self.backbone, strides=self.strides).to(place(self.device))

    @property
    def data(self) -> str:
        """What rows of a sweep depend on beside their parameters."""
        tokens = json.dumps(self.train.about)
        return f"{self.train.fingerprint}, {self.test.fingerprint}, {tokens}, batch {self.batch}, {self.precision}"

    @cached_property
    def _patches(self) -> tuple[Patches, Patches]:
        return tuple(Patches(split, place(self.device)) for split in (self.train, self.test))

    def seen(self, config: Config) -> tuple[Features, Features] | tuple[Patches, Patches]:
        """What a configuration reads, of training and of held-out images."""
        return self._patches if config.channels else (self.train.features, self.test.features)

    def run(self, name: str, config: Config, seed: int, steps: int) -> Run:
        """Load or train one model; with 0 steps, the untrained one."""
        recipe = Recipe(steps, self.batch, config.lr, steps // 5, precision=self.precision, seed=seed)
        untrained, train = partial(build, config, self.train.dim), partial(self._fit, config, recipe)
        if not steps:
            torch.manual_seed(seed)
            train(model := untrained())
            return Run(model.eval(), {}, {})
        about = {"model": asdict(config), "tokens": self.train.about, "images": self.train.count}
        name = f"ex_comparison-{name}-{steps}-{seed}"
        return load_or_train(name, untrained, train, recipe, about, self.train.fingerprint, self.device)

    def _fit(
        self,
        config: Config,
        recipe: Recipe,
        model: Dinosaur,
        state: State | None = None,
        begin: Callable[[int], None] = lambda step: None,
    ) -> Fitted:
        data = self.seen(config)[0]

        def batch(step: int) -> Tensor:
            begin(step)
            if config.cooled:
                model.attention_temperature = model.mask_temperature = linear_temperature(step, recipe.steps)
            return data.batch(parallel.shared(indices(recipe, step, self.train.count)))

        return experiment.fitted(
            model, state, batch, data, config.rules, recipe, device=self.device, label="ex_comparison"
        )

    def costs(self, configs: dict[str, Config], steps: int, device: str) -> dict[str, float]:
        """What a training step costs on a `device`, in units of the cheapest: core seconds, or seconds of a GPU.

        The least of three times that so many steps take, each after `WARM` steps that are not counted.
        """
        where, seconds = place(device), {}
        now = partial(settled, where, time.process_time if where.type == "cpu" else time.perf_counter)
        for name, config in configs.items():
            times = []
            for _ in range(3):
                begun, recipe = {}, Recipe(WARM + steps, self.batch, precision=self.precision)
                model = build(config, self.train.dim)
                self._fit(config, recipe, model, begin=lambda step, begun=begun: begun.setdefault(step, now()))
                times.append(now() - begun[WARM])
            seconds[name] = min(times)
        if min(seconds.values()) <= 0:
            raise RuntimeError(f"{steps} steps took {seconds} s, too short to be measured; raise cost_steps")
        return {name: round(value / min(seconds.values()), 2) for name, value in seconds.items()}

    def measure(self, name: str, config: Config, seed: int, steps: int) -> dict:
        """A model on the held-out images, see `score`; each version with noise of its own, and all with the same.

        `loss_fall` is the share by which the loss of the last quarter of the training lies below that of the third, NaN
        where the training left no history.
        """
        run = self.run(name, config, seed, steps)
        model, losses = run.model, np.array([r["loss"] for r in run.header.get("history", [])])
        third, last = (losses[int(len(losses) * q) : int(len(losses) * (q + 0.25))] for q in (0.5, 0.75))
        masks, slots = self.masks(config, model)
        shared = {f"{k}_shared": v for k, v in stability(self.masks(config, model, shared=True)[0]).items()}
        kept = {"winners": ["".join(map(str, m.argmax(0).tolist())) for m in masks[SHOWN]]}  # a digit a place: small
        row = score(masks, self.test) | stability(masks) | shared
        row |= {"loss_fall": float(1 - last.mean() / third.mean()) if len(third) else float("nan")}
        return row | {"slot_diversity": float(experiment.cosine(slots).mean())} | kept

    @torch.no_grad()
    def masks(self, config: Config, model: Dinosaur, shared: bool = False) -> tuple[Tensor, Tensor]:
        """Masks of all versions `[n, V, K, N]`, flips undone, and slots of the images as they are `[n, K, D]`.

        Slots of all versions of an image start from the same noise if `shared`, else each from its own.
        """
        parts, data = [], self.seen(config)[1]
        for version in range(len(TRANSFORMS)):
            torch.manual_seed(0 if shared else version)
            images = np.arange(version, self.test.count, len(TRANSFORMS))
            found = [model(data.batch(images[i : i + 32])) for i in range(0, len(images), 32)]
            masks = [f.attention if config.kind == "attention" else f.masks for f in found]
            parts.append((torch.cat(masks).float().cpu(), torch.cat([f.slots for f in found]).float().cpu()))
        return aligned(torch.stack([masks for masks, _ in parts], 1)), parts[0][1]

    def control(self, name: str, seed: int) -> dict:
        """What knows nothing of objects, or everything (`oracle_grid`), on the same grid with as many segments."""
        masks = control_masks(name, self.test, seed, side=2, clusters=SLOTS, grid=GRID)
        masks = aligned(masks.flatten(2).unflatten(0, (-1, len(TRANSFORMS))))
        # Ids absent from an image have empty masks, which resemble nothing, not even themselves.
        return score(masks, self.test) | ({} if name == "oracle_grid" else stability(masks))


def aligned(masks: Tensor) -> Tensor:
    """Masks `[n, V, K, N]` with the flipped version flipped back."""
    flipped = list(TRANSFORMS).index("flip")
    masks = masks.unflatten(-1, (GRID, GRID)).clone()
    masks[:, flipped] = masks[:, flipped].flip(-1)
    return masks.flatten(-2)


def score(masks: Tensor, data: Split) -> dict[str, float]:
    """Measures of masks `[n, V, K, N]` of the images as they are; see `boundary` for the last two."""
    truth = data.ids(slice(None, None, len(TRANSFORMS)))
    row = experiment.scores(on_image(masks[:, 0], tuple(truth.shape[-2:])), truth)
    edges = [boundary(*pair) for pair in zip(truth, on_image(masks[:, 0], (SIZE, SIZE)), strict=True)]
    at, elsewhere = np.nanmean(edges, 0).tolist()
    return row | {"boundary_sharpness": at, "boundary_contrast": at / max(elsewhere, 1e-6)}


def boundary(truth: Tensor, masks: Tensor, width: float = 3.0) -> tuple[float, float]:
    """How fast masks change, a pixel: within `width` px of an object's end and elsewhere; NaN where there is none.

    The change is half the sum over slots of the length of the gradient: where one slot hands over to another within w
    pixels it is 1 / w, and hard masks give 1/2 (a difference over two pixels).

    Args:
        truth: ids, brought to the size of the masks by nearest neighbour; masks: `[K, H, W]`.
    """
    masks, ids = objects.finite("masks", masks), objects.ids_of("ground truth", truth).astype(np.float32)
    ids = interpolate(torch.from_numpy(ids)[None, None], masks.shape[-2:], mode="nearest")[0, 0].numpy()
    edge = np.zeros(ids.shape, bool)
    edge[1:] |= ids[1:] != ids[:-1]
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    near = distance_transform_edt(~edge) <= width
    if near.all() or not edge.any():
        return float("nan"), float("nan")
    change = torch.stack(torch.gradient(masks.double(), dim=(1, 2))).square().sum(0).sqrt().sum(0).cpu().numpy() / 2
    return float(change[near].mean()), float(change[~near].mean())


def stability(masks: Tensor) -> dict[str, float]:
    """Mean cosine between masks of versions `[n, V, K, N]`, six pairs of four: matched, by index, by any names.

    `expected_if_shuffled` is the mean over all pairs of slots: what names drawn at random give by index.
    """
    unit = normalize(masks.double(), dim=-1)
    pairs = [unit[:, a] @ unit[:, b].transpose(1, 2) for a, b in combinations(range(masks.shape[1]), 2)]
    matched, indexed = (np.mean([objects.pairwise_stability(m, how) for m in masks]).item() for how in (True, False))
    shuffled = torch.stack(pairs).mean().item()
    return {"mask_stability": matched, "mask_stability_indexed": indexed, "expected_if_shuffled": shuffled}


def budgets(summary: dict[str, dict], names: list[str], keys: list[str]) -> plt.Figure:
    """Measures of configurations, mean and sd, a panel of two rows of four each; for `X_seconds` also `X_steps`.

    Args:
        summary: of `results.summarise`.
        names: configurations, top to bottom; those that are no `X_seconds` were not trained, and are squares.
    """
    figure, axes = plt.subplots(2, 4, figsize=(11, 5.4), sharey=True, layout="constrained")
    trained = [name.endswith("_seconds") for name in names]
    for axis, key in zip(axes.flat, keys, strict=True):
        for budget, colour, shift in (("seconds", plots.SLOTS[0], 0.12), ("steps", plots.SLOTS[3], -0.12)):
            for y, name in enumerate(names):
                value = summary.get(name.replace("_seconds", f"_{budget}"), {}).get(key)
                if value and value["n"] and (budget == "seconds" or trained[y]):
                    style = {"marker": "o" if trained[y] else "s", "color": colour, "ms": 5, "capsize": 2}
                    axis.errorbar(value["mean"], -y - shift, xerr=np.nan_to_num(value["sd"]), **style)
        axis.set_title(key + UNITS.get(key, ""), fontsize=8.5)
        axis.grid(alpha=0.3)
    axes[0, 0].set_yticks(-np.arange(len(names)), [n.removesuffix("_seconds") for n in names], fontsize=8)
    for colour, label in ((plots.SLOTS[0], "same seconds, or not trained"), (plots.SLOTS[3], "same steps")):
        axes[1, 3].plot([], [], "o", color=colour, label=label)
    figure.legend(*axes[1, 3].get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=8)
    return figure
