"""Figures and small tables of streethazards, each from what the notebook has measured.

Introduced in notebooks/streethazards.ipynb.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lib import plots
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE, PALETTE
from lib.metrics import anomaly as measures
from lib.metrics.anomaly import exact_curve
from lib.studies.roads import alarms, tables
from lib.studies.roads.alarms import Alarms
from lib.studies.roads.experiment import Frames

COLOURS = np.vstack([PALETTE, np.zeros((256 - len(PALETTE), 3), np.uint8)]) / 255  # void is black
Effects = dict[str, dict[str, float]]


def paint(label: Tensor) -> np.ndarray:
    """Class ids `[H, W]` in the palette: `[H, W, 3]` in 0..1."""
    return COLOURS[np.asarray(label)]


def classes(splits: dict[str, Frames]) -> Figure:
    """Share of pixels of each class in each split, logarithmic."""
    found = {n: {c: 100 * v["share"] for c, v in part.data.statistics().items()} for n, part in splits.items()}
    figure, axis = plt.subplots(figsize=(8.6, 2.8), layout="constrained")
    pd.DataFrame(found).plot.bar(ax=axis, logy=True, width=0.8, color=["#332288", "#88CCEE", "#CC6677"])
    axis.set(ylabel="% of pixels")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.17), ncols=3, frameon=False, fontsize=9)
    axis.grid(alpha=0.3, axis="y")
    return figure


def towns(splits: dict[str, Frames]) -> Figure:
    """The first frame of every town of every split, and its classes."""
    picks = {(n, t): part.data.towns.index(t) for n, part in splits.items() for t in sorted(set(part.data.towns))}
    pairs = [splits[n][i] for (n, _), i in picks.items()]
    panels = [[plots.picture(x / 255) for x, _ in pairs], [paint(y) for _, y in pairs]]
    figure = plots.grid(panels, [f"{n}, {t}" for n, t in picks], ["frame", "classes"])
    return _resized(figure, 12.0, 2.6)


def networks(summary: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """IoU of each class (columns) and network (rows)."""
    found = {name: {c: m[f"iou {c}"]["mean"] for c in CLASSES[:-1]} for name, m in summary.items()}
    figure, axis = plt.subplots(figsize=(9.4, 0.8 + 0.35 * len(found)), layout="constrained")
    options = {"vmin": 0, "vmax": 1, "cmap": "cividis", "annot": True, "fmt": ".2f", "annot_kws": {"size": 7}}
    sns.heatmap(pd.DataFrame(found, dtype=float).T, ax=axis, cbar_kws={"label": "IoU"}, **options)
    axis.tick_params(labelsize=8)
    return figure


def effects(panels: dict[str, Effects]) -> Figure:
    """`tables.forest` of each group of effects, below each other."""
    panels = {title: found for title, found in panels.items() if found} or {"no effect was measured": {}}
    sizes = [len(found) + 1 for found in panels.values()]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(7.6, 0.29 * sum(sizes) + 1.2), layout="constrained", height_ratios=sizes, sharex=True
    )
    for axis, (title, found) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        tables.forest(axis, found, title)
    for axis in np.atleast_1d(axes)[:-1]:
        axis.set_xlabel("")
    return figure


def curves(maps: dict[str, Tensor], truth: Tensor, names: Sequence[str]) -> Figure:
    """Precision over recall and the ROC curve of pooled pixels, scores and truth `[N, H, W]`."""
    counted = truth != IGNORE
    positive = truth[counted] == ANOMALY
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    for colour, name in zip(plots.SLOTS, names, strict=False):
        curve = exact_curve(maps[name][counted], positive)
        hits, alarm = np.cumsum(curve.anomalies), np.cumsum(curve.others)
        some = np.unique(np.linspace(0, len(hits) - 1, 4000).astype(int))
        axes[0].plot(hits[some] / hits[-1], (hits / (hits + alarm))[some], color=colour, label=name)
        axes[1].plot(alarm[some] / alarm[-1], hits[some] / hits[-1], color=colour)
    axes[0].axhline(float(positive.float().mean()), color="black", linestyle=":", linewidth=1, label="chance")
    axes[1].plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
    axes[0].set(xlabel="recall, pixels", ylabel="precision, pixels")
    axes[1].set(xlabel="false-positive rate, pixels", ylabel="recall, pixels")
    axes[0].legend(fontsize=8)
    return figure


def switches(scores: Tensor, truth: Tensor) -> dict[str, float]:
    """What the protocol alone does to one score: the same pixels under rules that are all in use."""
    counted = truth != IGNORE
    values, positive = scores[counted], truth[counted] == ANOMALY
    curve, squashed = exact_curve(values, positive), exact_curve(torch.sigmoid(values), positive)
    images, nearest = (
        measures.evaluate(zip(scores, truth, strict=True), ANOMALY, rule=rule).values for rule in ("first", "nearest")
    )
    return {
        "AUPR, steps": measures.aupr(curve),
        "AUPR, trapezoid": measures.aupr(curve, "trapezoid"),
        "AUPR, after a sigmoid": measures.aupr(squashed),
        "AUPR, per image": images["aupr_per_image"],
        "AUROC, pooled": measures.auroc(curve),
        "AUROC, per image": images["auroc_per_image"],
        "FPR95, first": measures.fpr(curve),
        "FPR95, nearest": measures.fpr(curve, rule="nearest"),
        "FPR95, per image, first": images["fpr95_per_image"],
        "FPR95, per image, nearest": nearest["fpr95_per_image"],
    }


def elsewhere(maps: dict[str, Tensor], truth: Tensor, known: dict[str, list[Tensor]]) -> pd.DataFrame:
    """AUROC of the same anomalies against ordinary pixels of their own towns, and against those of validation frames.

    Args:
        maps: scores `[N, H, W]` of frames with anomalies, and truth; known: scores of validation frames, all ordinary.
    """
    counted, rows = truth != IGNORE, {}
    positive = truth[counted] == ANOMALY
    for name, scores in maps.items():
        own, other = scores[counted], torch.stack(known[name]).flatten()
        joined = torch.cat([own[positive], other])
        curve = exact_curve(joined, torch.arange(len(joined)) < positive.sum())
        rows[name] = {
            "against towns of the test": measures.auroc(exact_curve(own, positive)),
            "against validation": measures.auroc(curve),
        }
    return pd.DataFrame(rows).T.round(3)


def ranked(scores: Tensor, truth: Tensor) -> dict[str, int]:
    """Which frames have the best, the median and the worst AUPR, of those that hold an anomaly; ValueError without."""
    values = measures.evaluate(zip(scores, truth, strict=True), ANOMALY).images[:, 1]
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN comes last
    if not order.size:
        raise ValueError("no frame holds both an anomaly and ordinary pixels, so none has an AUPR")
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}


def stretched(scores: Tensor, i: int) -> np.ndarray:
    """Frame i of scores `[N, H, W]` in 0..1, from the 1st to the 99.5th percentile of all frames."""
    low, high = np.quantile(scores, [0.01, 0.995])
    return ((scores[i] - low) / (high - low)).clamp(0, 1).numpy()


def score_maps(cases: dict[str, int], pictures: Tensor, truth: Tensor, maps: dict[str, Tensor]) -> Figure:
    """A row a case: frame, truth, and every score in grey."""
    panels = [
        [plots.picture(pictures[i]), paint(truth[i]), *(stretched(m, i) for m in maps.values())] for i in cases.values()
    ]
    figure = plots.grid(panels, ["frame", "truth", *maps], list(cases))
    return _resized(figure, 1.5 * (2 + len(maps)), 2.9)


def gallery(cases: dict[str, int], pictures: Tensor, truth: Tensor, logits: Tensor, scores: Tensor) -> Figure:
    """A row a case: frame, truth, prediction, overlay, confidence, error and anomaly score; logits `[N, C, H, W]`."""
    panels = []
    for i in cases.values():
        predicted, picture = logits[i].argmax(0), plots.picture(pictures[i])
        wrong = ((predicted != truth[i]) & (truth[i] < ANOMALY)).float().numpy()
        panels.append([picture, paint(truth[i]), paint(predicted), 0.4 * picture + 0.6 * paint(predicted)])
        panels[-1] += [logits[i].softmax(0).max(0).values.numpy(), wrong, stretched(scores, i)]
    columns = ["frame", "truth", "prediction", "overlay", "confidence", "error", "anomaly score"]
    figure = plots.grid(panels, columns, list(cases))
    return _resized(figure, 11.5, 3.2)


def thresholds(seen: dict[str, tuple[Alarms, Alarms]]) -> Figure:
    """Precision, recall, anomalies found and false alarms of each score at `alarms.RATES`; (validation, test) each."""
    figure, axes = plt.subplots(1, len(seen), figsize=(4.4 * len(seen), 3.6), layout="constrained", squeeze=False)
    x = 100 * alarms.RATES
    for axis, (name, (before, after)) in zip(axes[0], seen.items(), strict=True):
        lines = axis.plot(x, after.precision, color="#332288", label="precision, pixels")
        lines += axis.plot(x, after.recall, color="#44AA99", label="recall, pixels")
        lines += axis.plot(x, after.found, color="#DDCC77", label="anomalies found")
        axis.set(xscale="log", xlabel="% of validation pixels flagged", ylabel="share, test", ylim=(0, 1), title=name)
        axis.grid(alpha=0.3)
        twin = axis.twinx()
        lines += twin.plot(x, before.false_alarms, ":", color="#CC6677", label="false alarms, validation")
        lines += twin.plot(x, after.false_alarms, color="#CC6677", label="false alarms, test")
        twin.set(ylabel="false alarms a frame", ylim=(0, None))
    figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def budgets(summary: dict[str, dict[str, dict[str, float]]], names: Sequence[str]) -> pd.DataFrame:
    """Operating points chosen on validation, measured on the held-out split, means over seeds."""
    keys = ("on_validation", *Alarms._fields)
    rows = {
        (name, b): {k: summary[name].get(f"{k} at {b:g}", {"mean": np.nan})["mean"] for k in keys}
        for name in names
        for b in alarms.BUDGETS
    }
    return pd.DataFrame(rows, dtype=float).T.rename_axis(["score", "budget"]).round(3)


def _resized(figure: Figure, width: float, height: float) -> Figure:
    figure.set_size_inches(width, height)
    figure.tight_layout(pad=0.4)
    return figure
