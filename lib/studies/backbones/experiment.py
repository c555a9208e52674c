"""The trials of backbone_comparison: one recipe for every backbone, one change at a time, on 16 x 16 tokens.

Introduced in notebooks/backbone_comparison.ipynb.
"""

import json
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import features, sweeps
from lib.data.movi import MoviDataset
from lib.features import Split
from lib.masks import guided
from lib.metrics.objects import fg_ari
from lib.models import backbones
from lib.models.backbones import Backbone
from lib.models.dinosaur import NORMS, ORIGINAL, Dinosaur, on_image
from lib.studies.backbones import materials, probes, reflections
from lib.studies.backbones.faults import Across, Projected
from lib.studies.backbones.tables import pack
from lib.studies.objects import experiment as objects_experiment
from lib.studies.objects.final import Trials, control_masks
from lib.training import Recipe, Run

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
#: The one recipe: the error alone, on the full grid from the first step. Its rate is the original's; at 4e-4 the
#: slots of three backbones had not parted after 800 steps (seed 0, validation scenes).
OURS = {"area": 0.0, "coarse": 0.0}
THEIRS = {"area": 0.0, "coarse": 0.0, "diversity": 0.01, "sample": 0}
#: `projected` predicts a random projection of the tokens to half their channels; `drifting` is trained to do so and
#: trains that projection too, as the original did for CLIP.
RECIPES = ("ours", "original", "projected", "drifting")


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


@torch.no_grad()
def tokens(backbone: str, images: Tensor) -> Tensor:
    """Tokens of images `[B, 3, H, W]` in 0..1, on the study's grid: `[B, N, C]`; not kept."""
    return features.tokens_of(network(backbone), images, SOURCES[backbone.partition(", ")[0]][1], GRID)


def costs(names: list[str], images: Tensor, repeat: int = 3) -> dict[str, dict[str, float]]:
    """Seconds for the tokens of images and for a training step on them, as shares of the first name's in this run.

    And `backbone_parameters`, millions that are frozen.
    """
    found = {}
    for name in names:
        seen = tokens(name, images)
        flat = seen.flatten(0, 1)
        model = Dinosaur(seen.shape[-1], flat.mean(0), flat.std(0))
        seconds = [
            min(timeit.repeat(what, number=1, repeat=repeat))
            for what in (
                partial(tokens, name, images),
                lambda model=model, seen=seen: objects_experiment.objective(
                    model, seen, objects_experiment.Rules(**OURS)
                )[0].backward(),
            )
        ]
        found[name] = {"time_tokens": seconds[0], "time_step": seconds[1]}
        found[name]["backbone_parameters"] = sum(p.numel() for p in network(name).parameters()) / 1e6
    first = dict(found[names[0]])
    return {n: m | {k: m[k] / first[k] for k in ("time_tokens", "time_step")} for n, m in found.items()}


def edited(names: list[str], pictures: Tensor, side: int = 8) -> pd.DataFrame:
    """How many tokens change when a patch of the first of two images `[2, 3, H, W]` is inverted: its, the other's."""
    (y, x), changed = (n // 2 for n in pictures.shape[-2:]), {}
    edit = pictures.clone()
    edit[0, :, y : y + side, x : x + side] = 1 - edit[0, :, y : y + side, x : x + side]
    for name in names:
        moved = (tokens(name, edit) - tokens(name, pictures)).abs().amax(-1) > 1e-5
        changed[name] = {"in the edited image": int(moved[0].sum()), "in its batch mate": int(moved[1].sum())}
    return pd.DataFrame(changed).T


@dataclass(frozen=True)
class Study:
    """Trainings and what is measured of them, for `sweeps.run`."""

    trials: Trials

    def data(self, backbone: str = "pixels", **_: Any) -> str:
        """What a row of a sweep depends on beside its parameters: data and frames, tokens, batch and precision."""
        splits = [scenes(self.trials, backbone, n) for n in self.trials.splits]
        prints = "-".join(s.fingerprint for s in splits)
        return f"{prints} {json.dumps(splits[0].about)}, batch {self.trials.batch}, {self.trials.precision}"

    def rows(self, trial: Callable[..., dict[str, Any]], grid: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
        """`trial(**params)` for every `params` of the grid, see `sweeps.rows`."""
        return sweeps.rows(name, trial, grid, self.data)

    def run(
        self,
        backbone: str,
        seed: int,
        steps: int,
        recipe: str = "ours",
        input_norm: str = "dataset",
        target_norm: str = "dataset",
    ) -> Run:
        """Load or train one model. Every recipe has the same steps, batches and learning rate.

        Long enough runs are watched on validation scenes, for the choice of a checkpoint; nothing is chosen by it.
        """
        if recipe not in RECIPES:
            raise ValueError(f"recipe is {recipe!r}; choose one of {', '.join(RECIPES)}")
        build, theirs = Dinosaur, recipe == "original"
        rules = objects_experiment.Rules(model={"input_norm": input_norm, "target_norm": target_norm}, **OURS)
        if theirs:
            rules = objects_experiment.Rules(model=ORIGINAL, **THEIRS)
        elif recipe != "ours":
            rules, build = objects_experiment.Rules(**OURS), partial(Projected, trainable=recipe == "drifting")
        warmup = steps // 40 if theirs else steps // 8
        how = Recipe(steps, self.trials.batch, 1e-3, warmup, precision=self.trials.precision, seed=seed)
        words = [backbone, *([recipe] if recipe != "ours" else [input_norm, target_norm]), str(steps), str(seed)]
        name = "backbone_comparison-" + "-".join(w.replace(", ", "-").replace(" ", "_") for w in words)
        return objects_experiment.train(
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
        return {k: float(np.nanmean(v)) for k, v in objects_experiment.measure(run.model, test).items()}

    def full(self, backbone: str, seed: int, steps: int, recipe: str = "ours") -> dict[str, Any]:
        """Everything about one model: masks raw, merged and refined; losses; its course; each object; its slots.

        `train` is measured on as many training images, at the same moments of their videos. `objects` are columns of
        `materials.judge` and `reflections.reflections` for `objects_of`'s rows, as text (`unpack`): `best` and
        `recall` of refined masks, the others of raw ones. `probes` read attributes from slots, matched on raw masks.
        The masks of "original" are its decoder's, which it was judged by; all others are those of attention.
        """
        model = self.run(backbone, seed, steps, recipe)
        history, model, kind = model.history, model.model, "decoder" if recipe == "original" else "attention"
        validation, test = (scenes(self.trials, backbone, n) for n in self.trials.splits[1:])
        pictures, truth = test.images()
        threshold = objects_experiment.choose_threshold(model, validation, kind)
        found = objects_experiment.stages(model, test, threshold, kind=kind)
        row = {stage: objects_experiment.scores(masks, truth) for stage, masks in found.items()}
        values, watched = (objects_experiment.masks_of(model, x, np.arange(x.count))[1] for x in (test, validation))
        row["raw"] |= {k: float(v.mean()) for k, v in values.items()}
        row["validation_loss"] = float(watched["loss"].mean())
        train = scenes(self.trials, backbone, "train")  # every second frame of a video
        moments = np.arange(train.count).reshape(len(train.truth), -1)[:, :: max(self.trials.every // 2, 1)]
        seen = objects_experiment.measure(model, train, moments.ravel()[: test.count], kind)
        row["train"] = {k: float(np.nanmean(v)) for k, v in seen.items()}
        judged, mirrored = (
            materials.judge(found["refined"], truth),
            reflections.reflections(found["raw"], truth, pictures),
        )
        columns = judged[["best", "recall"]].join(mirrored[["mirror", "lured", "entropy", "entropy_bright"]])
        return row | {
            "threshold": threshold,
            "course": course(history),
            "objects": {name: pack(columns[name]) for name in columns},
            "probes": self.probed(model, backbone),
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        }

    def probed(self, model: nn.Module, backbone: str) -> dict[str, dict[str, float]]:
        """Linear probes for each attribute on matched slots: fitted on training scenes, scored on held-out ones."""
        train, test = ((self.held(model, backbone, *part)) for part in self._parts())
        return _by_name(probes.probes({"slots": (train[0], test[0])}, train[1], test[1]))

    def untrained(self, backbone: str) -> dict[str, Any]:
        """The control without slots: k-means on each image's tokens, scored like slots, one start.

        And, as `probes`, the attributes read from what is under the true masks: tokens and mean colours.
        """
        test = scenes(self.trials, backbone, self.trials.held_out)
        pictures, truth = test.images()
        found = {"raw": on_image(control_masks("kmeans_tokens", test, 0).flatten(2), truth.shape[-2:])}
        found["refined"] = guided(found["raw"], pictures)
        row: dict[str, Any] = {stage: objects_experiment.scores(masks, truth) for stage, masks in found.items()}
        row["objects"] = {"best": pack(materials.judge(found["refined"], truth)["best"])}
        under = []
        for split, every in self._parts():
            data = scenes(self.trials, backbone, split, every)
            (pictures, truth), table = data.images(), self.objects(split, every)
            maps = data.features.batch(slice(None)).transpose(1, 2).unflatten(2, data.features.grid)
            under.append((*(probes.under_truth(x, truth, table) for x in (maps, pictures)), table))
        train, test = under
        inputs = {name: (train[i], test[i]) for i, name in enumerate(("tokens", "colours"))}
        return row | {"probes": _by_name(probes.probes(inputs, train[-1], test[-1]))}

    def held(self, model: nn.Module, backbone: str, split: str = "", every: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
        """Slots that hold an object `[m, D]`, matched on raw masks, and the objects' rows, of one split."""
        data = scenes(self.trials, backbone, split or self.trials.held_out, every or self.trials.every)
        truth, table = data.images()[1], self.objects(split, every)
        with torch.no_grad():
            torch.manual_seed(0)
            seen = model(data.features.batch(slice(None)))
        judged = materials.judge(on_image(seen.attention, truth.shape[-2:]), truth)
        kept = (judged.matched >= 0).to_numpy()
        return probes.under_slots(seen.slots, judged[kept]), table[kept]

    def _parts(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return (self.trials.splits[0], 24), (self.trials.held_out, self.trials.every)

    @torch.no_grad()
    def by_scene(self, model: nn.Module, backbone: str, split: str, most: int = 40) -> np.ndarray:
        """FG-ARI of a split's first scenes at the moments of `held_out`, mean over a scene's images, `[scenes]`."""
        frames = slice(None, None, self.trials.every)
        data = MoviDataset(self.trials.root, split, fields=("video", "segmentations"), frames=frames)
        found = []
        for scene in data[:most]:
            torch.manual_seed(0)
            seen = model(tokens(backbone, torch.from_numpy(scene.video).permute(0, 3, 1, 2) / 255))
            winners = on_image(seen.attention.float(), scene.masks.shape[-2:]).argmax(1)
            found.append(np.nanmean([fg_ari(*pair) for pair in zip(scene.masks, winners, strict=True)]))
        return np.array(found)

    def objects(self, split: str = "", every: int = 0) -> pd.DataFrame:
        """`materials.objects_of` of a split, the held-out one if "", every so many frames."""
        frames = slice(None, None, every or self.trials.every)
        data = MoviDataset(self.trials.root, split or self.trials.held_out, fields=materials.FIELDS, frames=frames)
        return materials.objects_of((data[i] for i in range(len(data))), frames)


def course(history: list[dict[str, float]], steps: int = 100) -> list[list[float]]:
    """Step, training loss and FG-ARI of every checkpoint that was watched; the loss is a mean over the last `steps`.

    One batch alone says which scenes were drawn: batches are those of the seed, whatever is trained on them.
    """
    return [
        [
            r["step"],
            round(float(np.mean([o["loss"] for o in history if r["step"] - steps < o["step"] <= r["step"]])), 4),
            round(r["fg_ari"], 4),
        ]
        for r in history
        if "fg_ari" in r
    ]


def grid(backbones: list[str], seeds: list[int], faulty: str, few_seeds: list[int], steps: int) -> list[dict[str, Any]]:
    """The trainings of `Study.full`: every backbone, and the faults and recipes of one of them with fewer seeds."""
    found = [{"backbone": b, "seed": s, "steps": steps} for s in seeds for b in backbones]
    found += [{"backbone": f"{faulty}, {f}", "seed": s, "steps": steps} for s in few_seeds for f in FAULTS]
    return found + [
        {"backbone": faulty, "seed": s, "steps": steps, "recipe": r} for s in few_seeds for r in RECIPES if r != "ours"
    ]


def norms(names: list[str], seeds: list[int], steps: int) -> list[dict[str, Any]]:
    """The grid of the normalisation sweep: the input changed with the target on "dataset", and the other way round.

    And "image" on both sides, which is what the original did.
    """
    pairs = [(n, "dataset") for n in NORMS] + [("dataset", n) for n in NORMS if n != "dataset"] + [("image", "image")]
    return [
        {"backbone": b, "seed": s, "steps": steps, "input_norm": i, "target_norm": t}
        for s in seeds
        for b in names
        for i, t in pairs
    ]


def _by_name(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    return {f"{r.input} {r.attribute}": r._asdict() for r in table.itertuples(index=False)}
