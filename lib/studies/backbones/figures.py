"""Figures of backbone_comparison, each from tables of `materials`, `reflections` and `probes`, or from arrays.

Introduced in notebooks/backbone_comparison.ipynb.
"""

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lib import plots
from lib.data.movi import COLORS, MATERIALS, SHAPES
from lib.models.dinosaur import NORMS, normalise
from lib.studies.backbones import materials

#: Metal dark, rubber light red, in every figure.
PAINT = {"metal": plots.SLOTS[0], "rubber": plots.SLOTS[3]}
_COLORS = ("#2A4BD7", "#814A19", "#29D0D0", "#8A8A8A", "#1D8B3A", "#8126C0", "#D02525", "#E8C51A")
#: Objects' own colours, and slot colours for shapes.
INKS = {
    "material": PAINT,
    "shape": dict(zip(SHAPES, (plots.SLOTS[8], plots.SLOTS[7], plots.SLOTS[2]), strict=True)),
    "color": dict(zip(COLORS, _COLORS, strict=True)),
}
LABELS = {
    "best": "best IoU of an object",
    "iou": "matched IoU of an object",
    "recall": "recall of an object",
    "mirror": "share of pixels mirrored away",
    "theft": "share of pixels in another's slot",
    "hidden bin": "share hidden by others",
    "distance bin": "pixels to the next object",
    "area bin": "visible pixels",
    "size": "size",
    "color": "colour",
}


def by_backbone(tables: dict[str, pd.DataFrame], paired: pd.DataFrame, value: str = "best") -> Figure:
    """One measure on metal and rubber, a pair a backbone, with intervals; beside it metal minus rubber, paired.

    Args:
        tables: of objects judged, means over seeds, by backbone. Left are objects of mixed scenes, and metal of
            metal-only scenes, with intervals over scenes; paired: of `backbone_report.material`.
    """
    figure, axes = plt.subplots(
        1, 2, figsize=(8.6, 0.55 * len(tables) + 1.5), layout="constrained", sharey=True, width_ratios=(3, 2)
    )
    for y, (backbone, objects) in enumerate(tables.items()):
        seen = materials.means(objects, value, ["mixed", "material"])
        kinds = [((True, m), PAINT[m], "o", f"{m}, mixed scenes") for m in MATERIALS]
        kinds.append(((False, "metal"), PAINT["metal"], "s", "metal, metal-only scenes"))
        for shift, (key, colour, marker, name) in zip((-0.2, 0, 0.2), kinds, strict=True):
            if key in seen.index:
                face = "white" if marker == "s" else colour
                _point(axes[0], seen.loc[key], y + shift, colour, marker, face, name if y == 0 else None)
        found = paired.loc[backbone].rename({"effect": "mean"})
        sure = found["low"] > 0 or found["high"] < 0
        _point(axes[1], found, y, "black", "o", "black" if sure else "white")
    axes[0].set(yticks=range(len(tables)), yticklabels=list(tables), ylim=(len(tables) - 0.5, -0.5), xlim=(0, None))
    axes[0].set_xlabel(f"{LABELS.get(value, value)}, mean and 95 %")
    axes[1].axvline(0, color="black", linewidth=0.8, linestyle=":")
    axes[1].set_xlabel("metal − rubber, mixed scenes")
    for axis in axes:
        axis.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _point(axis: plt.Axes, row, y: float, colour: str, marker: str, face: str, label: str | None = None) -> None:
    axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.5)
    axis.plot(row["mean"], y, marker, color=colour, markerfacecolor=face, markersize=6, label=label)


def against(
    objects: pd.DataFrame,
    values: Sequence[str] = ("best", "recall"),
    by: Sequence[str] = ("distance bin", "hidden bin", "area bin", "size"),
) -> Figure:
    """Measures (rows) of metal and rubber against what else differs between objects, with intervals and counts.

    Args:
        objects: judged and `materials.binned`; hand in mixed scenes alone to compare like with like.
    """
    size = (2.7 * len(by), 2.7 * len(values) + 0.5)
    figure, axes = plt.subplots(len(values), len(by), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axis, (value, column) in zip(axes.flat, itertools.product(values, by), strict=True):
        groups = materials.means(objects, value, [column, "material"])
        names = (
            list(objects[column].cat.categories) if hasattr(objects[column], "cat") else sorted(set(objects[column]))
        )
        for shift, material in ((-0.1, "metal"), (0.1, "rubber")):
            some = [(x, groups.loc[(n, material)]) for x, n in enumerate(names) if (n, material) in groups.index]
            x, rows = np.array([s[0] for s in some]) + shift, pd.DataFrame([s[1] for s in some])
            spread = np.abs(rows[["low", "high"]].T.to_numpy(float) - rows["mean"].to_numpy(float))
            small = {"ha": "center", "fontsize": 7, "transform": axis.get_xaxis_transform()}
            style = {"color": PAINT[material], "capsize": 3, "marker": "o"}
            axis.errorbar(x, rows["mean"], spread, label=material if axis is axes[0, 0] else None, **style)
            for at, count in zip(x, rows["objects"], strict=True):
                axis.text(at, 0.06 if material == "metal" else 0.01, f"{count:.0f}", color=PAINT[material], **small)
        axis.set(xticks=range(len(names)), ylim=(0, 1))
        if value == values[-1]:
            axis.set_xlabel(LABELS.get(column, column))
        axis.set_xticklabels(names, fontsize=8)
        axis.grid(alpha=0.3, axis="y")
    for axis, value in zip(axes[:, 0], values, strict=True):
        axis.set_ylabel(f"{LABELS.get(value, value)}\nmean and 95 %; objects below")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def cases(rows: pd.DataFrame, pictures: Tensor, truth: Tensor, masks: Tensor, reach: int = 24) -> Figure:
    """A column a case: the object and its surroundings, truth, and slots (argmax), with numbers below.

    Args:
        rows: of `reflections.clearest`, with the columns of `materials.judge`.
        pictures: `[n, 3, H, W]`; truth: `[n, H, W]`; masks: `[n, K, H, W]`; reach: pixels around the object's centre.
    """
    figure, axes = plt.subplots(
        3, len(rows), figsize=(1.75 * len(rows) + 0.4, 6.2), layout="constrained", squeeze=False
    )
    height, width = truth.shape[-2:]
    for column, (_, row) in zip(axes.T, rows.iterrows(), strict=True):
        image, i = int(row["image"]), int(row["id"])
        mine = (truth[image] == i).numpy()
        y, x = (
            int(np.clip(a.mean(), reach, n - reach)) for a, n in zip(np.nonzero(mine), (height, width), strict=True)
        )
        box = (slice(max(y - reach, 0), y + reach), slice(max(x - reach, 0), x + reach))
        shown = [
            plots.picture(pictures[image]),
            plots.labels(truth[image]),
            plots.overlay(pictures[image], masks[image]),
        ]
        for axis, panel in zip(column, shown, strict=True):
            axis.imshow(panel[box], interpolation="nearest")
            axis.contour(mine[box], [0.5], colors="white", linewidths=1.2)
            axis.set(xticks=[], yticks=[])
        column[0].set_title(f"{row['material']} {row['shape']}\nimage {image}, object {i}", fontsize=8)
        share = " ".join(f"{name} {row[name]:.0%}\n" for name in ("own", "theft", "ground", "mirror"))
        column[2].set_xlabel(f" {share} IoU {row['best']:.2f}, {row['area']:.0f} px", fontsize=8)
    for axis, name in zip(axes[:, 0], ("picture", "truth", "slots"), strict=True):
        axis.set_ylabel(name, fontsize=9)
    return figure


def slot_map(
    points: NDArray, objects: pd.DataFrame, attributes: Sequence[str] = ("material", "shape", "color")
) -> Figure:
    """Slots on a plane `[m, 2]`, see `probes.embed`, coloured by each attribute of the objects that they hold."""
    figure, axes = plt.subplots(
        1, len(attributes), figsize=(3.3 * len(attributes), 3.9), layout="constrained", squeeze=False
    )
    for axis, attribute in zip(axes[0], attributes, strict=True):
        for name, colour in INKS[attribute].items():
            mine = (objects[attribute] == name).to_numpy()
            axis.scatter(*points[mine].T, s=7, color=colour, label=name, linewidths=0, alpha=0.8)
        axis.set(xticks=[], yticks=[], xlabel="t-SNE 1, no unit")
        axis.set_title(LABELS.get(attribute, attribute), fontsize=9)
        axis.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.09), markerscale=2, frameon=False)
    axes[0, 0].set_ylabel("t-SNE 2, no unit")
    return figure


def probe_bars(table: pd.DataFrame) -> Figure:
    """Accuracies of `probes.probes`, a group an attribute, a bar an input, diamonds balanced; lines: the majority."""
    inputs, attributes = list(dict.fromkeys(table["input"])), list(dict.fromkeys(table["attribute"]))
    figure, axis = plt.subplots(figsize=(1.9 * len(attributes) + 1.2, 3 + 0.1 * len(inputs)), layout="constrained")
    width = 0.8 / len(inputs)
    for k, name in enumerate(inputs):
        rows = table[table["input"] == name].set_index("attribute").loc[attributes]
        x = np.arange(len(attributes)) + (k - (len(inputs) - 1) / 2) * width
        error = np.abs(rows[["low", "high"]].T.to_numpy() - rows["accuracy"].to_numpy())
        axis.bar(x, rows["accuracy"], 0.92 * width, yerr=error, capsize=2, color=plots.SLOTS[k], label=name)
        balanced = "balanced accuracy" if k == 0 else None
        axis.plot(x, rows["balanced"], "D", color="black", markerfacecolor="white", markersize=4, label=balanced)
    some = table.drop_duplicates("attribute").set_index("attribute").loc[attributes]
    x = np.arange(len(attributes))
    axis.hlines(some["majority"], x - 0.42, x + 0.42, "black", "dotted", label="commonest class")
    axis.set(xticks=range(len(attributes)), xticklabels=[LABELS.get(a, a) for a in attributes], ylim=(0, 1))
    axis.set_ylabel("accuracy on objects of\nunseen scenes, 95 %")
    axis.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def compared(pictures: Tensor, masks: dict[str, Tensor]) -> Figure:
    """A row a picture `[n, 3, H, W]`: the picture and the slots of each of several models, masks `[n, K, H, W]`."""
    rows = [[plots.picture(p), *(plots.overlay(p, m[i]) for m in masks.values())] for i, p in enumerate(pictures)]
    return plots.grid(rows, ["picture", *masks])


def normalisations(tokens: Tensor, mean: Tensor, std: Tensor, picture: Tensor) -> Figure:
    """The loudest and the quietest channel of one image's tokens under every normalisation, a colour scale a column.

    Args:
        tokens: `[N, C]` of the image; mean, std: of the data set, `[C]`; picture: `[3, H, W]`, shown first.
    """
    side = int(len(tokens) ** 0.5)
    channels = {"loudest channel": int(std.argmax()), "quietest channel": int(std.argmin())}
    found = {how: normalise(tokens[None], how, mean, std)[0] for how in NORMS}
    limit = {how: float(values[:, list(channels.values())].abs().max()) for how, values in found.items()}
    size = (1.55 * (len(NORMS) + 1), 1.75 * len(channels) + 0.3)
    figure, axes = plt.subplots(len(channels), len(NORMS) + 1, figsize=size, layout="constrained", squeeze=False)
    for row, (name, c) in zip(axes, channels.items(), strict=True):
        row[0].imshow(plots.picture(picture))
        row[0].set_ylabel(f"{name}\nchannel {c}", fontsize=8)
        for axis, (how, values) in zip(row[1:], found.items(), strict=True):
            shown = values[:, c].reshape(side, side).numpy()
            axis.imshow(shown, cmap="PuOr", vmin=-limit[how], vmax=limit[how], interpolation="nearest")
            axis.set_title(f"{how}\nsd {shown.std():.3g}", fontsize=8)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    return figure


def attention(picture: Tensor, masks: Tensor) -> Figure:
    """A picture `[3, H, W]`, its slots (argmax), and the attention map of each slot, masks `[K, H, W]`, 0 to 1."""
    columns = -(-(len(masks) + 2) // 2)
    panels = [plots.picture(picture), plots.overlay(picture, masks), *masks.detach().cpu().numpy()]
    names = ["picture", "slots, argmax", *(f"slot {k + 1}, {float(m.mean()):.0%}" for k, m in enumerate(masks))]
    figure, axes = plt.subplots(2, columns, figsize=(1.5 * columns + 0.6, 3.5), layout="constrained", squeeze=False)
    for axis, panel, name in zip(axes.flat, panels, names, strict=False):
        shown = axis.imshow(panel, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, label="share of a place's attention", shrink=0.8, pad=0.01)
    return figure


def effects(table: pd.DataFrame, value: str = "best") -> Figure:
    """`materials.adjusted`: the effect of metal alone and beside all else, and of everything else."""
    figure, axis = plt.subplots(figsize=(5.6, 0.32 * len(table) + 0.9), layout="constrained")
    for y, (name, row) in enumerate(table.iterrows()):
        colour = PAINT["metal"] if name.startswith("metal") else "#777777"
        sure = row["low"] > 0 or row["high"] < 0
        _point(axis, row.rename({"effect": "mean"}), y, colour, "o", colour if sure else "white")
    axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axis.set(yticks=range(len(table)), yticklabels=list(table.index), ylim=(len(table) - 0.5, -0.5))
    axis.set_xlabel(f"change of {LABELS.get(value, value)}, 95 %")
    axis.grid(alpha=0.3, axis="x")
    return figure


def quality(cases: dict[str, tuple[NDArray, float]]) -> Figure:
    """`probes.blind_spots`: pictures, and the "visual quality" of each in the title."""
    names = [f"{name}\nquality {value:.1f}" for name, (_, value) in cases.items()]
    figure = plots.grid([[picture for picture, _ in cases.values()]], names)
    figure.set_size_inches(2.1 * len(cases), 2.6)
    figure.tight_layout(pad=0.4)
    return figure
