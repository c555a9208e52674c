"""The trials of backbone_comparison: one recipe for every backbone, one change at a time, on 16 x 16 tokens.

Introduced in notebooks/backbone_comparison.ipynb.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import discovery, materials, probes, reflections
from lib.backbone_report import pack
from lib.data.movi import MoviDataset
from lib.models import backbones
from lib.models.backbones import Backbone, Tokens
from lib.models.dinosaur import NORMS, ORIGINAL, Dinosaur, normalise, on_image
from lib.scenes import Split
from lib.training import Recipe, Run
from lib.trials import Trials

GRID = 16  # tokens a side
#: Strides and side of the picture in pixels; transformers have 16 x 16 tokens of their own at these sizes.
SOURCES = {
    "efficientnet_lite0": ((2, 4), 256),
    "efficientnet_lite1": ((2, 4), 256),
    "efficientnet_lite2": ((2, 4), 256),
    "vit8_dino": (None, 128),
    "vit8_ibot": (None, 128),
    "vit8_clip": (None, 128),
    "vit8_random": (None, 128),
    "random_vits14": (None, 224),
    "pixels": ((8,), 128),
    "dinov2_vits14": (None, 224),
    "dino_vits16": (None, 256),
    "clip_vitb16": (None, 256),
}
#: Faults of the original study that are in the backbone; written after its name and a comma.
FAULTS = ("attention across the batch", "no pixel normalisation")
THEIRS = {"area": 0.0, "diversity": 0.01, "sample": 0}
#: `projected` predicts a random projection of the tokens to half their channels; `drifting` is trained to do so and
#: trains that projection too, as the original did for CLIP.
RECIPES = ("ours", "original", "projected", "drifting")


class Projected(Dinosaur):
    """Slots read, and predict, a projection of the tokens to half their channels; the target is detached.

    Args:
        feature_dim: channels C of a token, C / 2 after the projection.
        trainable: learn the projection, through the inputs: then the target drifts.
    """

    def __init__(self, feature_dim: int, mean: Tensor | None = None, std: Tensor | None = None, *, trainable: bool):
        super().__init__(feature_dim // 2, input_norm="none", target_norm="none")
        self.mean = torch.zeros(feature_dim) if mean is None else mean.float().clone()
        self.std = torch.ones(feature_dim) if std is None else std.float().clone()
        self.reduce = nn.Linear(feature_dim, feature_dim // 2).requires_grad_(trainable)

    def reduced(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, N, C]`, standardised, through the projection: `[B, N, C / 2]`."""
        return self.reduce(normalise(tokens, "dataset", self.mean, self.std))

    def target(self, tokens: Tensor) -> Tensor:
        return self.reduced(tokens).detach()

    def encode(self, tokens: Tensor) -> Tensor:
        return super().encode(self.reduced(tokens))


class Across(Backbone):
    """A transformer whose attention runs over the images of a batch, a place at a time, and not over places.

    This is what the original's CLIP did: it handed `[N, B, C]` to blocks that expect `[B, N, C]`.
    """

    def _transformer(self, images: Tensor) -> Tokens:
        net, patch = self.network, self.strides[0]
        x = net.norm_pre(net._pos_embed(net.patch_embed(images))).transpose(0, 1)
        tokens = net.blocks(x).transpose(0, 1)[:, net.num_prefix_tokens :]
        return Tokens(tokens, (images.shape[-2] // patch, images.shape[-1] // patch))


@lru_cache
def network(backbone: str) -> Backbone:
    """A backbone by name, or one with a fault of `FAULTS`: "vit8_clip, attention across the batch".

    Raises:
        ValueError: an unknown name or fault.
    """
    base, _, fault = backbone.partition(", ")
    if base not in SOURCES or fault not in ("", *FAULTS):
        raise ValueError(f"{backbone!r} is no backbone; choose {', '.join(SOURCES)}, and a fault: {', '.join(FAULTS)}")
    found = backbones.load(base, strides=SOURCES[base][0])
    if fault == FAULTS[0]:
        if not found.positions:
            raise ValueError(f"{base} has no attention; choose a transformer")
        found.__class__ = Across
    elif fault == FAULTS[1]:
        found.mean.zero_()
        found.std.fill_(1.0)
    # The cache of tokens knows a backbone by its name and weights.
    found.name = backbone if found.name != "pixels" else "pixels"
    return found


@lru_cache
def scenes(trials: Trials, backbone: str, name: str, every: int = 0) -> Split:
    """A split with the tokens of a backbone, every so many frames of a video; as `Trials.scenes` if 0."""
    step = every or (2 if name == "train" else trials.every)
    data = MoviDataset(trials.root, name, fields=("video", "segmentations"), frames=slice(None, None, step))
    return Split(data, network(backbone), SOURCES[backbone.partition(", ")[0]][1], GRID)


@dataclass(frozen=True)
class Study:
    """Trainings and what is measured of them, for `sweeps.run`."""

    trials: Trials

    @property
    def data(self) -> str:
        """What rows of a sweep depend on beside their parameters: the data, and which frames."""
        prints = "-".join(scenes(self.trials, "pixels", n).fingerprint for n in self.trials.splits)
        return f"{prints}, {GRID}x{GRID} tokens, frames 1/{self.trials.every}, batch {self.trials.batch}"

    def run(
        self,
        backbone: str,
        seed: int,
        steps: int,
        recipe: str = "ours",
        input_norm: str = "dataset",
        target_norm: str = "dataset",
    ) -> Run:
        """Load or train one model. Every recipe has the same steps, batches and learning rate but the original's.

        Long enough runs are watched on validation scenes, for the choice of a checkpoint; nothing is chosen by it.
        """
        if recipe not in RECIPES:
            raise ValueError(f"recipe is {recipe!r}; choose one of {', '.join(RECIPES)}")
        build, theirs = Dinosaur, recipe == "original"
        rules = discovery.Rules(model={"input_norm": input_norm, "target_norm": target_norm}, coarse=0.0)
        if theirs:
            rules = discovery.Rules(model=ORIGINAL, coarse=0.0, **THEIRS)
        elif recipe != "ours":
            rules, build = discovery.Rules(coarse=0.0), partial(Projected, trainable=recipe == "drifting")
        lr, warmup = (1e-3, steps // 40) if theirs else (4e-4, steps // 8)
        how = Recipe(steps, self.trials.batch, lr, warmup, precision=self.trials.precision, seed=seed)
        words = [backbone, *([recipe] if recipe != "ours" else [input_norm, target_norm]), str(steps), str(seed)]
        name = "backbone_comparison-" + "-".join(w.replace(", ", "-").replace(" ", "_") for w in words)
        return discovery.train(
            name,
            scenes(self.trials, backbone, "train"),
            rules,
            how,
            held_out=scenes(self.trials, backbone, self.trials.splits[1]),
            watch_every=max(steps // 12, 1) if steps >= 500 else steps,
            device=self.trials.device,
            network=build,
        )

    def short(self, backbone: str, seed: int, steps: int, input_norm: str, target_norm: str) -> dict[str, Any]:
        """A row of the normalisation sweep: measures of attention's masks on the held-out images, raw."""
        run = self.run(backbone, seed, steps, "ours", input_norm, target_norm)
        test = scenes(self.trials, backbone, self.trials.held_out)
        return {k: float(np.nanmean(v)) for k, v in discovery.measure(run.model, test).items()}

    def full(self, backbone: str, seed: int, steps: int, recipe: str = "ours") -> dict[str, Any]:
        """Everything about one model: masks raw, merged and refined; losses; its course; each object; its slots.

        `train_` measures are of one frame of each training scene. `objects` are columns of `materials.judge` and
        `reflections.reflections` for `objects_of`'s rows, as text (`unpack`): `best` and `recall` of refined masks,
        the others of raw ones. `probes` read attributes from slots, matched on raw masks.
        """
        model = self.run(backbone, seed, steps, recipe)
        history, model, kind = model.history, model.model, "decoder" if recipe == "original" else "attention"
        validation, test = (scenes(self.trials, backbone, n) for n in self.trials.splits[1:])
        pictures, truth = test.images()
        threshold = discovery.choose_threshold(model, validation, kind)
        found = discovery.stages(model, test, threshold, kind=kind)
        row = {stage: discovery.scores(masks, truth) for stage, masks in found.items()}
        values, watched = (discovery.masks_of(model, x, np.arange(x.count))[1] for x in (test, validation))
        row["raw"] |= {k: float(v.mean()) for k, v in values.items()}
        row["validation_loss"] = float(watched["loss"].mean())
        seen = discovery.measure(model, scenes(self.trials, backbone, "train", 24), kind=kind)
        row["train"] = {k: float(np.nanmean(v)) for k, v in seen.items()}
        judged, mirrored = (
            materials.judge(found["refined"], truth),
            reflections.reflections(found["raw"], truth, pictures),
        )
        columns = judged[["best", "recall"]].join(mirrored[["mirror", "entropy", "entropy_bright"]])
        return row | {
            "threshold": threshold,
            "course": [[r["step"], round(r["loss"], 4), round(r["fg_ari"], 4)] for r in history if "fg_ari" in r],
            "objects": {name: pack(columns[name]) for name in columns},
            "probes": self.probed(model, backbone),
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        }

    def probed(self, model: nn.Module | None, backbone: str) -> dict[str, dict[str, float]]:
        """Linear probes for each attribute, fitted on training scenes: of matched slots, or, without a model, of what
        is under the true masks, tokens and mean colours."""
        parts = {}
        for split, every in ((self.trials.splits[0], 24), (self.trials.held_out, self.trials.every)):
            data = scenes(self.trials, backbone, split, every)
            pictures, truth = data.images()
            table, tokens = self.objects(split, every), data.features.batch(slice(None))
            if model is None:
                maps = tokens.transpose(1, 2).unflatten(2, data.features.grid)
                inputs = {"tokens": probes.under_truth(maps, truth, table)}
                inputs["colours"] = probes.under_truth(pictures, truth, table)
            else:
                with torch.no_grad():
                    torch.manual_seed(0)
                    seen = model(tokens)
                judged = materials.judge(on_image(seen.attention, truth.shape[-2:]), truth)
                table, judged = table[(judged.matched >= 0).to_numpy()], judged[judged.matched >= 0]
                inputs = {"slots": probes.under_slots(seen.slots, judged)}
            parts[split] = (inputs, table)
        (train, labels), (test, expected) = parts.values()
        table = probes.probes({name: (train[name], test[name]) for name in train}, labels, expected)
        return {f"{r.input} {r.attribute}": r._asdict() for r in table.itertuples(index=False)}

    def objects(self, split: str = "", every: int = 0) -> pd.DataFrame:
        """`materials.objects_of` of a split, the held-out one if "", every so many frames."""
        frames = slice(None, None, every or self.trials.every)
        data = MoviDataset(self.trials.root, split or self.trials.held_out, fields=materials.FIELDS, frames=frames)
        return materials.objects_of((data[i] for i in range(len(data))), frames)


def norms(names: list[str], seeds: list[int], steps: int) -> list[dict[str, Any]]:
    """The grid of the normalisation sweep: the input changed with the target on "dataset", and the other way round."""
    pairs = [(n, "dataset") for n in NORMS] + [("dataset", n) for n in NORMS if n != "dataset"]
    return [
        {"backbone": b, "seed": s, "steps": steps, "input_norm": i, "target_norm": t}
        for s in seeds
        for b in names
        for i, t in pairs
    ]
