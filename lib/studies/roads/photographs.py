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
from lib.files import DataError
from lib.metrics import anomaly as measures
from lib.metrics import intervals
from lib.studies.roads import tables
from lib.studies.roads.camvid import COMPONENTS, KEYS, SETS, TREATMENTS, PhotographStudy, Treatments

NAME, STANDIN = "road_photographs", "streethazards"
CONTROLS = (*PLACES, "max_logit")
_PAIRS = {
    "scale": ("scale", "none", "clean"),
    "all": ("all", "none", "clean"),
    "labels not flipped with the image": ("image_only_flip", "flip", "clean"),
    "degenerate instead of true multi-scale": ("degenerate", "scale", "clean"),
    "degenerate instead of no scaling": ("degenerate", "none", "clean"),
    "its augmented run - its baseline, its way": ("original_augmented", "original_baseline", "squash_batch4"),
    "of that, labels mended": ("original_mended", "original_baseline", "squash_batch4"),
    "of that, windows, colour and blur": ("original_augmented", "original_mended", "squash_batch4"),
    "the same, judged clean": ("original_augmented", "original_baseline", "clean"),
    "four times the pixels": ("large window", "small window", "squash_back"),
}
EFFECTS: dict[str, tables.Sides] = {name: ((a, how), (b, how)) for name, (a, b, how) in _PAIRS.items()}
EFFECTS["judged on squashed frames"] = (("all", "squash"), ("all", "clean"))
#: What is measured where nothing else is asked for.
PLAN: dict[str, Any] = {"seeds": (0, 1, 2), "steps": 1200, "short": 300, "networks": ("fpn_lite0", "fpn_lite2")}
PLAN |= {"size": (360, 480), "crop": (240, 320), "window": (128, 128)}


def of_set(rows: list[dict], name: str, network: str) -> list[dict]:
    """Rows of `PhotographStudy.judged` of one network as those of `AnomalyStudy.measure`, of one set."""
    return [r | {"metrics": r["metrics"]["sets"][name]} for r in rows if r["params"]["network"] == network]


def of_test(rows: list[dict], network: str) -> tuple[dict[int, float], dict[int, np.ndarray]]:
    """mIoU on CamVid's test split, and under images drawn anew, of one network by seed."""
    some = {r["params"]["seed"]: r["metrics"] for r in rows if r["params"]["network"] == network}
    return (
        {seed: m["miou"]["test"] for seed, m in some.items()},
        {seed: np.fromstring(m["draws"], sep=" ") for seed, m in some.items()},
    )


def runs_of(row: dict) -> list[dict]:
    """A row of `PhotographStudy.judged` as runs: the network, and "network set score" for each score."""
    seed, network, m = row["params"]["seed"], row["params"]["network"], row["metrics"]
    means = {f"{split}_miou": v for split, v in m["miou"].items()} | {f"iou {name}": v for name, v in m["iou"].items()}
    runs = [{"config": network, "seed": seed, "metrics": means}]
    for where, (name, score) in ((w, s) for w, found in m["sets"].items() for s in found["scores"].items()):
        numbers = {k: v for k, v in score.items() if isinstance(v, float)}
        for key, (low, high) in score["intervals"].items():
            numbers |= {f"{key}_low": low, f"{key}_high": high}
        runs.append({"config": f"{network} {where} {name}", "seed": seed, "metrics": numbers})
    return runs


def agreement(ours: Sequence[float], theirs: Sequence[float], draws: Sequence[Sequence[float]]) -> dict[str, float]:
    """Kendall's tau-b between two orders, and its 95 % interval under `theirs` of images drawn anew, `[draws, n]`.

    Noise only disorders, so draws lie rather below the value.
    """
    low, high = intervals.percentiles([kendalltau(ours, draw).statistic for draw in draws])
    return {"tau": float(kendalltau(ours, theirs).statistic), "low": float(low), "high": float(high), "of": len(ours)}


def transfer(rows: list[dict], treated: list[dict], standin: dict[str, Any], network: str) -> dict[str, dict]:
    """Whether scores, and treatments, have the order that they have on the stand-in: `agreement` of each.

    Args:
        standin: the summary of figures/results/streethazards.json, whose values are taken as they are.
    """
    names, found = [n for n in SCORES if n not in PLACES], {}
    for name in SETS:
        for key in KEYS:
            seeds = [r["metrics"]["scores"] for r in of_set(rows, name, network)]
            draws = np.mean([[np.fromstring(s[n]["draws"][key], sep=" ") for n in names] for s in seeds], 0).T
            values = np.mean([[s[n][key] for n in names] for s in seeds], 0)
            here = [standin[f"score {n}"][key]["mean"] for n in names]
            found[f"scores by {key}, {name}"] = agreement(here, values, draws)
    if treated:
        sides = {t: tables.values(treated, t, "clean") for t in TREATMENTS}
        sides = {t: side for t, side in sides.items() if side[0]}
        means, draws = ([np.mean(list(side[i].values()), 0) for side in sides.values()] for i in (0, 1))
        found["treatments by mIoU"] = agreement(
            [standin[t]["clean"]["mean"] for t in sides], means, np.transpose(draws)
        )
    return found


def measure(
    root: Path,
    seeds: Sequence[int],
    steps: int,
    short: int,
    networks: Sequence[str],
    size: tuple[int, int],
    crop: tuple[int, int],
    window: tuple[int, int],
    only: str = "",
) -> None:
    """Measure what is not yet there, and write figures/results/road_photographs.json once all of it is.

    Args:
        root: the folder of the four sets.
        seeds: one training each.
        steps, networks, size, crop: of main models; the scores of the first network are compared, and sizes are
            (height, width) of what is judged and of training windows.
        short, window: steps and training windows of treatments, on frames of half the size. "More resolution does not
            help" is asked of whole frames resized to half and to a quarter of the size.
        only: "main" or "treatments": that part alone, and no more than its rows.
    """
    half, quarter = ([side // n for side in size] for n in (2, 4))
    study, small = PhotographStudy(root / "camvid", tuple(size)), Treatments(root / "camvid", tuple(half))
    rows, treated = [], []
    if only != "treatments":
        about = {"lr": 3e-3, "steps": steps, "crop": list(crop)}
        grid = [{"seed": s, "network": n, **about} for n in networks for s in seeds]
        rows = sweeps.rows(NAME, study.judged, grid, study.full_data)
    if only != "main":
        kinds = [(t, list(window)) for t in TREATMENTS] + [("original_mended", side) for side in (half, quarter)]
        grid = [{"treatment": t, "seed": s, "steps": short, "lr": 3e-3, "crop": c} for s in seeds for t, c in kinds]
        treated = sweeps.rows(f"{NAME}_treatments", small.treated, grid, small.data)
    if only:
        return
    for row in treated:
        if row["params"]["crop"] in (half, quarter):
            row["params"] |= {"treatment": f"{'large' if row['params']['crop'] == half else 'small'} window"}
    effects = tables.effects(treated, EFFECTS, images=len(small.split("test")))
    if len(networks) > 1:
        values, draws = zip(*(of_test(rows, network) for network in networks[1::-1]), strict=True)
        deeper = intervals.difference(*values, draws=draws, units=len(study.split("test")))
        effects["deeper"] = {"effect": deeper.pop("difference")} | deeper
    runs = tables.runs_of(treated) + [run for row in rows for run in runs_of(row)]
    runs += [{"config": f"effect {name}", "seed": 0, "metrics": dict(e)} for name, e in effects.items()]
    for name, key in itertools.product(SETS, KEYS):
        found = tables.paired(of_set(rows, name, networks[0]), key, len(RoadAnomaly(root / name)), CONTROLS)
        runs += intervals.as_runs(f"paired {name} {key}", found)
    for name, found in transfer(rows, treated, _summary(ROOT, STANDIN), networks[0]).items():
        runs.append({"config": f"transfer {name}", "seed": 0, "metrics": found})
    data = {"name": "photographs that do not ship: CamVid, and three sets with anomalies", "split": "test, and all"}
    data |= {"fingerprint": study.full_data(network=networks[0])}
    params = {"seeds": seeds, "steps": steps, "short": short, "networks": networks, "size": size, "crop": crop}
    results.write(NAME, runs, params=params | {"window": window}, data=data, headline=(networks[0], "test_miou"))


def shown(folder: str = "") -> dict[str, pd.DataFrame]:
    """Tables by their titles: what photographs gave, and what the stand-in gave; measured first if a folder is named.

    One printed line says where the numbers come from, or what is missing.
    """
    if folder:
        measure(ROOT / folder, **PLAN)
    ours, found = _summary(ROOT, STANDIN), _summary(results.out(), NAME) or _summary(ROOT, NAME)
    if not found:
        print("photographs: nothing is measured yet; photos_root must name their folder, see data/README.md")
        return {}
    print(f"photographs: measured {f'on {folder}' if folder else 'before, on sets that do not ship (photos_root)'}")
    network = PLAN["networks"][0]
    scores = {"the stand-in": {n: ours[f"score {n}"] for n in SCORES}}
    scores |= {name: {n: found[f"{network} {name} {n}"] for n in SCORES} for name in SETS}
    columns = [*measures.NAMES, "siou", "ppv", "f1"]
    shown = {"CamVid, mIoU": results.table({n: m for n, m in found.items() if n in PLAN["networks"]})}
    shown |= {f"{name}: scores": results.table(s).reindex(columns=columns).fillna("-") for name, s in scores.items()}
    for name, summary in {"the stand-in": ours, "CamVid": found}.items():
        shown[f"{name}: effects on mIoU"] = _read(summary, [f"effect {n}" for n in (*EFFECTS, "deeper")])
    for name in SETS:
        pairs = itertools.product(KEYS, COMPONENTS, CONTROLS)
        shown[f"{name}: against controls"] = _read(found, [f"paired {name} {k} {n} - {c}" for k, n, c in pairs])
    orders = {n: {k: v["mean"] for k, v in m.items()} for n, m in found.items() if n.startswith("transfer ")}
    return shown | {"order against the stand-in's, Kendall's tau": pd.DataFrame(orders).T.round(2)}


def _read(summary: dict[str, Any], names: Sequence[str]) -> pd.DataFrame:
    rows = {n: {k: v["mean"] for k, v in summary[n].items()} for n in names if n in summary}
    return intervals.readable(pd.DataFrame(rows, dtype=float).T)


def _summary(folder: Path, name: str) -> dict[str, Any]:
    path = folder / "figures" / "results" / f"{name}.json"
    return json.loads(path.read_text())["summary"] if path.exists() else {}


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
