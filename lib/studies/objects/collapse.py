"""Slot collapse taken apart: how much the inputs of Slot Attention differ, and how large each effect is.

Introduced in notebooks/ex_dino2.ipynb.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from lib import plots


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
        colour = plots.SLOTS[{"original": 3}.get(base, 0)]
        axis.plot([e["low"], e["high"]], [y, y], color=colour)
        axis.plot(e["difference"], y, "o", color=colour, markersize=4)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(yticks=range(len(compared)), yticklabels=[n for n, _ in compared], ylim=(len(compared) - 0.5, -0.5))
    axis.set(xlim=(-end, end), xticks=np.linspace(-end, end, 5), xlabel=label)
    axis.grid(alpha=0.3)
