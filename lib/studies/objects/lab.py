"""The collapse lab: a small model of tokens, trained step by step, to see what makes its slots draw one mask or many.

Shown by `lib.studies.explore`. Introduced in notebooks/ex_dino2.ipynb.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from lib import plots
from lib.data.movi import MoviDataset
from lib.features import tokens_of
from lib.metrics import objects
from lib.models import backbones
from lib.models.dinosaur import ORIGINAL, Dinosaur, on_image
from lib.studies.objects.experiment import TrainConfig, objective
from lib.training import Recipe, indices

GRID, SIZE, BATCH = 16, 256, 8  # tokens a side, px that frames are resized to, images a step
LEARNED, WATCHED = 16, 4  # scenes of training, two frames each, and held-out ones, one frame each
BASES = {"ours": {}, "original": ORIGINAL}


class Lab:
    """A model on the tokens of a few scenes, its history, and what it makes of held-out ones. A toy: see `reset`.

    Args:
        root: of MOVi-A.
        each: goes through items, and may show how many are done.
    """

    def __init__(self, root: Path, each: Callable[[Sequence, str], Iterable]):
        network, parts = backbones.load("efficientnet_lite0", strides=(2, 4)), {}
        for split, scenes, frames in (("train", LEARNED, slice(0, None, 12)), ("test", WATCHED, slice(12, 13))):
            data = MoviDataset(root, split, ("video", "segmentations"), frames)
            found = [data[i] for i in range(min(scenes, len(data)))]
            images = torch.from_numpy(np.concatenate([s.video for s in found])).permute(0, 3, 1, 2) / 255
            seen = each(images.split(4), f"tokens of {split}")
            tokens = torch.cat([tokens_of(network, part, SIZE, GRID) for part in seen])
            parts[split] = tokens, images, np.concatenate([s.masks for s in found])
        self.tokens, (self.held, self.images, self.truth) = parts["train"][0], parts["test"]
        self.step, self.history = 0, []

    def reset(self, base: str, init: str, frames: bool, temperature: float, diversity: float) -> None:
        """A new model of one of `BASES` with some settings changed; trained at a constant rate of 0.001.

        Raises:
            ValueError: settings that exclude each other.
        """
        settings = BASES[base] | {"init": init, "frames": frames, "mask_temperature": temperature}
        if frames:
            settings |= {"decoder": "mlp", "position": True}  # which frames need
        own = {"area": 0.01, "sample": 128} if base == "ours" else {"area": 0.0, "sample": 0}
        self.config = TrainConfig(model=settings, diversity=diversity, **own)
        self.recipe = Recipe(10**6, BATCH, 1e-3, warmup=30, schedule="constant")
        flat = self.tokens.flatten(0, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = Dinosaur(self.tokens.shape[-1], flat.mean(0), flat.std(0), **settings)
        self.optimiser = torch.optim.Adam(self.model.parameters(), self.recipe.lr)
        self.step, self.history = 0, []
        self.measure()

    def learn(self) -> None:
        """One step, as `training.fit` makes it."""
        self.model.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.step)
            batch = self.tokens[indices(self.recipe, self.step, len(self.tokens))]
            loss, _ = objective(self.model, batch, self.config)
        self.optimiser.param_groups[0]["lr"] = self.recipe.lr_at(self.step)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.step += 1

    @torch.no_grad()
    def measure(self) -> None:
        """The held-out images, from the same draw of slots each time: a row of the history, by the decoder's masks."""
        self.model.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = self.model(self.held)
        size = tuple(self.images.shape[-2:])
        self.seen = {"decoder masks": on_image(found.masks, size), "attention": on_image(found.attention, size)}
        values = objects.evaluate(torch.from_numpy(self.truth), self.seen["decoder masks"])
        error = float((found.reconstruction - self.model.target(self.held)).square().mean())
        row = {"step": self.step, "error": error, "mask similarity": float(values["mask_similarity"].mean())}
        self.history.append(row | {"FG-ARI": float(np.nanmean(values["fg_ari"]))})

    def pictures(self, i: int) -> dict[str, np.ndarray]:
        """A held-out image, its ground truth and its masks as last measured."""
        found = {"image": plots.rgb(self.images[i]), "ground truth": plots.labels(torch.from_numpy(self.truth[i]))}
        return found | {name: plots.overlay(self.images[i], masks[i], 0.75) for name, masks in self.seen.items()}

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """What was measured since the last reset, in 0..1; the error as a share of the first."""
        curves = {"error, of the first": [(r["step"], r["error"] / self.history[0]["error"]) for r in self.history]}
        return curves | {key: [(r["step"], r[key]) for r in self.history] for key in ("mask similarity", "FG-ARI")}
