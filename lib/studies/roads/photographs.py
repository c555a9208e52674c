"""What photographs say of the road study's conclusions: runs, tables and the command that measures them.

`python -m lib.studies.roads.photographs DIR --out runs/photographs` measures; DIR holds camvid, road_anomaly,
road_obstacle_21 and fishyscapes_static, none of which ships. It goes on where it was stopped, and two that run at once
share the work. Introduced in notebooks/streethazards.ipynb.
"""

import argparse
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from lib import ROOT, results, sweeps
from lib.anomaly import PLACES, SCORES
from lib.data.road_anomaly import RoadAnomaly
from lib.files import DataError, unpacked
from lib.metrics import anomaly as measures
from lib.metrics import intervals
from lib.studies.roads import tables
from lib.studies.roads.camvid import KEYS, SETS, TREATMENTS, PhotographStudy, Treatments
from lib.studies.roads.pretrained import FEATURES, WEIGHTS, Pretrained, named

NAME, STANDIN = "road_photographs", "streethazards"
CONTROLS = (*PLACES, "max_logit")
#: Scores in tables; all are in the results and in the figure.
COMPARED = ("max_logit", "max_logit + place", "vim", "heat, no spatial", "heat_original", "mahalanobis", "knn")
COMPARED += (*(f"{name}, ImageNet" for name in FEATURES), "mahalanobis, random")
ABOUT = ("seed", "steps", "lr")
_PAIRS = {
    "scale": ("scale", "none", "clean"),
    "all": ("all", "none", "clean"),
    "labels not flipped with the image": ("image_only_flip", "flip", "clean"),
    "degenerate instead of true multi-scale": ("degenerate", "scale", "clean"),
    "degenerate instead of no scaling": ("degenerate", "none", "clean"),
    "deeper": ("fpn_lite2", "fpn_lite0", "clean"),
    "four times the pixels": ("large window", "small window", "squash_back"),
}
EFFECTS = tables.sides(_PAIRS) | dict(list(tables.HEADLINE.items())[:4])
EFFECTS["judged on squashed frames"] = (("all", "squash"), ("all", "clean"))
#: The original's findings that differences can show, and whether it says that something is better, or no better. That
#: CNNs beat transformers, its second, is not asked: no transformer's weights are packaged.
FINDINGS = {
    "1. its multi-scale crop lifts mIoU": ("effect degenerate instead of no scaling", True),
    "3. deeper is not better": ("effect deeper", False),
    "4. more resolution does not help": ("effect four times the pixels", False),
    "5. HEAT has more AUPR than maximum logit": ("paired {}aupr_pooled heat_original - max_logit", True),
}
NO_BETTER = 0.01  # mIoU: "no better" holds where the interval ends below this
#: What is measured where nothing else is asked for.
PLAN: dict[str, Any] = {"seeds": (0, 1, 2), "steps": 2400, "short": 120, "network": "fpn_lite0"}
PLAN |= {"size": (360, 480), "crop": (240, 320), "window": (128, 128)}


def of_set(rows: list[dict], name: str) -> list[dict]:
    """Rows of `PhotographStudy.judged` as those of `AnomalyStudy.measure`, of one set."""
    return [row | {"metrics": row["metrics"]["sets"][name]} for row in rows]


def runs_of(row: dict) -> list[dict]:
    """A row of `PhotographStudy.judged` as runs: "main", and "set score" for each score of each set."""
    seed, m = row["params"]["seed"], row["metrics"]
    means = {f"{split}_miou": v for split, v in m["miou"].items()} | {f"iou {name}": v for name, v in m["iou"].items()}
    means |= dict(zip(("test_miou_low", "test_miou_high"), _ends(m["draws"]), strict=True))
    runs = [{"config": "main", "seed": seed, "metrics": means}]
    for where, (name, score) in ((w, s) for w, found in m["sets"].items() for s in found["scores"].items()):
        numbers = {k: v for k, v in score.items() if isinstance(v, float)}
        for key in KEYS:
            numbers |= dict(zip((f"{key}_low", f"{key}_high"), score["intervals"][key], strict=True))
        runs.append({"config": f"{where} {name}", "seed": seed, "metrics": numbers})
    return runs


def agreement(ours: Sequence[float], theirs: Any, draws: Any) -> dict[str, float]:
    """Kendall's tau-b between two orders, and its 95 % interval under seeds and images of `theirs` drawn anew.

    `ours` is taken as it is. Noise only disorders, so draws lie rather below the value. NaN where all of an order are
    equal.

    Args:
        ours: a value each, `[n]`.
        theirs: by seed, `[seeds, n]`; draws: of images, the same for all, `[seeds, n, draws]`.

    Returns:
        `tau` of the means over seeds, `low`, `high`; `worst_seed` and `best_seed`, of each alone; `of`, n.
    """
    theirs, draws = np.asarray(theirs, float), np.asarray(draws, float)
    picks = np.random.default_rng(0).integers(len(theirs), size=(draws.shape[-1], len(theirs)))
    tau = lambda values: float(kendalltau(ours, values).statistic)  # noqa: E731
    low, high = intervals.percentiles([tau(draws[pick, :, i].mean(0)) for i, pick in enumerate(picks)])
    alone = [tau(values) for values in theirs]
    found = {"tau": tau(theirs.mean(0)), "low": float(low), "high": float(high)}
    return found | {"worst_seed": min(alone), "best_seed": max(alone), "of": len(ours)}


def orders(standin: dict[str, Any]) -> pd.DataFrame:
    """Whether scores of trained models have the order that they have on the stand-in: `agreement`, a row a set and key.

    Of the rows that were measured last; empty without any.

    Args:
        standin: the summary of figures/results/streethazards.json; of the set whose region of interest is the road its
            values inside its own region are taken.
    """
    paths = [root / "figures" / "results" / f"sweep_{NAME}.json" for root in (results.out(), ROOT)]
    path = next((path for path in paths if path.exists()), None)
    rows = json.loads(path.read_text())["rows"] if path else []
    names, found = [n for n in SCORES if n not in PLACES], {}
    for name, key in itertools.product(SETS, KEYS) if rows else ():
        seeds = [r["metrics"]["scores"] for r in of_set(rows, name)]
        draws = [[unpacked(s[n]["draws"][key]) for n in names] for s in seeds]
        there = key.replace("pooled", "region") if name == "road_obstacle_21" else key
        here = [standin[f"score {n}"][there]["mean"] for n in names]
        found[f"scores by {key}, {name}"] = agreement(here, [[s[n][key] for n in names] for s in seeds], draws)
    return pd.DataFrame(found).T


def transfer(treated: list[dict], standin: dict[str, Any]) -> dict[str, dict]:
    """Whether treatments have the order that they have on the stand-in: `agreement`.

    Args:
        treated: of `Treatments.treated`, none leaves them out.
        standin: as of `orders`, whose values are taken as they are.
    """
    sides = {t: tables.values(treated, t, "clean") for t in TREATMENTS}
    sides = {t: side for t, side in sides.items() if side[0]}
    if not sides:
        return {}
    seeds = set.intersection(*(set(side[0]) for side in sides.values()))
    values, draws = ([[side[i][seed] for side in sides.values()] for seed in sorted(seeds)] for i in (0, 1))
    return {"treatments by mIoU": agreement([standin[t]["clean"]["mean"] for t in sides], values, draws)}


def measure(
    root: Path,
    seeds: Sequence[int],
    steps: int,
    short: int,
    network: str,
    size: tuple[int, int],
    crop: tuple[int, int],
    window: tuple[int, int],
    only: str = "",
) -> None:
    """Measure what is not yet there, and write figures/results/road_photographs.json once all of it is.

    Args:
        root: the folder of the four sets.
        seeds: one training each.
        steps, network, size, crop: of main models; (height, width) of what is judged and of training windows.
        short, window: steps and training windows of treatments, on frames of half the size. "More resolution does not
            help" is asked of whole frames resized to half and to a quarter of the size, "deeper is not better" of
            networks with treatment flip.
        only: "main" or "treatments": that part alone, and no more than its rows.

    Raises:
        DataError: a set is missing or not readable; NothingMeasured: as of `sweeps.rows`.
    """
    windows = {f"{name} window": [side // n for side in size] for name, n in (("large", 2), ("small", 4))}
    study = PhotographStudy(root / "camvid", tuple(size))
    small = Treatments(root / "camvid", tuple(windows["large window"]))
    rows, treated = [], []
    if only != "treatments":
        grid = [{"seed": s, "network": network, "lr": 3e-3, "steps": steps, "crop": list(crop)} for s in seeds]
        rows = sweeps.rows(NAME, study.judged, grid, study.full_data)
        untouched = Pretrained(study.root, study.size)
        grid = [{"network": network, "weights": weights} for weights in WEIGHTS]
        apart = sweeps.rows(f"{NAME}_pretrained", untouched.judged, grid, study.full_data)
        for row, other, name in itertools.product(rows, apart, SETS):
            of, found = (each["metrics"]["sets"][name]["scores"] for each in (row, other))
            of |= named(found, other["params"]["weights"])
    if only != "main":
        kinds = {t: {"treatment": t, "crop": list(window)} for t in TREATMENTS}
        kinds |= {n: kinds["flip"] | {"network": n} for n in ("fpn_lite0", "fpn_lite2")}
        kinds |= {n: {"treatment": "original_mended", "crop": side} for n, side in windows.items()}
        grid = [{**kind, "seed": s, "steps": short, "lr": 3e-3} for s in seeds for kind in kinds.values()]
        found = sweeps.rows(f"{NAME}_treatments", small.treated, grid, small.data)
        for name, kind in kinds.items():  # under the names of EFFECTS
            some = [row for row in found if kind == {k: v for k, v in row["params"].items() if k not in ABOUT}]
            treated += [row | {"params": row["params"] | {"treatment": name}} for row in some]
    if only:
        return
    effects = tables.effects(treated, EFFECTS, images=len(small.split("test")))
    runs = tables.runs_of(treated) + [run for row in rows for run in runs_of(row)]
    for run in runs[: len(treated)]:  # of short trainings the classes say little
        run["metrics"] = {k: v for k, v in run["metrics"].items() if not k.startswith("iou ")}
    runs += tables.effect_runs(effects)
    for name, key in itertools.product(SETS, KEYS):
        found = tables.paired(of_set(rows, name), key, len(RoadAnomaly(root / name)), CONTROLS)
        found = found[~found.index.str.contains(", random")].drop(columns=["p", "g", "seeds"])
        runs += intervals.as_runs(f"paired {name} {key}", found)
    for name, found in transfer(treated, _summary(ROOT, STANDIN)).items():
        runs.append({"config": f"transfer {name}", "seed": 0, "metrics": found})
    data = {"name": "photographs that do not ship: CamVid, and three sets with anomalies", "split": "test, and all"}
    data |= {"fingerprint": study.full_data(network=network)}
    params = {"seeds": seeds, "steps": steps, "short": short, "network": network, "size": size, "crop": crop}
    results.write(NAME, runs, params=params | {"window": window}, data=data, headline=("main", "test_miou"))


def scores() -> dict[str, dict[str, dict]]:
    """Of the stand-in, and of each set if anything is measured, measures of each score, with mean and deviation."""
    ours, found = _summary(ROOT, STANDIN), _summary(results.out(), NAME) or _summary(ROOT, NAME)
    sides = {"stand-in": (ours, "score")} | {s.replace("_", " "): (found, s) for s in SETS if found}
    names = [*SCORES, *(f"{n}, {weights}" for weights in WEIGHTS for n in FEATURES)]
    names = [name for name in names if all(f"{prefix} {name}" in known for known, prefix in sides.values())]
    return {of: {n: known[f"{prefix} {n}"] for n in names} for of, (known, prefix) in sides.items()}


def shown(folder: str = "") -> dict[str, pd.DataFrame]:
    """Tables by their titles: what photographs gave, and what the stand-in gave; measured first if a folder is named.

    One printed line says where the numbers come from, or what is missing.
    """
    try:
        if folder:
            measure(ROOT / folder, **PLAN)
    except DataError as error:
        print(f"photographs: {error}")
        folder = ""
    ours, found = _summary(ROOT, STANDIN), _summary(results.out(), NAME) or _summary(ROOT, NAME)
    if not found:
        print("photographs: nothing is measured yet; photos_root must name their folder, see data/README.md")
        return {}
    print(f"photographs: measured {f'on {folder}' if folder else 'before, on sets that do not ship (photos_root)'}")
    columns = [*measures.NAMES, "siou", "ppv", "f1"]
    shown = {"CamVid, mIoU": results.table({"main": found["main"]})}
    for name, of in scores().items():
        some = {n: of[n] for n in (*PLACES, *COMPARED) if n in of}
        shown[f"{name}: scores"] = results.table(some).reindex(columns=columns).fillna("-")
    for name, summary in {"the stand-in": ours, "CamVid": found}.items():
        shown[f"{name}: effects on mIoU"] = _read(summary, [f"effect {n}" for n in EFFECTS])
    for name in SETS:
        table = pd.DataFrame(index=[n for n in COMPARED if n not in CONTROLS and "random" not in n])
        for key, control in itertools.product(KEYS, CONTROLS):
            pairs = _read(found, [f"paired {name} {key} {n} - {control}" for n in table.index])
            table[f"{key} - {control}"] = pairs["difference (95 %)"].to_numpy() if len(pairs) == len(table) else "-"
        shown[f"{name}: minus controls"] = table
    order = {key: value["mean"] for key, value in found.get("transfer treatments by mIoU", {}).items()}
    shown["treatments in the stand-in's order, Kendall's tau"] = pd.DataFrame({"by mIoU": order}).T.round(2)
    return shown | {"findings of the original": findings(ours, found)}


def findings(ours: dict[str, Any], theirs: dict[str, Any]) -> pd.DataFrame:
    """What the stand-in and photographs say of `FINDINGS`.

    That something is better holds where the interval of the difference is above zero, and does not where it is below;
    that it is no better does not hold where it is above zero, and holds where it ends below `NO_BETTER`. "not shown"
    otherwise; "no interval" of one seed, "not measured" of none.

    Args:
        ours, theirs: of figures/results/streethazards.json and road_photographs.json, by configuration and measure.
    """
    rows = {}
    for finding, (name, better) in FINDINGS.items():
        sets = [*SETS] if "{}" in name else ["CamVid"]
        sides = {"stand-in": (ours, name.format(""))} | {s: (theirs, name.format(f"{s} ")) for s in sets}
        for where, (summary, key) in sides.items():
            e = {k: v["mean"] for k, v in summary.get(key, {}).items() if v["n"]}
            if not e.keys() >= {"low", "high"}:
                verdict = "no interval" if e else "not measured"
            elif better:
                verdict = "holds" if e["low"] > 0 else "does not hold" if e["high"] < 0 else "not shown"
            else:
                verdict = "does not hold" if e["low"] > 0 else "holds" if e["high"] < NO_BETTER else "not shown"
            text = _read(summary, [key])["difference (95 %)"].get(key, "-") if key in summary else "-"
            rows[finding, where] = {"difference (95 %)": text, "verdict": verdict}
    return pd.DataFrame(rows).T


def _ends(draws: str) -> list[float]:
    return intervals.percentiles(unpacked(draws)).tolist()


def _read(summary: dict[str, Any], names: Sequence[str]) -> pd.DataFrame:
    rows = {n: {k: v["mean"] for k, v in summary[n].items()} for n in names if n in summary}
    return intervals.readable(pd.DataFrame(rows, dtype=float).T)


def _summary(folder: Path, name: str) -> dict[str, Any]:
    """Mean, deviation and number by configuration and measure; NaN again where JSON, which has none, keeps null."""
    path = folder / "figures" / "results" / f"{name}.json"
    summary = json.loads(path.read_text())["summary"] if path.exists() else {}
    known = {"mean": float("nan"), "sd": float("nan")}
    return {
        config: {name: known | {k: v for k, v in value.items() if v is not None} for name, value in metrics.items()}
        for config, metrics in summary.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds camvid, road_anomaly, road_obstacle_21 and fishyscapes_static")
    parser.add_argument("--out", default="runs/photographs")
    parser.add_argument("--only", choices=("main", "treatments"), default="")
    parser.add_argument("--steps", type=int, default=PLAN["steps"], help="of main models")
    parser.add_argument("--short", type=int, default=PLAN["short"], help="steps of treatments")
    parser.add_argument("--seeds", type=int, nargs="+", default=PLAN["seeds"])
    given = vars(parser.parse_args())
    os.environ["SLOTS_OUT"] = given.pop("out")
    try:
        measure(given.pop("folder"), **PLAN | given)
    except DataError as error:
        raise SystemExit(str(error)) from None
