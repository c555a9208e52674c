"""The trials of backbone_comparison: one recipe for every backbone, one change at a time, on 16 x 16 tokens.

Introduced in notebooks/backbone_comparison.ipynb.
"""

import json
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import features
from lib.features import Split
from lib.masks import guided
from lib.metrics.objects import fg_ari
from lib.models import backbones
from lib.models.backbones import Backbone
from lib.models.dinosaur import Dinosaur, on_image
from lib.studies.backbones import materials, probes, reflections
from lib.studies.backbones.faults import Across
from lib.studies.backbones.tables import pack
from lib.studies.objects import experiment as objects_experiment
from lib.studies.objects.final import ObjectStudy, control_masks
from lib.training import Recipe, Run, place, seconds

GRID = 16  # tokens a side
#: Faults of the original study that are in the backbone; written after its name and a comma.
FAULTS = ("attention across the batch", "no pixel normalisation")


@lru_cache
def network(backbone: str, device: str = "cpu") -> Backbone:
    """A backbone by name, or one with a fault of `FAULTS`: "vit8_clip, attention across the batch"; on the device.

    Raises:
        ValueError: an unknown name or fault.
    """
    base, _, fault = backbone.partition(", ")
    if base not in backbones.NAMES or fault not in ("", *FAULTS):
        known = ", ".join(backbones.NAMES)
        raise ValueError(f"{backbone!r} is no backbone; choose {known}, and a fault: {', '.join(FAULTS)}")
    found = backbones.load(base, strides=(8,) if base == "pixels" else (2, 4))
    if fault == FAULTS[0]:
        if not found.positions:
            raise ValueError(f"{base} has no attention; choose a transformer")
        found.__class__ = Across
    elif fault == FAULTS[1]:
        found.mean.zero_()
        found.std.fill_(1.0)
    # The cache of tokens knows a backbone by its name and weights.
    found.name = backbone if found.name != "pixels" else "pixels"
    return found.to(place(device))


def side(network: Backbone) -> int:
    """Of its images, in pixels: one patch a token; of CNNs, whose joined stages are finer than the grid, 256."""
    return 256 if len(network.strides) > 1 else GRID * network.strides[0]


@lru_cache
def scenes(trials: ObjectStudy, backbone: str, name: str, every: int = 0) -> Split:
    """A split with the tokens of a backbone, every so many frames of a video; as `ObjectStudy.scenes` if 0."""
    used = network(backbone, trials.device)
    return Split(trials.movi(name, every or None), used, side(used), GRID)


@dataclass(frozen=True)
class BackboneStudy:
    """Trainings and what is measured of them, for `sweeps.rows`.

    Args:
        recipes: by name, `rules` (arguments of `objects_experiment.ImageConfig`), `warmup` (one part in so many of the
            steps), `masks` that count ("attention" or "decoder") and, where it is not `Dinosaur`, the `network`.
    """

    trials: ObjectStudy
    recipes: dict[str, dict[str, Any]]

    def tokens(self, backbone: str, images: Tensor) -> Tensor:
        """Tokens of images `[B, 3, H, W]` in 0..1, on the study's grid: `[B, N, C]`, on the device; not kept."""
        used = network(backbone, self.trials.device)
        return features.tokens_of(used, images.to(used.mean.device), side(used), GRID)

    def costs(self, names: list[str], images: Tensor) -> dict[str, dict[str, float]]:
        """Seconds for the tokens of images and for a training step on them, as shares of the first name's in this run.

        And `backbone_parameters`, millions that are frozen.
        """
        found, rules = {}, objects_experiment.ImageConfig(**self.recipes["ours"]["rules"])
        for name in names:
            seen = self.tokens(name, images)
            model = Dinosaur(seen.shape[-1], seen.mean((0, 1)), seen.std((0, 1))).to(seen.device)
            timed = {
                "time_tokens": partial(self.tokens, name, images),
                "time_step": lambda m=model, seen=seen: objects_experiment.objective(m, seen, rules)[0].backward(),
            }
            found[name] = {key: seconds(what, seen.device) for key, what in timed.items()}
            found[name]["backbone_parameters"] = sum(p.numel() for p in network(name).parameters()) / 1e6
        first = dict(found[names[0]])
        return {n: m | {k: m[k] / first[k] for k in ("time_tokens", "time_step")} for n, m in found.items()}

    def data(self, backbone: str = "pixels", **_: Any) -> str:
        """What a row of a sweep depends on beside its parameters: data and frames, tokens, batch and precision."""
        splits = [scenes(self.trials, backbone, n) for n in self.trials.splits]
        prints = "-".join(s.fingerprint for s in splits)
        return f"{prints} {json.dumps(splits[0].about)}, batch {self.trials.batch}, {self.trials.precision}"

    def run(self, backbone: str, seed: int, steps: int, recipe: str = "ours", **norms: str) -> Run:
        """Load or train one model, with other normalisations if given. All have the same batches and learning rate.

        Long enough runs are watched on validation scenes, for the choice of a checkpoint; nothing is chosen by it.
        """
        setting = self.recipes[recipe]
        model = setting["rules"].get("model", {}) | norms
        warmup, precision = steps // setting["warmup"], self.trials.precision
        how = Recipe(steps, self.trials.batch, lr=1e-3, warmup=warmup, precision=precision, seed=seed)
        words = [backbone, *(model.values() if recipe == "ours" else [recipe]), str(steps), str(seed)]
        return objects_experiment.train(
            "backbone_comparison-" + "-".join(w.replace(", ", "-").replace(" ", "_") for w in words),
            scenes(self.trials, backbone, "train"),
            objects_experiment.ImageConfig(**setting["rules"] | {"model": model}),
            how,
            held_out=scenes(self.trials, backbone, self.trials.splits[1]),
            watch_every=max(steps // 12, 1) if steps >= 500 else steps,
            device=self.trials.device,
            network=setting.get("network", Dinosaur),
        )

    def short(self, backbone: str, seed: int, steps: int, input_norm: str, target_norm: str) -> dict[str, Any]:
        """A row of the normalisation sweep: measures of attention's masks on the held-out images, raw."""
        run = self.run(backbone, seed, steps, input_norm=input_norm, target_norm=target_norm)
        test = scenes(self.trials, backbone, self.trials.held_out)
        return {k: float(np.nanmean(v)) for k, v in objects_experiment.measure(run.model, test).items()}

    def full(self, backbone: str, seed: int, steps: int, recipe: str = "ours") -> dict[str, Any]:
        """Everything about one model: masks raw, merged and refined; losses; its course; each object; its slots.

        `train` is measured on as many training images, at the same moments of their videos. `objects` are columns of
        `materials.judge` and `reflections.reflections` for `objects_of`'s rows, as text (`unpack`): `best` and
        `recall` of refined masks, the others of raw ones. `probes` read attributes from slots, matched on raw masks.
        """
        run, kind = self.run(backbone, seed, steps, recipe), self.recipes[recipe]["masks"]
        model = run.model
        validation, test = (scenes(self.trials, backbone, n) for n in self.trials.splits[1:])
        pictures, truth = test.pictures(), test.ids()
        threshold = objects_experiment.choose_threshold(objects_experiment.tried(model, validation, kind))
        found = objects_experiment.stages(model, test, threshold, kind=kind)
        row = {stage: objects_experiment.scores(masks, truth) for stage, masks in found.items()}
        values, watched = (objects_experiment.masks_of(model, x, np.arange(x.count))[1] for x in (test, validation))
        row["raw"] |= {k: float(v.mean()) for k, v in values.items()}
        row["validation_loss"] = float(watched["loss"].mean())
        train = scenes(self.trials, backbone, "train")  # every second frame of a video
        moments = np.arange(train.count).reshape(train.shape[:2])[:, :: max(self.trials.every // 2, 1)]
        seen = objects_experiment.measure(model, train, moments.ravel()[: test.count], kind)
        row["train"] = {k: float(np.nanmean(v)) for k, v in seen.items()}
        columns = materials.judge(found["refined"], truth)[["best", "recall"]]
        columns = columns.join(reflections.reflections(found["raw"], truth, pictures)[list(reflections.STORED)])
        slots, tables = zip(*(self.held(model, backbone, s) for s in ("train", self.trials.held_out)), strict=True)
        return row | {
            "threshold": threshold,
            "course": course(run.history),
            "objects": {name: pack(columns[name]) for name in columns},
            "probes": probes.probes({"slots": slots}, *tables),
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        }

    def untrained(self, backbone: str) -> dict[str, Any]:
        """The control without slots: k-means on each image's tokens, scored like slots, one start.

        And, as `probes`, the attributes read from what is under the true masks: tokens and mean colours.
        """
        test = scenes(self.trials, backbone, self.trials.held_out)
        pictures, truth = test.pictures(), test.ids()
        found = {"raw": on_image(control_masks("kmeans_tokens", test, 0).flatten(2), truth.shape[-2:])}
        found["refined"] = guided(found["raw"], pictures)
        row: dict[str, Any] = {stage: objects_experiment.scores(masks, truth) for stage, masks in found.items()}
        row["objects"] = {"best": pack(materials.judge(found["refined"], truth)["best"])}
        inputs, tables = {"tokens": [], "colours": []}, []
        for split in ("train", self.trials.held_out):
            data, table = scenes(self.trials, backbone, split, self._every(split)), self.objects(split)
            found = {kind: [] for kind in inputs}
            for part in _parts(data.count):
                truth, here = data.ids(part), table[table.image.isin(part)]
                here = here.assign(image=here.image - part[0])
                maps = data.features.batch(part).mT.unflatten(2, data.features.grid)
                found["tokens"].append(probes.under_truth(maps.cpu(), truth, here))
                found["colours"].append(probes.under_truth(data.pictures(part), truth, here))
            for kind, rows in found.items():
                inputs[kind].append(np.concatenate(rows))
            tables.append(table)
        return row | {"probes": probes.probes(inputs, *tables)}

    @torch.no_grad()
    def held(self, model: nn.Module, backbone: str, split: str) -> tuple[np.ndarray, pd.DataFrame]:
        """Slots that hold an object `[m, D]`, matched on raw masks, and the rows of `objects` of these."""
        data, slots, kept = scenes(self.trials, backbone, split, self._every(split)), [], []
        torch.manual_seed(0)
        for part in _parts(data.count):
            seen, truth = model(data.features.batch(part)), data.ids(part)
            judged = materials.judge(on_image(seen.attention, truth.shape[-2:]), truth)
            kept.append((judged.matched >= 0).to_numpy())
            slots.append(seen.slots[judged.image[kept[-1]].tolist(), judged.matched[kept[-1]].tolist()].cpu())
        return torch.cat(slots).double().numpy(), self.objects(split)[np.concatenate(kept)]

    @torch.no_grad()
    def by_scene(self, model: nn.Module, backbone: str, split: str) -> np.ndarray:
        """FG-ARI of a split's first 40 scenes at the moments of `held_out`, mean over a scene's images, `[scenes]`."""
        found = []
        for scene in self.trials.movi(split, self.trials.every)[:40]:
            torch.manual_seed(0)
            seen = model(self.tokens(backbone, torch.from_numpy(scene.video).permute(0, 3, 1, 2) / 255))
            winners = on_image(seen.attention.float(), scene.masks.shape[-2:]).argmax(1)
            found.append(np.nanmean([fg_ari(*pair) for pair in zip(scene.masks, winners, strict=True)]))
        return np.array(found)

    def objects(self, split: str) -> pd.DataFrame:
        """`materials.objects_of` a split: of the images that are measured; of training scenes, every 24th frame."""
        data = self.trials.movi(split, self._every(split), materials.FIELDS)
        return materials.objects_of((data[i] for i in range(len(data))), data.frames)

    def _every(self, split: str) -> int:
        return 24 if split == "train" else self.trials.every


def _parts(count: int) -> list[np.ndarray]:
    """Numbers of images, some at a time; slots' noise is drawn as it is for all at once."""
    return np.array_split(np.arange(count), range(64, count, 64))


def course(history: list[dict[str, float]]) -> list[list[float]]:
    """Step, training loss and FG-ARI of every checkpoint that was watched; the loss is a mean over the last 100 steps.

    One batch alone says which scenes were drawn: batches are those of the seed, whatever is trained on them.
    """
    found = []
    for row in (r for r in history if "fg_ari" in r):
        losses = [r["loss"] for r in history if row["step"] - 100 < r["step"] <= row["step"]]
        found.append([row["step"], round(float(np.mean(losses)), 4), round(row["fg_ari"], 4)])
    return found
