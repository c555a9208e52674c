"""The original study's road experiments against clean ones: which pairs are compared, and rows as runs and tables.

Introduced in notebooks/streethazards.ipynb.
"""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib import sweeps
from lib.metrics.anomaly import KEYS
from lib.metrics.intervals import difference, holm
from lib.studies.roads.alarms import Hazards
from lib.studies.roads.experiment import Trials

#: A treatment of `roads.TREATMENTS` and how it is measured, against another: what each fault of the original does.
FAULTS = {
    "labels not flipped with the image": (("image_only_flip", "clean"), ("flip", "clean")),
    "degenerate instead of true multi-scale": (("degenerate", "clean"), ("scale", "clean")),
    "degenerate instead of no scaling": (("degenerate", "clean"), ("none", "clean")),
    "judged on squashed frames": (("all", "squash"), ("all", "clean")),
    "judged on an augmented validation set": (("all", "own"), ("all", "clean")),
    "mean over batches of four": (("all", "clean_batch4"), ("all", "clean")),
}
#: The original's headline, its augmented run against its baseline, as it measured it, in two parts; the same models
#: judged clean, because squashed frames favour those that were trained on squashed frames.
HEADLINE = {
    "its augmented run - its baseline, its way": (
        ("original_augmented", "squash_batch4"),
        ("original_baseline", "squash_batch4"),
    ),
    "of that, labels mended": (("original_mended", "squash_batch4"), ("original_baseline", "squash_batch4")),
    "of that, windows, colour and blur": (
        ("original_augmented", "squash_batch4"),
        ("original_mended", "squash_batch4"),
    ),
    "the same, judged clean": (("original_augmented", "clean"), ("original_baseline", "clean")),
    "of that, labels mended, clean": (("original_mended", "clean"), ("original_baseline", "clean")),
    "of that, windows, colour and blur, clean": (("original_augmented", "clean"), ("original_mended", "clean")),
}

#: Columns of the table of scores: three protocols, and how sure the pooled ones are.
PROTOCOLS = [f"{key}_{kind}" for kind in ("pooled", "per_image", "zagreb") for key in KEYS]
PROTOCOLS += ["auroc_pooled_low", "auroc_pooled_high", "aupr_pooled_low", "aupr_pooled_high", "kinds_above_chance"]


def sweep(
    fn: Callable[..., dict[str, Any]], trials: Trials | Hazards, grid: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """`sweeps.rows` of streethazards; those of whole models have a file of their own."""
    name = "streethazards" if fn.__name__ == "trial" else f"streethazards_{fn.__name__}"
    return sweeps.rows(name, fn, grid, trials.data)


def values(rows: list[dict], treatment: str, view: str) -> tuple[dict[int, float], dict[int, np.ndarray]]:
    """Value and resampled values of a treatment by seed; `view` as in `roads.Trials.trial`."""
    mine = {r["params"]["seed"]: r["metrics"] for r in rows if r["params"]["treatment"] == treatment and r["metrics"]}
    name, batch = (view.removesuffix("_batch4"), "batch_draws") if view.endswith("_batch4") else (view, "draws")
    return {s: m[view] for s, m in mine.items()}, {s: np.fromstring(m[batch][name], sep=" ") for s, m in mine.items()}


def effects(
    rows: list[dict], pairs: dict[str, tuple[tuple[str, str], tuple[str, str]]], images: float = np.inf
) -> dict[str, dict[str, float]]:
    """`intervals.difference` of every pair that has a seed in common, and `holm`, p corrected for so many pairs.

    Args:
        images: how many the draws in each row were drawn from.
    """
    found = {}
    for name, sides in pairs.items():
        (ours, our_draws), (theirs, their_draws) = (values(rows, *side) for side in sides)
        if ours.keys() & theirs.keys():
            one = difference(ours, theirs, draws=(our_draws, their_draws), units=images)
            found[name] = {"effect": one.pop("difference")} | one
    return {n: e | {"holm": p} for (n, e), p in zip(found.items(), holm([e["p"] for e in found.values()]), strict=True)}


def against_none(treatments: list[str]) -> dict[str, tuple[tuple[str, str], tuple[str, str]]]:
    """The pairs of each treatment and `none`, both measured cleanly."""
    return {t: ((t, "clean"), ("none", "clean")) for t in treatments if t != "none"}


def runs_of(rows: list[dict], config: str = "{treatment}") -> list[dict[str, Any]]:
    """Rows of `roads.Trials.trial` as runs for `results.write`; `config` is filled from the parameters."""
    runs = []
    for row in rows:
        m = row["metrics"]
        metrics = {k: v for k, v in m.items() if isinstance(v, float | int)} | {"gap": m["train"] - m["clean"]}
        metrics |= {f"iou {name}": value for name, value in m["iou"].items()}
        runs.append({"config": config.format(**row["params"]), "seed": row["params"]["seed"], "metrics": metrics})
    return runs


def anomaly_runs(rows: list[dict]) -> list[dict[str, Any]]:
    """Rows of `alarms.Hazards.anomalies` as runs: `main`, and one configuration a score."""
    runs = []
    for row in rows:
        seed, m = row["params"]["seed"], row["metrics"]
        known = {
            f"{split}_{key}": value for split in ("test", "validation", "train") for key, value in m[split].items()
        }
        runs.append({"config": "main", "seed": seed, "metrics": known})
        for name, s in m["scores"].items():
            kinds = pd.Series(s["kinds"], dtype=float).dropna()  # kinds without a pixel have no AUROC
            metrics = {k: v for k, v in s.items() if isinstance(v, float | int)} | s["crossed"]
            metrics |= {"kinds_above_chance": float((kinds > 0.5).mean()), "worst_kind": float(kinds.min())}
            for key, (low, high) in s["intervals"].items():
                metrics |= {f"{key}_low": low, f"{key}_high": high}
            metrics |= {f"{k} at {b}": v for b, at in s["budgets"].items() for k, v in at.items()}
            runs.append({"config": f"score {name}", "seed": seed, "metrics": metrics})
    return runs


def effect_runs(found: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Effects as runs, one each: they are over seeds already."""
    return [{"config": f"effect {name}", "seed": 0, "metrics": dict(e)} for name, e in found.items()]


def table(found: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Effects in mIoU points, with intervals; p and p corrected by Holm are of all effects that were measured."""
    rows = pd.DataFrame(found).T
    rows[["effect", "low", "high"]] *= 100
    return rows[["effect", "low", "high", "seeds", "p", "holm"]].round(
        {"effect": 1, "low": 1, "high": 1, "p": 4, "holm": 4}
    )


def forest(axis: plt.Axes, found: dict[str, dict[str, float]], title: str) -> None:
    """Effects as points with intervals, first on top; filled where the interval leaves zero out."""
    for y, e in enumerate(found.values()):
        sure = e["low"] > 0 or e["high"] < 0
        axis.plot([100 * e["low"], 100 * e["high"]], [y, y], color="#332288", linewidth=1.5)
        axis.plot(100 * e["effect"], y, "o", color="#332288", markerfacecolor="#332288" if sure else "white")
    axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axis.set(yticks=range(len(found)), ylim=(max(len(found), 1) - 0.5, -0.5), xlabel="change of mIoU, points")
    axis.set_yticklabels(list(found), fontsize=8)
    axis.set_title(title, fontsize=9, loc="left")
    axis.grid(alpha=0.3, axis="x")
