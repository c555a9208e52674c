"""Figures of backbone_comparison, each from arrays or from tables of `materials`, `reflections` and `probes`.

Introduced in notebooks/backbone_comparison.ipynb.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from numpy.typing import NDArray
from torch import Tensor

from lib import plots
from lib.data.movi import COLORS, SHAPES
from lib.metrics.intervals import label
from lib.models.dinosaur import NORMS, normalise

_COLORS = ("#2A4BD7", "#814A19", "#29D0D0", "#8A8A8A", "#1D8B3A", "#8126C0", "#D02525", "#E8C51A")
#: Metal dark, rubber light red; slot colours for shapes; objects' own colours.
INKS = {
    "material": {"metal": plots.SLOTS[0], "rubber": plots.SLOTS[3]},
    "shape": dict(zip(SHAPES, (plots.SLOTS[8], plots.SLOTS[7], plots.SLOTS[2]), strict=True)),
    "color": dict(zip(COLORS, _COLORS, strict=True)),
}


def cases(rows: pd.DataFrame, images: Tensor, truth: Tensor, masks: Tensor) -> Figure:
    """A column a case: the object and its surroundings, its outline in white, and where its pixels went, below.

    Args:
        rows: of `reflections.clearest`, with the columns of `materials.judge`.
        images: `[n, 3, H, W]`; truth: ids `[n, H, W]`; masks: `[n, K, H, W]`.
    """
    boxes, panels = [], []
    for image, i in zip(rows["image"], rows["id"], strict=True):
        mine = (truth[image] == i).numpy()
        y, x = (int(np.clip(at.mean(), 24, n - 24)) for at, n in zip(np.nonzero(mine), mine.shape, strict=True))
        box = (slice(y - 24, y + 24), slice(x - 24, x + 24))
        shown = [plots.rgb(images[image]), plots.labels(truth[image]), plots.overlay(images[image], masks[image])]
        panels.append([panel[box] for panel in shown])
        boxes.append(mine[box])
    titles = [f"{r.material} {r.shape}\nimage {r.image}, object {r.id}" for r in rows.itertuples()]
    figure = plots.grid(list(zip(*panels, strict=True)), titles, ["image", "ground truth", "slots"])
    columns = np.array(figure.axes).reshape(3, -1).T
    for axes, mine, (_, row) in zip(columns, boxes, rows.iterrows(), strict=True):
        for axis in axes:
            axis.contour(mine, [0.5], colors="white", linewidths=1.2)
        shares = " ".join(f"{name} {row[name]:.0%}\n" for name in ("own", "theft", "ground", "mirror"))
        axes[2].set_xlabel(f" {shares} IoU {row['best']:.2f}, {row['area']:.0f} px", fontsize=8)
    figure.set_size_inches(1.75 * len(rows) + 0.4, 6.2)
    figure.tight_layout(pad=0.4)
    return figure


def slot_map(points: NDArray, objects: pd.DataFrame) -> Figure:
    """Slots on a plane `[m, 2]`, see `probes.embed`, coloured by attributes of the objects that they hold."""
    figure, axes = plt.subplots(1, len(INKS), figsize=(3.3 * len(INKS), 3.9), layout="constrained")
    for axis, (attribute, inks) in zip(axes, INKS.items(), strict=True):
        for name, colour in inks.items():
            mine = (objects[attribute] == name).to_numpy()
            axis.scatter(*points[mine].T, s=7, color=colour, label=name, linewidths=0, alpha=0.8)
        axis.set(xticks=[], yticks=[], xlabel="t-SNE 1, no unit")
        axis.set_title(attribute, fontsize=9)
        axis.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.09), markerscale=2, frameon=False)
    axes[0].set_ylabel("t-SNE 2, no unit")
    return figure


def normalisations(tokens: Tensor, mean: Tensor, std: Tensor, image: Tensor) -> Figure:
    """The loudest and the quietest channel of one image's tokens under every normalisation, a colour scale a column.

    Args:
        tokens: `[N, C]` of the image; mean, std: of the data set, `[C]`; image: `[3, H, W]`, shown first.
    """
    tokens, mean, std = tokens.cpu(), mean.cpu(), std.cpu()
    side, channels = int(len(tokens) ** 0.5), [int(std.argmax()), int(std.argmin())]
    columns = [normalise(tokens[None], how, mean, std)[0][:, channels].T.unflatten(1, (side, side)) for how in NORMS]
    rows = [
        [plots.rgb(image), *(plt.get_cmap("PuOr")((c[i] / c.abs().max() / 2 + 0.5).numpy()) for c in columns)]
        for i in range(2)
    ]
    names = [f"{kind} channel\nchannel {c}" for kind, c in zip(("loudest", "quietest"), channels, strict=True)]
    figure = plots.grid(rows, ["image"], names)
    for axes, i in zip(np.array(figure.axes).reshape(2, -1), range(2), strict=True):
        for axis, how, column in zip(axes[1:], NORMS, columns, strict=True):
            axis.set_title(f"{how}\nsd {column[i].std(correction=0):.3g}", fontsize=8)
    figure.set_size_inches(8.5, 3.8)
    figure.tight_layout(pad=0.4)
    return figure


def norm_maps(summary: dict[str, dict], backbones: Sequence[str], norms: Sequence[str]) -> Figure:
    """FG-ARI and mBO of every backbone (rows) under every normalisation; input above, target below.

    The last column has "image" on both sides and is the same above and below.
    """
    size = (8, 2 * (0.3 * len(backbones) + 0.9))
    figure, axes = plt.subplots(2, 2, figsize=size, layout="constrained", sharey=True)
    for line, side in zip(axes, ("input", "target"), strict=True):
        columns = {n: f"{side} {n}" for n in norms} | {"image,\nboth": "both image"}
        for axis, (key, top) in zip(line, {"fg_ari": 0.7, "mbo": 0.4}.items(), strict=True):
            means = {name: found[key]["mean"] for name, found in summary.items() if key in found}
            table = pd.DataFrame({c: [means.get(f"{b}, {n}", np.nan) for b in backbones] for c, n in columns.items()})
            style = {"annot": True, "fmt": ".2f", "annot_kws": {"size": 7}, "cbar": False, "yticklabels": backbones}
            sns.heatmap(table, ax=axis, cmap="cividis", vmin=0, vmax=top, **style)
            axis.set_title(f"{label(key)}, {side} normalised", fontsize=9)
            axis.tick_params(labelsize=8)
    return figure


def slots_apart(image: Tensor, masks: Tensor) -> Figure:
    """An image, its slots in colours, and each slot's mask `[K, H, W]` by itself with its share of the image."""
    panels = [plots.rgb(image), plots.overlay(image, masks), *masks.numpy()]
    names = ["image", "slots", *(f"slot {k + 1}, {m.mean():.0%}" for k, m in enumerate(masks))]
    return _titled([panels[:7], panels[7:]], names, (9.9, 3.8))


def quality(result: NDArray) -> Figure:
    """The original's "visual quality", the deviation of colours of 0 to 255: of a picture `[H, W, 3]` in 0..1, of its
    pixels shuffled, and of noise."""
    result = (result * 255).astype(np.uint8)
    rng = np.random.default_rng(0)
    cases = {"result": result, "pixels shuffled": rng.permutation(result.reshape(-1, 3)).reshape(result.shape)}
    cases["noise"] = rng.integers(0, 256, result.shape, np.uint8)
    names = [f"{name}\nquality {case.std((0, 1)).mean():.1f}" for name, case in cases.items()]
    return _titled([list(cases.values())], names, (6.3, 2.6))


def _titled(panels: list[list[NDArray]], names: list[str], size: tuple[float, float]) -> Figure:
    figure = plots.grid(panels)
    for axis, name in zip(figure.axes, names, strict=False):
        axis.set_title(name, fontsize=8)
    figure.set_size_inches(*size)
    figure.tight_layout(pad=0.4)
    return figure


def twins(table: pd.DataFrame, margin: float) -> Figure:
    """Metal minus rubber on twins and on mixed scenes, see `twins.compared`; grey: within the margin."""
    figure = plots.forest(table, ["twins", "mixed scenes"], "IoU, metal − rubber")
    ends = [min(-0.06, table["low"].min()) - 0.01, max(0.06, table["high"].max()) + 0.01]
    for axis in figure.axes:
        axis.axvspan(-margin, margin, color="0.9", zorder=0)
        axis.set(xlim=ends)
        axis.xaxis.set_major_locator(MultipleLocator(margin))
    return figure


def courses(histories: dict[str, list[list[dict]]]) -> Figure:
    """FG-ARI of validation scenes and the training loss over steps; histories as of `tables.courses`."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    plots.curves(axes[0], histories, "fg_ari", "FG-ARI of validation scenes")
    plots.curves(axes[1], histories, "loss", "training loss, 100 steps", log=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def single_runs(runs: list[dict], backbones: Sequence[str]) -> Figure:
    """FG-ARI of each run of these backbones, a line a backbone; runs have "config" and "metrics"."""
    figure, axis = plt.subplots(figsize=(6.4, 0.33 * len(backbones) + 0.9), layout="constrained")
    single = [(r["config"], r["metrics"]["fg_ari"]) for r in runs if r["config"] in backbones]
    single = pd.DataFrame(single, columns=["", "FG-ARI of single runs"])
    look = {"jitter": False, "color": plots.SLOTS[0], "alpha": 0.6}
    sns.stripplot(single, x="FG-ARI of single runs", y="", order=backbones, **look)
    axis.grid(alpha=0.3, axis="x")
    return figure
