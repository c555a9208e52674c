"""Slot collapse taken apart: two anchors, one setting changed at a time, and how large each effect is.

Introduced in notebooks/ex_dino2.ipynb.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from lib import plots
from lib.models.dinosaur import ORIGINAL, Dinosaur
from lib.studies.objects import experiment
from lib.studies.objects.final import Trials
from lib.training import Recipe, Run

BASE = {"model": ORIGINAL, "area": 0.0, "diversity": 0.01, "sample": 0}
OURS = {"model": {}, "area": 0.01, "diversity": 0.0, "sample": 128}
#: What is changed in the original's configuration. Frames need the pointwise decoder and positions.
SINGLE = {
    "projection linear": {"projection": "linear"},
    "init uniform": {"init": "uniform"},
    "init gaussian": {"init": "gaussian"},
    "init learned": {"init": "learned"},
    "diversity 0": {"diversity": 0.0},
    "diversity 0.1": {"diversity": 0.1},
    "diversity 1": {"diversity": 1.0},
    "mask temperature 1": {"mask_temperature": 1.0},
    "mask temperature 0.7": {"mask_temperature": 0.7},
    "mask temperature 0.3": {"mask_temperature": 0.3},
    "attention temperature 0.5": {"attention_temperature": 0.5},
    "decoder conv_linear": {"decoder": "conv_linear"},
    "decoder mlp": {"decoder": "mlp"},
    "decoder autoregressive": {"decoder": "autoregressive"},
    "decoder permuted": {"decoder": "permuted"},
    "11 slots": {"num_slots": 11},
    "lr 0.001": {"lr": 1e-3},
    "input dataset": {"input_norm": "dataset"},
    "target dataset": {"target_norm": "dataset"},
    "position": {"position": True},
    "mlp, position, frames": {"decoder": "mlp", "position": True, "frames": True},
}
#: Of these also a long training, because ours too needs one.
LONGER = ("mask temperature 0.3", "position", "mlp, position, frames")
#: What is taken away from ours.
WITHOUT = {
    "no frames": {"frames": False},
    "raw target": {"target_norm": "none"},
    "no area": {"area": 0.0},
    "attention temperature 1": {"attention_temperature": 1.0},
    "init learned": {"init": "learned"},
}


def configurations(steps: int, long_steps: int, lr: float = 4e-4) -> dict[str, dict[str, Any]]:
    """Every configuration by name; "long" ones are trained for `long_steps`, all others for `steps`."""
    short, long = {"steps": steps, "lr": lr}, {"steps": long_steps, "lr": lr}
    found = {"original": short | BASE, "ours": short | OURS, "original, long": long | BASE, "ours, long": long | OURS}
    found |= {name: _but(short | BASE, change) for name, change in SINGLE.items()}
    found |= {f"{name}, long": found[name] | long for name in LONGER}
    return found | {f"ours, long, {name}": _but(long | OURS, change) for name, change in WITHOUT.items()}


def pairs(names: list[str]) -> list[tuple[str, str]]:
    """Each configuration with the anchor that it is compared with, where both are in `names`."""
    found = [(n, "original") for n in ("ours", "original, long", *SINGLE)]
    found += [(f"{n}, long", "original, long") for n in LONGER]
    found += [(f"ours, long, {n}", "ours, long") for n in WITHOUT]
    return [pair for pair in found if {*pair} <= {*names}]


def _but(config: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A configuration with settings changed: its own by their names, all others are the model's."""
    own = {k: v for k, v in change.items() if k in config}
    return config | {"model": config["model"] | {k: v for k, v in change.items() if k not in own}} | own


@dataclass(frozen=True)
class Ablation:
    """The trials of ex_dino2 on 16 x 16 tokens; they have settings of `configurations` and a seed as arguments."""

    trials: Trials

    def run(self, config: str, seed: int, *, steps: int, lr: float, model: dict[str, Any], **rules: float) -> Run:
        """Load or train one model."""
        recipe = Recipe(steps, self.trials.batch, lr, 50, precision=self.trials.precision, seed=seed)
        name = f"ex_dino2-{config.replace(' ', '_').replace(',', '')}-{seed}"
        rules = experiment.Rules(model=model, coarse=1.0, **rules)
        return experiment.train(name, self.trials.scenes("ours", "train"), rules, recipe, device=self.trials.device)

    def measure(self, config: str, seed: int, **settings: Any) -> dict:
        """One model on the test images: measures of the decoder's masks, of attention's, and of what it is fed.

        `spread_before` and `spread_after` training are those of what Slot Attention reads, see `spread`;
        `certainty` is the largest share of a token's masks, mean over tokens, in the course of the training.
        """
        run = self.run(config, seed, **settings)
        test = self.trials.scenes("ours", self.trials.held_out, 16)
        some = test.features.batch(slice(0, 32))
        torch.manual_seed(seed)
        untrained = Dinosaur(test.dim, run.model.mean, run.model.std, **settings["model"])
        found = {kind: experiment.measure(run.model, test, kind=kind) for kind in ("decoder", "attention")}
        row = {k: float(np.nanmean(v)) for k, v in found["decoder"].items()}
        for key in ("fg_ari", "mbo", "mask_similarity"):
            row[f"attention_{key}"] = float(np.nanmean(found["attention"][key]))
        row |= {"spread_before": spread(untrained, some), "spread_after": spread(run.model, some)}
        return row | {"certainty": [[r["step"], round(r["mask_certainty"], 4)] for r in run.history]}


@torch.no_grad()
def spread(net: nn.Module, tokens: Tensor) -> float:
    """The share of the power of Slot Attention's inputs that differs between the tokens of an image; 0: all alike.

    Args:
        net: a `Dinosaur`; tokens: `[B, N, C]`.
    """
    inputs = net.encode(tokens)
    return float((inputs.var(1, correction=0).sum(-1) / inputs.square().sum(-1).mean(1)).mean())


def intervals(axis: plt.Axes, compared: list[tuple[str, str]], effects: list[dict], label: str, end: float) -> None:
    """Effects with their intervals, one below the other, coloured by what they are compared with; axis to +-`end`."""
    for y, ((_, base), e) in enumerate(zip(compared, effects, strict=True)):
        colour = plots.SLOTS[{"original": 3, "original, long": 2}.get(base, 0)]
        axis.plot([e["low"], e["high"]], [y, y], color=colour)
        axis.plot(e["difference"], y, "o", color=colour, markersize=4)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(yticks=range(len(compared)), yticklabels=[n for n, _ in compared], ylim=(len(compared) - 0.5, -0.5))
    axis.set(xlim=(-end, end), xticks=np.linspace(-end, end, 5), xlabel=label)
    axis.grid(alpha=0.3)
