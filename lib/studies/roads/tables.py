"""Rows of the road experiments as effects, runs and tables. Introduced in notebooks/streethazards.ipynb."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib.anomaly import PLACES
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


def anomaly_runs(rows: list[dict], prefix: str = "") -> list[dict[str, Any]]:
    """Rows of `AnomalyStudy.measure` as runs: `main`, and one configuration a score, each after `prefix`."""
    runs = []
    for row in rows:
        seed, m = row["params"].get("seed", 0), row["metrics"]
        known = {f"{split}_{key}": v for split in ("test", "validation", "train") for key, v in m[split].items()}
        runs.append({"config": f"{prefix}main", "seed": seed, "metrics": known})
        for name, s in m["scores"].items():
            kinds = pd.Series(s["kinds"], dtype=float).dropna()  # kinds without a pixel have no AUROC
            metrics = {k: v for k, v in s.items() if isinstance(v, float | int)} | s["crossed"]
            metrics |= {"kinds_above_chance": float((kinds > 0.5).mean()), "worst_kind": float(kinds.min())}
            for key, (low, high) in s["intervals"].items():
                metrics |= {f"{key}_low": low, f"{key}_high": high}
            metrics |= {f"{k} at {b}": v for b, at in s["budgets"].items() for k, v in at.items()}
            runs.append({"config": f"{prefix}score {name}", "seed": seed, "metrics": metrics})
    return runs


def paired(rows: list[dict], key: str, images: float = np.inf, controls: Sequence[str] = PLACES) -> pd.DataFrame:
    """`intervals.compare` of every score with each control, such as a place, in a measure of `alarms.PAIRED`.

    Paired by seed, and by frame: both sides are of the same frames drawn anew. Rows are "score - control".

    Args:
        rows: of `AnomalyStudy.measure`.
        images: how many frames were drawn from.
    """
    by_seed = {row["params"].get("seed", 0): row["metrics"]["scores"] for row in rows if row["metrics"]}
    names = [name for name in next(iter(by_seed.values())) if name not in controls]

    def side(name: str) -> tuple[dict[int, float], dict[int, np.ndarray]]:
        values = {seed: scores[name].get(key, np.nan) for seed, scores in by_seed.items()}
        return values, {s: np.fromstring(scores[name]["draws"][key], sep=" ") for s, scores in by_seed.items()}

    found = {}
    for name in names:
        for control in controls:
            (ours, our_draws), (theirs, their_draws) = side(name), side(control)
            found[f"{name} - {control}"] = difference(ours, theirs, draws=(our_draws, their_draws), units=images)
    table = pd.DataFrame(found).T
    return table.assign(holm=holm(table["p"]))


def detecting(*compared: pd.DataFrame) -> list[str]:
    """Scores that beat every place: tables of `paired` in which the intervals of all their rows are above zero."""
    low = pd.concat([table["low"] for table in compared])
    worst = low.groupby(low.index.str.rpartition(" - ").get_level_values(0), sort=False).min()
    return list(worst.index[worst > 0])


def chosen(rows: list[dict]) -> pd.DataFrame:
    """The score that is best in one test town (means over seeds), by AUROC and by AUPR, and what it has in the others.

    No place is chosen: one of them knows the labels of the other town.
    """
    pooled = {}
    for row in rows:
        for name, score in row["metrics"]["scores"].items():
            for town, values in score["towns"].items():
                pooled.setdefault((town, name), []).append(values)
    means = pd.DataFrame({key: pd.DataFrame(values).mean() for key, values in pooled.items()}).T
    found = []
    for town in sorted({town for town, _ in means.index}):
        here = means.loc[town].drop(list(PLACES), errors="ignore")
        for key in ("auroc", "aupr"):
            best = here[key].idxmax()
            there = [means.loc[other, best] for other in {t for t, _ in means.index} - {town}]
            reported = pd.DataFrame(there, columns=["auroc", "aupr"]).mean()
            row = {"chosen in": town, "by": key, "score": best, "there": here.loc[best, key]}
            found.append(row | {f"{k} elsewhere": v for k, v in reported.items()})
    return pd.DataFrame(found)


def table(found: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Effects in mIoU points, with intervals; p and p corrected by Holm are of all effects that were measured."""
    digits = {"effect": 1, "low": 1, "high": 1, "seeds": 0, "p": 4, "holm": 4}
    rows = pd.DataFrame(found).T[list(digits)]
    rows[["effect", "low", "high"]] *= 100
    return rows.round(digits).astype({"seeds": int})


def switches(report: measures.Report) -> dict[str, float]:
    """One score by every rule that is in use; `report` of `anomaly.Evaluation` by the rule "nearest"."""
    curve, nearest = report.curve, report.values
    return {
        "AUPR, steps": measures.aupr(curve),
        "AUPR, trapezoid": measures.aupr(curve, "trapezoid"),
        "AUPR, per image": nearest["aupr_per_image"],
        "AUROC, pooled": measures.auroc(curve),
        "AUROC, per image": nearest["auroc_per_image"],
        "FPR95, first": measures.fpr(curve),
        "FPR95, nearest": measures.fpr(curve, rule="nearest"),
        "FPR95, per image, nearest": nearest["fpr95_per_image"],
    }


def ranked(aupr: np.ndarray) -> dict[str, int]:
    """Which frames have the best, the median and the worst AUPR, `[N]`, NaN without anomaly; ValueError if all are."""
    order = np.argsort(aupr)[: np.isfinite(aupr).sum()]  # NaN comes last
    if not order.size:
        raise ValueError("no frame holds both an anomaly and ordinary pixels, so none has an AUPR")
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}
