"""Rows of the road experiments as effects, runs and tables. Introduced in notebooks/streethazards.ipynb."""

from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from lib.data.streethazards import ANOMALY
from lib.metrics import anomaly as measures
from lib.metrics.intervals import difference, holm

Sides = tuple[tuple[str, str], tuple[str, str]]  # (treatment, view) and what it is compared with


def values(rows: list[dict], treatment: str, view: str) -> tuple[dict[int, float], dict[int, np.ndarray]]:
    """Value and resampled values of a treatment by seed; `view` as in `RoadStudy.trial`."""
    mine = {r["params"]["seed"]: r["metrics"] for r in rows if r["params"]["treatment"] == treatment and r["metrics"]}
    name, batch = (view.removesuffix("_batch4"), "batch_draws") if view.endswith("_batch4") else (view, "draws")
    return {s: m[view] for s, m in mine.items()}, {s: np.fromstring(m[batch][name], sep=" ") for s, m in mine.items()}


def effects(rows: list[dict], pairs: dict[str, Sides], images: float = np.inf) -> dict[str, dict[str, float]]:
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


def runs_of(rows: list[dict], config: str = "{treatment}") -> list[dict[str, Any]]:
    """Rows of `RoadStudy.trial` as runs for `results.write`; `config` is filled from the parameters."""
    runs = []
    for row in rows:
        m = row["metrics"]
        metrics = {k: v for k, v in m.items() if isinstance(v, float | int)} | {"gap": m["train"] - m["clean"]}
        metrics |= {f"iou {name}": value for name, value in m["iou"].items()}
        runs.append({"config": config.format(**row["params"]), "seed": row["params"]["seed"], "metrics": metrics})
    return runs


def anomaly_runs(rows: list[dict]) -> list[dict[str, Any]]:
    """Rows of `AnomalyStudy.measure` as runs: `main`, and one configuration a score."""
    runs = []
    for row in rows:
        seed, m = row["params"]["seed"], row["metrics"]
        known = {f"{split}_{key}": v for split in ("test", "validation", "train") for key, v in m[split].items()}
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


def table(found: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Effects in mIoU points, with intervals; p and p corrected by Holm are of all effects that were measured."""
    digits = {"effect": 1, "low": 1, "high": 1, "seeds": 0, "p": 4, "holm": 4}
    rows = pd.DataFrame(found).T[list(digits)]
    rows[["effect", "low", "high"]] *= 100
    return rows.round(digits).astype({"seeds": int})


def ranked(scores: Tensor, truth: Tensor) -> dict[str, int]:
    """Which frames have the best, the median and the worst AUPR, of those that hold an anomaly; ValueError without."""
    values = measures.evaluate(zip(scores, truth, strict=True), ANOMALY).images[:, 1]
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN comes last
    if not order.size:
        raise ValueError("no frame holds both an anomaly and ordinary pixels, so none has an AUPR")
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}
