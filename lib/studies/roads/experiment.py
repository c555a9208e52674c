"""Short trainings of streethazards: augmentation, network and optimiser in, mIoU of fixed splits out, with bootstraps.

At the size of the stand-in this is the original study at a quarter of its resolution: frames of 320 x 180 px, windows
of 128 x 128, batches of four. Introduced in notebooks/streethazards.ipynb.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from lib import ROOT, checkpoints, parallel
from lib.data.augment import Resize
from lib.data.streethazards import CLASSES, IGNORE, StreetHazards
from lib.files import packed
from lib.metrics import segmentation
from lib.models.segmenters import LITE0, PACKAGED, Segmenter
from lib.studies.roads.treatments import training
from lib.training import Fitted, Recipe, Run, State, check_batch, fit, indices, load_or_train

KNOWN = len(CLASSES) - 1  # classes a network has
DRAWS = 200  # of the images, kept with every trial so that effects have intervals
MEMORY = 2_000_000_000  # bytes up to which a split's frames are kept decoded, or what a model says of them
#: Arguments of `treatments.training` that leave a frame as it is, but for cutting out a window at a random place.
PLAIN = {"crops": "none", "flip": "none", "degrees": 0.0, "colour": False, "blur": False}


class Frames:
    """A split as pairs (image uint8 `[3, H, W]`, label uint8 `[H, W]`); decoded once if all fit into `MEMORY` bytes."""

    def __init__(self, root: Path, split: str):
        self.data = StreetHazards(root, split)
        self.height, self.width = self._decoded(0)[1].shape
        small = 4 * self.height * self.width * len(self.data) <= MEMORY
        self._pair = cache(self._decoded) if small else self._decoded
        self._blank = tv_tensors.Image(torch.empty(3, self.height, self.width, dtype=torch.uint8, device="meta"))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self._pair(i)

    def _decoded(self, i: int) -> tuple[Tensor, Tensor]:
        image, label = self.data[i]
        return (image * 255).round().byte(), label.byte()

    def batch(
        self, picks: Sequence[int], transform: Callable, places: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images float32 `[B, 3, H, W]` in 0..1 and labels int64 `[B, H, W]` after a transform of both.

        Args:
            places: of the picks that are made, all if None. For the others the transform only draws.
        """
        pairs = []
        for place, pick in enumerate(picks):
            if places is None or place in places:
                x, y = self[pick]
                pairs.append(transform(tv_tensors.Image(x), tv_tensors.Mask(y)))
            else:
                transform(self._blank)  # has a size and no pixels
        images, labels = (
            torch.stack([part.as_subclass(Tensor) for part in parts]) for parts in zip(*pairs, strict=True)
        )
        return images.float() / 255, labels.long()


frames = lru_cache(Frames)  # shared by all who ask


@lru_cache
def start_of(network: str) -> str:
    """A hash of the weights that a pretrained network starts from; of the hub's, which it may lack, their name."""
    if network not in PACKAGED:
        return "the hub"
    return checkpoints.digest(Segmenter(network, KNOWN).network.encoder.state_dict())


class Batches(Dataset):
    """Item `step` is this process's share of that step's batch, and torch's generator after the whole was drawn.

    All its draws begin from `(seed, step)`, as those of `training.fit` do, so a batch does not depend on who makes it;
    what is drawn after it, such as dropout, goes on from the generator's state.
    """

    def __init__(self, frames: Frames, recipe: Recipe, transform: Callable):
        self.frames, self.recipe, self.transform = frames, recipe, transform

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        picks = indices(self.recipe, step, len(self.frames)).tolist()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed * 1_000_003 + step)
            share = parallel.shared(range(len(picks)))
            return *self.frames.batch(picks, self.transform, share), torch.get_rng_state()


@torch.no_grad()
def matrices(
    model: nn.Module, data: Frames, transform: Callable, back: Callable | None = None, most: int = 10**9
) -> NDArray[np.int64]:
    """Confusion of each image `[N, C, C]`, in eval mode; draws of `transform` begin from seed 0.

    Args:
        most: about so many images, evenly spaced.
        back: labels are those of this transform, and logits are brought to their size; those of `transform` if None.
    """
    model.eval()
    where, found = next(model.parameters()).device, []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for i in range(0, len(data), max(len(data) // most, 1)):
            x, y = data.batch([i], transform)
            logits = model(x.to(where))
            if back is not None:
                y = data.batch([i], back)[1]
                logits = interpolate(logits, y.shape[-2:], mode="bilinear", align_corners=False)
            found.append(segmentation.confusion(y.numpy(), logits.argmax(1).cpu().numpy(), KNOWN))
    return np.array(found)


def step_memory(model: nn.Module, batch: int, crop: Sequence[int]) -> float:
    """MB of one training step in 32 bits: weights, gradients, Adam's two moments, and what is kept for the way back."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        state = {k: v.clone() for k, v in model.state_dict().items()}
        out = model.train()(torch.zeros(batch, 3, *crop))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        model.load_state_dict(state)  # batch statistics have moved
    del out
    size = 16 * sum(p.numel() for p in model.parameters())
    return (size + sum(n for where, n in kept.items() if where not in weights)) / 1e6


@dataclass(frozen=True)
class RoadStudy:
    """What all trainings share.

    Args:
        root: of StreetHazards or its stand-in.
        size: (height, width) that frames are judged at.
        batch: images a step.
        precision, device: see `training`.
        workers: processes that decode and augment for the training; 0 where cores are few.
    """

    root: Path = ROOT / "data" / "streethazards"
    size: tuple[int, int] = (180, 320)
    batch: int = 4
    precision: str = "32-true"
    device: str = "auto"
    workers: int = 0

    def __post_init__(self):
        if self.batch < 2:
            raise ValueError(f"batch is {self.batch}; the networks' batch normalisation needs two windows a step")

    def split(self, name: str) -> Frames:
        """train, validation or test."""
        return frames(self.root, name)

    def data(self, held_out: str = "", network: str = LITE0, pretrained: bool = True, **_: Any) -> str:
        """What a row of a sweep depends on beside its parameters: data, sizes, and the weights that it starts from."""
        prints = " ".join(self.split(s).data.fingerprint for s in ("train", "validation", held_out) if s)
        start = f"from {start_of(network)}" if pretrained else "from random weights"
        return f"{prints} at {self.size[1]}x{self.size[0]}, batch {self.batch}, {self.precision}, {start}"

    def transform(self, augmentation: dict[str, Any], crop: Sequence[int]) -> Callable:
        """Arguments of `treatments.training`, where they are not `PLAIN`; what is not scaled is at `size`."""
        base = self.size[0] / self.split("train").height
        return training(tuple(crop), base, **PLAIN | augmentation)

    def loss(self, recipe: Recipe, transform: Callable) -> Callable:
        """The cross entropy of a step's batch, void left out; for `training.fit`.

        Batches are made by `workers` processes ahead of the steps, or in this one; the numbers are the same.
        """
        batches = Batches(self.split("train"), recipe, transform)
        ahead, due = iter(()), -1

        def loss(net: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
            nonlocal ahead, due
            if step != due:  # the first one; a resumed run does not begin at 0
                steps = range(step, recipe.steps)
                ahead = iter(DataLoader(batches, None, sampler=steps, num_workers=self.workers))
            (x, y, drawn), due = next(ahead), step + 1
            torch.set_rng_state(drawn)
            where = next(net.parameters()).device
            x, y = x.to(where), y.to(where)
            total = cross_entropy(net(x).float(), y, ignore_index=IGNORE, reduction="sum")
            return parallel.average(total, (y != IGNORE).sum()), {}

        return loss

    def trial(
        self,
        augmentation: dict[str, Any],
        seed: int,
        steps: int,
        lr: float,
        crop: list[int],
        network: str = LITE0,
        pretrained: bool = True,
        optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        schedule: str = "poly",
    ) -> dict[str, Any]:
        """Train briefly, then measure the same validation frames in every way that the notebook compares.

        `clean` is dataset mIoU at `size`. `squash`: frames resized to `crop`, judged there; `squash_back`: the same
        logits judged at `size`. `own`: validation frames augmented as in training. `_batch` is the mean over batches
        of four. Each comes with values under resampled images, the same images in every row. ValueError without steps.
        """
        if steps < 1:
            raise ValueError(f"steps is {steps}; train at least one")
        recipe = Recipe(steps, self.batch, lr, steps // 20, schedule, precision=self.precision, seed=seed)
        torch.manual_seed(seed)
        model, transform = Segmenter(network, KNOWN, pretrained), self.transform(augmentation, crop)
        check_batch(model, self.batch)
        memory, cuda = step_memory(model, self.batch, crop), torch.cuda.is_available() and self.device != "cpu"
        clock = time.perf_counter if cuda else time.process_time
        begun, loss = clock(), self.loss(recipe, transform)
        history = fit(model, loss, recipe, device=self.device, optimiser=optimiser).history
        seconds = clock() - begun
        validation, clean = self.split("validation"), Resize(self.size)
        seen = {
            "clean": matrices(model, validation, clean),
            "squash": matrices(model, validation, Resize(crop)),
            "squash_back": matrices(model, validation, Resize(crop), clean),
            "own": matrices(model, validation, transform),
            "train": matrices(model, self.split("train"), clean, most=len(validation)),
        }
        return {
            **{key: value for name, found in seen.items() for key, value in _means(name, found).items()},
            "iou": dict(zip(CLASSES, segmentation.iou(seen["clean"].sum(0)).tolist(), strict=False)),
            "draws": {name: resampled(seen[name]) for name in ("clean", "squash", "squash_back", "own")},
            "batch_draws": {name: resampled(seen[name], 4) for name in ("clean", "squash", "own")},
            "loss": history[-1]["loss"],
            "seconds": seconds,
            "memory_mb": memory,
            "parameters": sum(p.numel() for p in model.parameters()),
        }

    def main(
        self,
        augmentation: dict[str, Any],
        seed: int,
        steps: int,
        lr: float,
        crop: Sequence[int],
        network: str = LITE0,
        treatment: str = "all",
    ) -> Run:
        """Load or train the model of the anomaly tables: longer, with larger windows; `treatment` names its frames'."""
        recipe = Recipe(steps, self.batch, lr, steps // 20, "poly", precision=self.precision, seed=seed)
        config = {"treatment": treatment, **augmentation, "crop": crop, "size": self.size, "network": network}
        config["weights"] = start_of(network)
        loss, name = self.loss(recipe, self.transform(augmentation, crop)), f"streethazards-main-{seed}"

        def train(model: nn.Module, state: State) -> Fitted:
            model.to(memory_format=torch.channels_last)  # a quarter faster on a CPU, and at least as fast on a GPU
            fitted = fit(model, loss, recipe, state=state, device=self.device, label=name)
            model.to(memory_format=torch.contiguous_format)  # as it is when it is loaded, to the last digit
            return fitted

        data = self.split("train").data.fingerprint
        return load_or_train(name, lambda: Segmenter(network, KNOWN), train, recipe, config, data, self.device)


def resampled(found: NDArray[np.int64], batch: int = 0) -> str:
    """mIoU, or with `batch` its mean over batches, of `DRAWS` draws of the images with replacement, `packed`."""
    draws = np.sort(np.random.default_rng(0).integers(len(found), size=(DRAWS, len(found))))
    measure = partial(segmentation.miou_per_batch, batch=batch) if batch else lambda m: segmentation.miou(m.sum(0))
    return packed([measure(found[draw]) for draw in draws])


def _means(name: str, found: NDArray[np.int64]) -> dict[str, float]:
    means = {name: segmentation.miou(found.sum(0))}
    return means | {f"{name}_batch{b}": segmentation.miou_per_batch(found, b) for b in (1, 4, 16) if name != "train"}
