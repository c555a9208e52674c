"""From the rows of backbone_comparison's sweeps to its tables and pictures.

Introduced in notebooks/backbone_comparison.ipynb.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from lib import plots
from lib.metrics import controls
from lib.metrics.intervals import against, compare, holm, label
from lib.studies.backbones import materials, pretraining, reflections
from lib.studies.objects import experiment as objects_experiment
from lib.studies.objects.collapse import intervals

#: What a row says of each object.
COLUMNS = ("best", "recall", "mirror", "lured", "entropy", "entropy_bright")
MASKS = ("fg_ari", "ari", "mbo", "miou", "mask_similarity", "active_slots")


def pack(values: pd.Series) -> str:
    """Numbers as thousandths, NaN as "-", in one line of text: a table in a committed row stays small."""
    return " ".join("-" if np.isnan(v) else str(round(1000 * v)) for v in values)


def unpack(text: str) -> np.ndarray:
    """What `pack` wrote, `[n]`."""
    return np.array([np.nan if v == "-" else int(v) / 1000 for v in text.split()])


def name_of(params: dict[str, Any]) -> str:
    """A configuration's name: the backbone, and what differs from the one recipe."""
    recipe = params.get("recipe", "ours")
    return params["backbone"] + (f", {recipe}" if recipe != "ours" else "")


def judged(rows: list[dict], objects: pd.DataFrame) -> dict[str, dict[int | None, pd.DataFrame]]:
    """Of each configuration, by seed, the table of objects with what its row says of them; None: it has no seed.

    Args:
        rows: of `Study.full`; objects: `Study.objects()`, the same objects.
    """
    found: dict[str, dict[int | None, pd.DataFrame]] = {}
    for row in rows:
        columns = {name: unpack(text) for name, text in row["metrics"]["objects"].items()}
        found.setdefault(name_of(row["params"]), {})[row["params"].get("seed")] = objects.assign(**columns)
    return found


def runs_of(rows: list[dict], objects: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of `Study.full` as runs for `results.write`: raw masks under their names, refined ones beside them.

    `gap` is test loss minus training loss; `metal` and `rubber` are the mean IoU of objects of mixed scenes, refined,
    `metal_alone` that of metal-only scenes, NaN where there are none; `probe` the balanced accuracy of an attribute.
    """
    runs, mixed = [], objects.mixed.to_numpy()
    metal = (objects.material == "metal").to_numpy()
    for row in rows:
        m, values = row["metrics"], {k: unpack(v) for k, v in row["metrics"]["objects"].items()}
        metrics = m["raw"] | {f"refined_{k}": m["refined"][k] for k in MASKS}
        metrics |= {"train_loss": m["train"]["loss"], "validation_loss": m["validation_loss"]}
        metrics |= {"gap": m["raw"]["loss"] - m["train"]["loss"], "train_fg_ari": m["train"]["fg_ari"]}
        metrics |= {"train_mbo": m["train"]["mbo"]}
        for key in COLUMNS:
            name = "" if key == "best" else f"_{key}"
            metrics |= {f"metal{name}": pd.Series(values[key][mixed & metal]).mean()}
            metrics |= {f"rubber{name}": pd.Series(values[key][mixed & ~metal]).mean()}
        metrics |= {"metal_alone": values["best"][~mixed & metal].mean() if (~mixed & metal).any() else np.nan}
        metrics |= {f"probe {k.split()[1]}": p["balanced"] for k, p in m["probes"].items()}
        metrics |= {"parameters": m["parameters"], "threshold": m["threshold"]}
        metrics = {k: float(v) for k, v in metrics.items()}
        runs.append({"config": name_of(row["params"]), "seed": row["params"]["seed"], "metrics": metrics})
    return runs


def untrained_runs(rows: list[dict], objects: pd.DataFrame, truth: Tensor) -> list[dict[str, Any]]:
    """Rows of `Study.untrained` as runs, and "blocks", a 4 x 4 grid on truth `[n, H, W]`.

    "<backbone>, k-means" are clusters of tokens, scored; "<backbone>, tokens" are probes of tokens under true masks.
    """
    runs, mixed = [], objects.mixed.to_numpy()
    for row in rows:
        m, best = row["metrics"], unpack(row["metrics"]["objects"]["best"])
        metrics = {k: m["raw"][k] for k in MASKS} | {f"refined_{k}": m["refined"][k] for k in MASKS}
        metrics |= {n: float(best[mixed & (objects.material == n).to_numpy()].mean()) for n in ("metal", "rubber")}
        probed = {f"probe {p['attribute']}": p["balanced"] for p in m["probes"].values() if p["input"] == "tokens"}
        for kind, found in (("k-means", metrics), ("tokens", probed)):
            runs.append({"config": f"{row['params']['backbone']}, {kind}", "seed": 0, "metrics": found})
    blocks = objects_experiment.scores(controls.blocks(len(truth), truth.shape[-1], 4), truth)
    return [*runs, {"config": "blocks", "seed": 0, "metrics": {k: blocks[k] for k in MASKS}}]


def norm_runs(rows: list[dict]) -> list[dict[str, Any]]:
    """Rows of `Study.short` as runs; what is on "dataset" is both an input and a target.

    And "all, <side> <normalisation>", the mean over backbones.
    """
    runs = []
    for row in rows:
        p = row["params"]
        kinds = [("input", p["input_norm"])] * (p["target_norm"] == "dataset")
        kinds += [("target", p["target_norm"])] * (p["input_norm"] == "dataset")
        for kind, norm in kinds or [("both", p["input_norm"])]:
            config = f"{p['backbone']}, {kind} {norm}"
            runs.append({"config": config, "seed": p["seed"], "metrics": row["metrics"]})
    means = pd.DataFrame([{"name": r["config"].split(", ")[1], "seed": r["seed"]} | r["metrics"] for r in runs])
    for (name, seed), row in means.groupby(["name", "seed"]).mean().iterrows():
        runs.append({"config": f"all, {name}", "seed": int(seed), "metrics": dict(row)})
    return runs


def norm_maps(summary: dict[str, dict], backbones: Sequence[str], norms: Sequence[str]) -> Figure:
    """FG-ARI, mBO and loss of every backbone (rows) under every normalisation; input above, target below.

    The last column has "image" on both sides and is the same above and below. The loss has no colour: under another
    target it is measured in other units.
    """
    size = (10.5, 2 * (0.3 * len(backbones) + 0.9))
    figure, axes = plt.subplots(2, 3, figsize=size, layout="constrained", sharey=True)
    for line, side in zip(axes, ("input", "target"), strict=True):
        for axis, (key, top) in zip(line, {"fg_ari": 0.7, "mbo": 0.4, "loss": None}.items(), strict=True):
            table = pd.DataFrame(
                {n: [_mean(summary, f"{b}, {side} {n}", key) for b in backbones] for n in norms}
                | {"image,\nboth": [_mean(summary, f"{b}, both image", key) for b in backbones]},
                backbones,
            )
            style = {"cmap": "cividis", "vmin": 0, "vmax": top} if top else {"cmap": ["#f2f2f2"]}
            style |= {"annot": True, "fmt": ".2f" if top else ".2g", "annot_kws": {"size": 7}, "cbar": False}
            sns.heatmap(table, ax=axis, **style)
            axis.set_title(f"{label(key)}, {side} normalised", fontsize=9)
            axis.tick_params(labelsize=8)
    return figure


def _mean(summary: dict[str, dict], config: str, key: str) -> float:
    return summary[config][key]["mean"] if config in summary else np.nan


#: What faults are measured by.
MEASURES = ("fg_ari", "mbo", "refined_fg_ari", "refined_mbo")


def faults(runs: list[dict], faulty: str) -> pd.DataFrame:
    """Effects of the original's faults, a row a fault and measure, shown on one backbone."""
    pairs = {
        "attention across the batch": (f"{faulty}, attention across the batch", faulty),
        "pixels not normalised": (f"{faulty}, no pixel normalisation", faulty),
        "a target that is trained along": (f"{faulty}, drifting", f"{faulty}, projected"),
        "the original's whole recipe": (f"{faulty}, original", faulty),
    }
    sides = {f"{name}, {label(k)}": ((a, k), (b, k)) for name, (a, b) in pairs.items() for k in MEASURES}
    return against(runs, sides)


def fault_effects(table: pd.DataFrame) -> Figure:
    """The rows of `faults`, a panel a measure; filled where the interval leaves zero out."""
    figure, axes = plt.subplots(1, len(MEASURES), figsize=(11.5, 2.4), layout="constrained", sharey=True, sharex=True)
    names = list(dict.fromkeys(name.split(", ")[0] for name in table.index))
    for axis, key in zip(axes, MEASURES, strict=True):
        for y, name in enumerate(names):
            if f"{name}, {label(key)}" in table.index:
                row = table.loc[f"{name}, {label(key)}"]
                sure = row["low"] > 0 or row["high"] < 0
                axis.plot([row["low"], row["high"]], [y, y], color=plots.SLOTS[0])
                axis.plot(row["difference"], y, "o", color=plots.SLOTS[0], mfc=plots.SLOTS[0] if sure else "white")
        axis.axvline(0, color="black", linewidth=0.8, linestyle=":")
        axis.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        axis.set_xlabel(f"change of {label(key)}, 95 %", fontsize=9)
        axis.grid(alpha=0.3, axis="x")
    return figure


def threshold(rows: list[dict], name: str, seed: int) -> float:
    """The threshold of `refine.merge` that was chosen for one training."""
    return next(r["metrics"]["threshold"] for r in rows if name_of(r["params"]) == name and r["params"]["seed"] == seed)


def chosen_by_loss(rows: list[dict]) -> list[dict[str, Any]]:
    """What "best checkpoint by training loss" picks: its step, its FG-ARI on validation, the last's and the best's."""
    runs = []
    for row in rows:
        course = np.array(row["metrics"]["course"], float)
        best = int(course[:, 1].argmin())
        metrics = {
            "step": course[best, 0],
            "chosen": course[best, 2],
            "last": course[-1, 2],
            "peak": course[:, 2].max(),
        }
        runs.append({"config": f"chosen by loss, {name_of(row['params'])}", "seed": row["params"]["seed"]})
        runs[-1]["metrics"] = {k: float(v) for k, v in metrics.items()}
    return runs


def material(tables: dict[str, materials.Tables], value: str = "best") -> pd.DataFrame:
    """Metal minus rubber of each configuration: `materials.paired`, p corrected for their number ("holm").

    And what the original's ranks would say.
    """
    rows = {}
    for name, seeds in tables.items():
        wrong = {seed: t.assign(material=t.mistaken) for seed, t in seeds.items()}
        rows[name] = materials.paired(seeds, value) | {"by rank": materials.paired(wrong, value)["effect"]}
    found = pd.DataFrame(rows).T
    return found.assign(holm=holm(found["p"]))


def pooled(seeds: dict[int, pd.DataFrame], values: Sequence[str] = ("best", "recall")) -> pd.DataFrame:
    """One table of objects with each value's mean over the seeds' tables."""
    first, *_ = tables = list(seeds.values())
    return first.assign(**{v: sum(t[v] for t in tables) / len(tables) for v in values if v in first})


def gallery(objects: pd.DataFrame, masks: Tensor, pictures: Tensor, truth: Tensor) -> pd.DataFrame:
    """The metal objects that slots follow what they mirror most clearly, for `material_figures.cases`.

    Args:
        objects: `Study.objects()`; masks: `[n, K, H, W]`; pictures: `[n, 3, H, W]`; truth: `[n, H, W]`.
    """
    seen = objects.merge(reflections.reflections(masks, truth, pictures), on=["image", "id"])
    clearest = reflections.clearest(seen[seen.material == "metal"])
    return clearest.merge(materials.judge(masks, truth), on=["image", "id"])


def more_so(tables: dict[str, materials.Tables], pairs: Sequence[tuple[str, str]], value: str = "best") -> pd.DataFrame:
    """Does one backbone help metal more than rubber, compared with another? By seed and scene, as `material`.

    Args:
        tables: of `judged`; pairs: (backbone, the one it is compared with).
    """
    apart = {name: materials.gaps(tables[name], value) for name in dict.fromkeys(n for pair in pairs for n in pair)}
    found = compare({f"{a} - {b}": (apart[a], apart[b]) for a, b in pairs})
    return found.rename(columns={"difference": "effect"})[["effect", "low", "high", "p", "seeds", "holm"]]


def ahead(runs: list[dict], names: Sequence[str], base: str, keys: Sequence[str] = ("fg_ari", "mbo")) -> Figure:
    """How far each configuration is ahead of another, paired by seed, with 95 % intervals."""
    figure, axes = plt.subplots(
        1, len(keys), figsize=(4.4 * len(keys), 0.3 * len(names) + 1), layout="constrained", sharey=True
    )
    compared = [(n, base) for n in names if n != base]
    for axis, key in zip(np.atleast_1d(axes), keys, strict=True):
        found = against(runs, {n: ((n, key), (base, key)) for n, _ in compared}).to_dict("records")
        far = max(abs(e[k]) for e in found for k in ("low", "high", "difference") if np.isfinite(e[k]))
        intervals(axis, compared, found, f"{label(key)} minus that of {base}, 95 %", np.ceil(10 * far) / 10)
    return figure


def reversals(runs: list[dict], key: str = "fg_ari", margin: float = 0.02) -> float:
    """How often single runs order two configurations against their means, of pairs more than `margin` apart."""
    table = pd.DataFrame([{"config": r["config"], "value": r["metrics"][key]} for r in runs])
    values = [group["value"].to_numpy() for _, group in table.groupby("config")]
    pairs = [(a, b) for a in values for b in values if a.mean() > b.mean() + margin]
    wrong = sum((a[:, None] < b[None]).sum() for a, b in pairs)
    return float(wrong / sum(a.size * b.size for a, b in pairs)) if pairs else float("nan")


def courses(rows: list[dict], faulty: str) -> Figure:
    """FG-ARI on validation scenes (solid), training loss of the last 100 steps as a share of its first (dashed)."""
    panels = {
        "a target that is trained along": [f"{faulty}, projected", f"{faulty}, drifting"],
        "the original's recipe": [faulty, f"{faulty}, original"],
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.1), layout="constrained", sharey=True)
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for colour, name in zip((plots.SLOTS[0], plots.SLOTS[3]), names, strict=True):
            found = [np.array(r["metrics"]["course"], float) for r in rows if name_of(r["params"]) == name]
            if not found:
                continue
            course = np.mean(found, 0)
            axis.plot(course[:, 0], course[:, 2], color=colour, label=name)
            axis.plot(course[:, 0], course[:, 1] / course[0, 1], color=colour, linestyle="--", linewidth=1)
        axis.set(xlabel="optimiser steps", ylim=(0, 1.25))
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=7, loc="upper right")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("FG-ARI; loss / first (dashed)")
    return figure


def seeds(runs: list[dict], names: Sequence[str], key: str = "fg_ari") -> Figure:
    """One measure of every run, a row a configuration, with its mean."""
    figure, axis = plt.subplots(figsize=(6.4, 0.33 * len(names) + 0.9), layout="constrained")
    for y, name in enumerate(names):
        values = [r["metrics"][key] for r in runs if r["config"] == name]
        axis.plot(values, [y] * len(values), "o", color=plots.SLOTS[0], alpha=0.6, markersize=5)
        axis.plot([np.mean(values)] * 2, [y - 0.3, y + 0.3], color=plots.SLOTS[3], linewidth=2)
    axis.set(yticks=range(len(names)), yticklabels=list(names), ylim=(len(names) - 0.5, -0.5))
    axis.set_xlabel(f"{label(key)} of single runs; bar: mean")
    axis.grid(alpha=0.3, axis="x")
    return figure


def pretrainings() -> Figure:
    """Loss of each committed pretraining over its steps, an axis each: the losses are not of one kind."""
    names = pretraining.OBJECTIVES
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 2.6), layout="constrained")
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        history = pretraining.train(name).history
        axis.plot([r["step"] for r in history], [r["loss"] for r in history], color=plots.SLOTS[0])
        axis.set(xlabel="optimiser steps", ylabel="loss, nats")
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
    return figure


def probe_table(rows: list[dict], untrained: list[dict], names: Sequence[str]) -> pd.DataFrame:
    """What `material_figures.probe_bars` draws: probes of slots (the first seed's) and of tokens, and of colours once.

    Args:
        rows: of `Study.full`; untrained: of `Study.untrained`.
    """
    slots = {name_of(r["params"]): r["metrics"]["probes"] for r in reversed(rows)}
    under = {r["params"]["backbone"]: r["metrics"]["probes"] for r in untrained}
    found = []
    for name in names:
        for kind, table in (("slots", slots[name]), ("tokens", under[name])):
            found += [p | {"input": f"{name}, {kind}"} for p in table.values() if p["input"] == kind]
    return pd.DataFrame(found + [p for p in under[names[0]].values() if p["input"] == "colours"])


def report(
    summary: dict[str, dict], cost: dict[str, dict[str, float]], paired: pd.DataFrame, digits: int = 3
) -> pd.DataFrame:
    """The table that the original ended with, means over seeds, and what it listed as next steps: ARI and diversity.

    Args:
        summary: of `results.summarise`; cost: of `backbone_study.costs`, in the table's order; paired: of `material`.
    """
    columns = {"train_loss": "train loss", "validation_loss": "validation loss", "loss": "test loss", "gap": "gap"}
    columns |= {"fg_ari": "FG-ARI", "ari": "ARI", "mbo": "mBO", "refined_fg_ari": "FG-ARI, refined"}
    columns |= {"slot_diversity": "slot diversity (cosine)", "metal": "metal IoU", "rubber": "rubber IoU"}
    rows = {}
    for name, spent in cost.items():
        rows[name] = {label: summary[name][key]["mean"] for key, label in columns.items()}
        rows[name] |= {"metal - rubber, by scene": paired.loc[name, "effect"], "time, tokens": spent["time_tokens"]}
        rows[name] |= {"time, step": spent["time_step"], "frozen, M": spent["backbone_parameters"]}
        rows[name]["trained, M"] = summary[name]["parameters"]["mean"] / 1e6
    return pd.DataFrame(rows).T.round(digits)
