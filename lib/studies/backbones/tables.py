"""From the rows of backbone_comparison's sweeps to its runs and tables.

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

from lib.metrics import controls
from lib.metrics.intervals import compare, holm, label
from lib.studies.backbones import materials
from lib.studies.backbones.reflections import STORED
from lib.studies.objects import experiment as objects_experiment

#: What a row says of each object.
COLUMNS = ("best", "recall", *STORED)
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
    """FG-ARI and mBO of every backbone (rows) under every normalisation; input above, target below.

    The last column has "image" on both sides and is the same above and below.
    """
    size = (8, 2 * (0.3 * len(backbones) + 0.9))
    figure, axes = plt.subplots(2, 2, figsize=size, layout="constrained", sharey=True)
    for line, side in zip(axes, ("input", "target"), strict=True):
        columns = {n: f"{side} {n}" for n in norms} | {"image,\nboth": "both image"}
        for axis, (key, top) in zip(line, {"fg_ari": 0.7, "mbo": 0.4}.items(), strict=True):
            values = [
                [summary.get(f"{b}, {c}", {}).get(key, {}).get("mean", np.nan) for c in columns.values()]
                for b in backbones
            ]
            table = pd.DataFrame(values, backbones, list(columns))
            style = {"annot": True, "fmt": ".2f", "annot_kws": {"size": 7}, "cbar": False}
            sns.heatmap(table, ax=axis, cmap="cividis", vmin=0, vmax=top, **style)
            axis.set_title(f"{label(key)}, {side} normalised", fontsize=9)
            axis.tick_params(labelsize=8)
    return figure


def courses(rows: list[dict], names: Sequence[str]) -> dict[str, list[list[dict[str, float]]]]:
    """The courses of these configurations' trainings, a list a configuration, for `plots.curves`."""
    found = {name: [r["metrics"]["course"] for r in rows if name_of(r["params"]) == name] for name in names}
    keys = ("step", "loss", "fg_ari")
    return {n: [[dict(zip(keys, c, strict=True)) for c in run] for run in runs] for n, runs in found.items() if runs}


def chosen_by_loss(rows: list[dict]) -> list[dict[str, Any]]:
    """What "best checkpoint by training loss" picks: its step, its FG-ARI on validation, the last's and the best's."""
    runs = []
    for row in rows:
        step, loss, score = np.array(row["metrics"]["course"], float).T
        best = int(loss.argmin())
        metrics = {"step": step[best], "chosen": score[best], "last": score[-1], "peak": score.max()}
        config = f"chosen by loss, {name_of(row['params'])}"
        runs.append(
            {"config": config, "seed": row["params"]["seed"], "metrics": {k: float(metrics[k]) for k in metrics}}
        )
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


def more_so(tables: dict[str, materials.Tables], pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Does one backbone help metal more than rubber, compared with another? By seed and scene, as `material`.

    Args:
        tables: of `judged`; pairs: (backbone, the one it is compared with).
    """
    apart = {name: materials.gaps(table, "best") for name, table in tables.items()}
    found = compare({f"{a} - {b}": (apart[a], apart[b]) for a, b in pairs if {a, b} <= apart.keys()})
    return found.rename(columns={"difference": "effect"})[["effect", "low", "high", "p", "seeds", "holm"]]


def reversals(runs: list[dict]) -> float:
    """How often single runs order two configurations by FG-ARI against their means, of all pairs of runs."""
    table = pd.DataFrame([{"config": r["config"], "value": r["metrics"]["fg_ari"]} for r in runs])
    values = [group["value"].to_numpy() for _, group in table.groupby("config")]
    pairs = [(a, b) for a in values for b in values if a.mean() > b.mean()]
    wrong = sum((a[:, None] < b[None]).sum() for a, b in pairs)
    return float(wrong / sum(a.size * b.size for a, b in pairs)) if pairs else float("nan")


def report(summary: dict[str, dict], cost: dict[str, dict[str, float]], paired: pd.DataFrame) -> pd.DataFrame:
    """The table that the original ended with, means over seeds, and what it listed as next steps: ARI and diversity.

    Args:
        summary: of `results.summarise`; cost: of `experiment.costs`, in the table's order; paired: of `material`.
    """
    columns = {"train_loss": "train loss", "validation_loss": "validation loss", "loss": "test loss", "gap": "gap"}
    columns |= {"fg_ari": "FG-ARI", "ari": "ARI", "mbo": "mBO", "refined_fg_ari": "FG-ARI, refined"}
    columns |= {"slot_diversity": "slot diversity (cosine)", "metal": "metal IoU", "rubber": "rubber IoU"}
    rows = {}
    for name, spent in cost.items():
        if name not in summary:  # its trainings failed
            continue
        rows[name] = {label: summary[name][key]["mean"] for key, label in columns.items()}
        rows[name] |= {"metal - rubber, by scene": paired.loc[name, "effect"], "time, tokens": spent["time_tokens"]}
        rows[name] |= {"time, step": spent["time_step"], "frozen, M": spent["backbone_parameters"]}
        rows[name]["trained, M"] = summary[name]["parameters"]["mean"] / 1e6
    return pd.DataFrame(rows).T.round(3)
