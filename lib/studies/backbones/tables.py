"""From the rows of backbone_comparison's sweeps to its runs and tables.

Introduced in notebooks/backbone_comparison.ipynb.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from lib.data.movi import MATERIALS
from lib.metrics import controls
from lib.metrics.intervals import compare, holm
from lib.studies.backbones import materials
from lib.studies.backbones.reflections import STORED
from lib.studies.objects import experiment as objects_experiment

#: What a row says of each object.
COLUMNS = ("best", "recall", *STORED)
MASKS = ("fg_ari", "ari", "mbo", "miou", "mask_similarity", "active_slots")
REFINED = tuple(key for key in MASKS if key != "mask_similarity")  # slots that were joined leave masks of zeros


def pack(values: pd.Series) -> str:
    """Numbers as thousandths, NaN as "-", compressed: a table in a committed row stays small."""
    text = " ".join("-" if np.isnan(v) else str(round(1000 * v)) for v in values)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack(text: str) -> np.ndarray:
    """What `pack` wrote, `[n]`; ValueError for any other text."""
    try:
        known = zlib.decompress(base64.b64decode(text, validate=True)).decode()
    except (ValueError, zlib.error) as error:
        raise ValueError(f"no text of pack: {text!r:.60} ({error})") from error
    return np.array([np.nan if v == "-" else int(v) / 1000 for v in known.split()])


def name_of(params: dict[str, Any]) -> str:
    """A configuration's name: the backbone, and what differs from the one recipe."""
    recipe = params.get("recipe", "ours")
    return params["backbone"] + (f", {recipe}" if recipe != "ours" else "")


def judged(rows: list[dict], objects: pd.DataFrame) -> dict[str, dict[int | None, pd.DataFrame]]:
    """Of each configuration, by seed, the table of objects with what its row says of them; None: it has no seed.

    Args:
        rows: of `BackboneStudy.full`; objects: `BackboneStudy.objects`, the same objects.
    """
    found: dict[str, dict[int | None, pd.DataFrame]] = {}
    for row in rows:
        found.setdefault(name_of(row["params"]), {})[row["params"].get("seed")] = _columns(row, objects)
    return found


def runs_of(rows: list[dict], objects: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of `BackboneStudy.full` as runs for `results.write`: raw masks under their names, refined ones beside them.

    `gap` is test loss minus training loss; `metal` and `rubber` are the mean IoU of objects of mixed scenes, refined,
    `metal_alone` that of metal-only scenes, NaN where there are none; `probe` the balanced accuracy of an attribute.
    """
    runs = []
    for row in rows:
        m, table = row["metrics"], _columns(row, objects)
        metrics = m["raw"] | {f"refined_{k}": m["refined"][k] for k in REFINED}
        metrics |= {f"train_{k}": m["train"][k] for k in ("loss", "fg_ari", "mbo")}
        metrics |= {k: m[k] for k in ("validation_loss", "parameters", "threshold")}
        metrics |= {"gap": m["raw"]["loss"] - m["train"]["loss"], **_by_material(table)}
        metrics |= {"metal_alone": table.best[~table.mixed & (table.material == "metal")].mean()}
        metrics |= {f"probe {k.split()[1]}": p["balanced"] for k, p in m["probes"].items()}
        metrics = {k: float(v) for k, v in metrics.items()}
        runs.append({"config": name_of(row["params"]), "seed": row["params"]["seed"], "metrics": metrics})
    return runs


def untrained_runs(rows: list[dict], objects: pd.DataFrame, truth: Tensor) -> list[dict[str, Any]]:
    """Rows of `BackboneStudy.untrained` as runs, and "blocks", a 4 x 4 grid on truth `[n, H, W]`.

    "<backbone>, k-means" are clusters of tokens, scored; "<backbone>, tokens" are probes of tokens under true masks.
    """
    runs = []
    for row in rows:
        m, name = row["metrics"], row["params"]["backbone"]
        metrics = {k: m["raw"][k] for k in MASKS} | {f"refined_{k}": m["refined"][k] for k in REFINED}
        metrics |= _by_material(_columns(row, objects))
        probed = {f"probe {p['attribute']}": p["balanced"] for p in m["probes"].values() if p["input"] == "tokens"}
        for kind, found in (("k-means", metrics), ("tokens", probed)):
            runs.append({"config": f"{name}, {kind}", "seed": 0, "metrics": found})
    blocks = objects_experiment.scores(controls.blocks(len(truth), truth.shape[-1], 4), truth)
    return [*runs, {"config": "blocks", "seed": 0, "metrics": {k: blocks[k] for k in MASKS}}]


def _columns(row: dict, objects: pd.DataFrame) -> pd.DataFrame:
    """The objects with the columns that a row has of them."""
    return objects.assign(**{name: unpack(text) for name, text in row["metrics"]["objects"].items()})


def _by_material(table: pd.DataFrame) -> dict[str, float]:
    """Means over the objects of mixed scenes, of each of `COLUMNS` that is there: `metal`, `metal_recall`, …."""
    kept = [c for c in COLUMNS if c in table]
    means = table[table.mixed].groupby("material")[kept].mean().reindex(MATERIALS)
    return {m if c == "best" else f"{m}_{c}": float(means.loc[m, c]) for c in kept for m in MATERIALS}


def norm_runs(rows: list[dict]) -> list[dict[str, Any]]:
    """Rows of `BackboneStudy.short` as runs; what is on "dataset" is both an input and a target.

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
        metrics = {k: float(v) for k, v in metrics.items()}
        config = f"chosen by loss, {name_of(row['params'])}"
        runs.append({"config": config, "seed": row["params"]["seed"], "metrics": metrics})
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
