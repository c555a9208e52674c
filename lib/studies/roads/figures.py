"""Figures of streethazards, each from what the notebook has measured. Introduced in notebooks/streethazards.ipynb."""

from collections.abc import Callable, Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike
from torch import Tensor
from torchvision import tv_tensors

from lib import plots
from lib.data.streethazards import ANOMALY, CLASSES, PALETTE
from lib.metrics.anomaly import Curve
from lib.studies.roads import alarms, tables
from lib.studies.roads.alarms import RED, Alarms, Frame, OperatingPoints
from lib.studies.roads.experiment import Frames
from lib.studies.roads.tables import Sides

COLOURS = np.vstack([PALETTE, np.zeros((256 - len(PALETTE), 3), np.uint8)]) / 255  # void is black


def paint(label: Tensor) -> np.ndarray:
    """Class ids `[..., H, W]` in the palette: `[..., H, W, 3]` in 0..1."""
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


def scores(frames: Sequence[Frame], maps: dict[str, Tensor], curves: dict[str, Curve], names: Sequence[str]) -> Figure:
    """Frames, their ground truth, and scores `[N, H, W]`, each `stretched`; a row a name."""
    truth = torch.stack([frame.label for frame in frames]).cpu()
    columns = {"image": [plots.rgb(frame.image) for frame in frames], "ground truth": paint(truth)}
    grey = {name: stretched(found, curves[name]).numpy() for name, found in maps.items()}
    return panels(columns | grey, names, truth == ANOMALY)


def panels(columns: dict[str, ArrayLike], names: Sequence[str], outlined: ArrayLike | None = None) -> Figure:
    """A column a title, a row a name, and the colours of the classes below.

    Args:
        columns: panels in 0..1, `[n, H, W, 3]`, or `[n, H, W]`, which are shown in grey.
        outlined: bool `[n, H, W]`, such as where anomalies are; its outline is drawn over what is grey.
    """
    rows = list(zip(*columns.values(), strict=True))
    figure, height = plots.grid(rows, list(columns), names), 0.95 * len(rows) + 0.75
    for i, axis in enumerate(figure.axes):
        row, column = divmod(i, len(columns))
        if outlined is not None and rows[row][column].ndim == 2:
            axis.contour(outlined[row], [0.5], colors=[COLOURS[ANOMALY]], linewidths=0.8)
    figure.set_size_inches(1.65 * len(columns) + 0.3, height)
    colours = [Patch(facecolor=c, edgecolor="grey", label=n) for n, c in zip(CLASSES, COLOURS, strict=False)]
    figure.legend(handles=colours, loc="lower center", ncols=7, fontsize=7, frameon=False)
    figure.tight_layout(pad=0.4, rect=(0, 0.45 / height, 1, 1))
    return figure


def towns(splits: dict[str, Frames]) -> Figure:
    """The first frame of every town of every split, and its classes."""
    picks = {(n, t): part.data.towns.index(t) for n, part in splits.items() for t in sorted(set(part.data.towns))}
    pairs = {f"{n}, {t}": splits[n][i] for (n, t), i in picks.items()}
    return panels({n: [plots.rgb(x / 255), paint(y)] for n, (x, y) in pairs.items()}, ["image", "ground truth"])


def crops(image: Tensor, cuts: dict[str, Callable], factors: Sequence[float], seed: int = 0) -> Figure:
    """An image, uint8 `[3, H, W]`, and the windows that crops make of it, with their outlines in it.

    Args:
        cuts: by name, `cut(factor)`, a transform of images that is given a scale where it would draw one.
    """
    height, width = image.shape[1:]
    places = torch.ones(3, height, width)  # y, x, and 1 to tell the image from what is filled
    places[0], places[1] = torch.arange(height)[:, None], torch.arange(width)
    layout = {"layout": "constrained", "width_ratios": [1.8] + [1] * len(factors), "squeeze": False}
    figure, axes = plt.subplots(len(cuts), 1 + len(factors), figsize=(7.6, 1.55 * len(cuts)), **layout)
    for row, (name, cut) in zip(axes, cuts.items(), strict=True):
        row[0].imshow(plots.rgb(image / 255))
        row[0].set_title(name, fontsize=9)
        for axis, factor, colour in zip(row[1:], factors, ("#EE3377", "#EE7733", "#44AA99"), strict=False):
            torch.manual_seed(seed)
            window, at = cut(factor)(tv_tensors.Image(image), tv_tensors.Image(places))
            seen = at[:2, at[2] > 0.99]
            (top, left), (bottom, right) = seen.amin(1).tolist(), seen.amax(1).tolist()
            row[0].add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=2))
            axis.imshow(plots.rgb(window / 255))
            axis.set_title(f"window at scale {factor:g}", fontsize=9, color=colour)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure


def networks(summary: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """IoU of each class (columns) and network (rows)."""
    found = {name: {c: m[f"iou {c}"]["mean"] for c in CLASSES[:-1]} for name, m in summary.items()}
    figure, axis = plt.subplots(figsize=(9.4, 0.8 + 0.35 * len(found)), layout="constrained")
    options = {"vmin": 0, "vmax": 1, "cmap": "cividis", "annot": True, "fmt": ".2f", "annot_kws": {"size": 7}}
    sns.heatmap(pd.DataFrame(found, dtype=float).T, ax=axis, cbar_kws={"label": "IoU"}, **options)
    axis.tick_params(labelsize=8)
    return figure


def effects(groups: dict[str, Iterable[str]], found: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """Effects as points with intervals, groups of names below each other; filled where the interval excludes zero.

    Args:
        found: effects by name, of each length of training, by its label.
    """
    known = {title: [n for n in names if any(n in some for some in found.values())] for title, names in groups.items()}
    known = {title: names for title, names in known.items() if names} or {"no effect was measured": []}
    sizes = [len(names) + 1 for names in known.values()]
    layout = {"layout": "constrained", "height_ratios": sizes, "sharex": True, "squeeze": False}
    figure, axes = plt.subplots(len(known), 1, figsize=(7.6, 0.29 * sum(sizes) + 1.2), **layout)
    colours = dict(zip(found, ("#999933", "#332288"), strict=False))
    for axis, (title, names) in zip(axes[:, 0], known.items(), strict=True):
        for i, (label, some) in enumerate(found.items()):
            for y, e in enumerate(map(some.get, names)):
                if e:
                    fill, at = colours[label] if e["low"] > 0 or e["high"] < 0 else "white", y + 0.3 * i - 0.15
                    axis.plot([100 * e["low"], 100 * e["high"]], [at, at], color=colours[label], linewidth=1.5)
                    axis.plot(100 * e["effect"], at, "o", color=colours[label], markerfacecolor=fill, markersize=5)
        axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
        axis.set(yticks=range(len(names)), ylim=(max(len(names), 1) - 0.5, -0.5))
        axis.set_yticklabels(names, fontsize=8)
        axis.set_title(title, fontsize=9, loc="left")
        axis.grid(alpha=0.3, axis="x")
    axis.set_xlabel("change of mIoU, points")
    shown = [plt.Line2D([], [], color=colour, marker="o", label=label) for label, colour in colours.items()]
    figure.legend(handles=shown, loc="outside upper right", ncols=len(shown), fontsize=8, frameon=False)
    return figure


def courses(rows: list[dict], pairs: dict[str, Sides]) -> Figure:
    """How effects go with the steps: the difference of each pair's `course`, mean and deviation over seeds.

    Of pairs of treatments that are both judged clean, as a course is.
    """
    found: dict[str, list[list[dict[str, float]]]] = {}
    for name, ((ours, one), (theirs, other)) in pairs.items():
        if (one, other) != ("clean", "clean"):
            continue
        sides = [
            {r["params"]["seed"]: r["metrics"]["course"] for r in rows if r["params"]["treatment"] == treatment}
            for treatment in (ours, theirs)
        ]
        for seed in sides[0].keys() & sides[1].keys():
            a, b = (side[seed] for side in sides)
            some = [{"step": int(step), "effect": 100 * (a[step] - b[step])} for step in a if step in b]
            found.setdefault(name, []).append(some)
    figure, axis = plt.subplots(figsize=(8.6, 3.4), layout="constrained")
    plots.curves(axis, found, "effect", "change of mIoU, points")
    axis.axhline(0, color="black", linewidth=0.8, linestyle=":")
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def learned(rows: list[dict], place: dict[str, float]) -> Figure:
    """How a main model comes to name streets and to tell anomalies: mIoU, AUROC and AUPR over steps, mean over seeds.

    Args:
        rows: of `Watched.course`; those of `tables.whole_courses` are drawn.
        place: measures of a map that does not look at the image, whose `auroc_pooled` and `aupr_pooled` are lines.
    """
    courses = [row["metrics"] for row in tables.whole_courses(rows)]
    runs = [[{"step": int(step), **m} for step, m in course.items()] for course in courses]
    figure, axes = plt.subplots(1, 3, figsize=(9.4, 3), layout="constrained")
    names = [key.removeprefix("auroc ") for key in runs[0][0] if key.startswith("auroc ")]
    panels = {"mIoU": {s: s for s in runs[0][0] if s != "step" and not s.startswith(("auroc ", "aupr "))}}
    panels |= {key: {name: f"{key.lower()} {name}" for name in names} for key in ("AUROC", "AUPR")}
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        known = {
            name: [[{"step": r["step"], "value": r[key]} for r in run] for run in runs] for name, key in lines.items()
        }
        plots.curves(axis, known, "value", title)
        if f"{title.lower()}_pooled" in place:
            axis.axhline(place[f"{title.lower()}_pooled"], color="black", linestyle=":", linewidth=1, label="place")
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=8)
    return figure


def alarmed(frames: Sequence[Frame], scores: Sequence[Tensor], seen: Alarms, i: int) -> Figure:
    """Frame, prediction, score and alarms of the frames that are `cases` of threshold `i`, a row each.

    The score is black where half of these pixels lie and white at the threshold; alarms are components large enough to
    count, and the anomaly of the ground truth is outlined.

    Args:
        frames: in the order of the cases; scores: `[H, W]` of each.
    """
    if not frames:
        figure = plt.figure(figsize=(6, 1))
        figure.text(0.5, 0.5, "no threshold is within the budget", ha="center")
        return figure
    threshold = seen.at[i]
    truth, images = [frame.label.cpu() for frame in frames], [plots.rgb(frame.image) for frame in frames]
    low, shown = float(torch.stack(list(scores)).median()), []
    for image, score, label in zip(images, scores, truth, strict=True):
        flagged = alarms.raised(score, label, threshold)[..., None]
        shown.append(np.where(flagged, RED, 0.4 + 0.6 * image.mean(-1, keepdims=True)))
    columns = {
        "frame": images,
        "prediction": [paint(frame.logits.argmax(1)[0].cpu()) for frame in frames],
        "anomaly score": [((score - low) / (threshold - low)).clamp(0, 1).numpy() for score in scores],
        "alarms": shown,
    }
    figure = panels(columns, list(seen.cases(i)), outlined := torch.stack(truth) == ANOMALY)
    for axis, anomaly in zip(figure.axes[3::4], outlined, strict=True):
        axis.contour(anomaly, [0.5], colors=[COLOURS[ANOMALY]], linewidths=0.8)
    return figure


def curves(found: dict[str, Curve]) -> Figure:
    """Precision over recall and the ROC curve of pooled pixels, of each score."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.6), layout="constrained")
    for colour, (name, curve) in zip(plots.SLOTS, found.items(), strict=False):
        hits, alarm = np.cumsum(curve.anomalies), np.cumsum(curve.others)
        some = np.unique(np.linspace(0, len(hits) - 1, 4000).astype(int))
        axes[0].plot(hits[some] / hits[-1], (hits / (hits + alarm))[some], color=colour, label=name)
        axes[1].plot(alarm[some] / alarm[-1], hits[some] / hits[-1], color=colour)
    axes[0].axhline(hits[-1] / (hits[-1] + alarm[-1]), color="black", linestyle=":", linewidth=1, label="chance")
    axes[1].plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
    axes[0].set(xlabel="recall, pixels", ylabel="precision, pixels")
    axes[1].set(xlabel="false-positive rate, pixels", ylabel="recall, pixels")
    axes[0].legend(fontsize=8)
    return figure


def orders(found: dict[str, dict[str, dict[str, dict[str, float]]]]) -> Figure:
    """AUROC of each score (rows, in the order of the first set) on each set (columns), 95 % over images.

    Args:
        found: by set and score, measures with their mean over seeds; names that begin with "place" are lines.
    """
    first = next(iter(found.values()))
    mean = lambda measures, end="": measures[f"auroc_pooled{end}"]["mean"]  # noqa: E731
    names = sorted((n for n in first if not n.startswith("place")), key=lambda n: mean(first[n]))
    layout = {"layout": "constrained", "sharey": True}
    figure, axes = plt.subplots(1, len(found), figsize=(9.6, 0.19 * len(names) + 1.2), squeeze=False, **layout)
    for axis, (title, scores) in zip(axes[0], found.items(), strict=True):
        low, high = ([mean(scores[n], end) for n in names] for end in ("_low", "_high"))
        axis.hlines(range(len(names)), low, high, color="#88CCEE", linewidth=2)
        axis.plot([mean(scores[n]) for n in names], range(len(names)), "o", color="#332288", markersize=4)
        for name, style in (("place_train", ":"), ("place_other_town", "--")):
            axis.axvline(mean(scores[name]), color="#CC6677", linestyle=style, label=name)
        axis.set(yticks=range(len(names)), xlabel="AUROC, pixels")
        axis.set_yticklabels(names, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def stretched(scores: Tensor, curve: Curve) -> Tensor:
    """Scores `[N, H, W]` in 0..1, from the 1st to the 99.5th percentile of all pixels of a split, by their curve."""
    above = np.cumsum(curve.anomalies + curve.others)
    low, high = (curve.thresholds[np.searchsorted(above, share * above[-1])] for share in (0.99, 0.005))
    return ((scores - low) / max(high - low, np.float32(1e-12))).clamp(0, 1)


def thresholds(seen: dict[str, tuple[OperatingPoints, OperatingPoints]]) -> Figure:
    """Precision, recall, anomalies found and false alarms of each score, (validation, test), by share flagged."""
    figure, axes = plt.subplots(1, len(seen), figsize=(4.4 * len(seen), 3.6), layout="constrained", squeeze=False)
    for axis, (name, (before, after)) in zip(axes[0], seen.items(), strict=True):
        x = 100 * alarms.RATES[: len(before.false_alarms)]
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
