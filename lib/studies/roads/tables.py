"""Rows of the road experiments as effects, runs and tables. Introduced in notebooks/streethazards.ipynb."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import pandas as pd

from lib import results, sweeps
from lib.anomaly import PLACES
from lib.files import unpacked
from lib.metrics import anomaly as measures
from lib.metrics import intervals
from lib.metrics.intervals import difference, holm

Sides = tuple[tuple[str, str], tuple[str, str]]  # (treatment, view) and what it is compared with


def sides(pairs: dict[str, tuple[str, str, str]]) -> dict[str, Sides]:
    """Pairs (treatment, baseline, the view of both)."""
    return {name: ((a, view), (b, view)) for name, (a, b, view) in pairs.items()}


def whole_frames(treatments: Sequence[str]) -> dict[str, Sides]:
    """What statistics of whole frames, see `Watched.precise`, add to each treatment, and treatments against the first.

    Both of those with such statistics.
    """
    first, *others = treatments
    added = {f"whole frames, {t}": ((t, "clean_precise"), (t, "clean")) for t in treatments}
    return added | sides({f"{t}, both of whole frames": (t, first, "clean_precise") for t in others})


#: The original's headline as it measured it, in two parts; then the same models judged clean: treatment, baseline, and
#: the measure of both.
_HEADLINE = {
    "its augmented run - its baseline, its way": ("original_augmented", "original_baseline", "squash_batch4"),
    "of that, labels mended": ("original_mended", "original_baseline", "squash_batch4"),
    "of that, windows, colour and blur": ("original_augmented", "original_mended", "squash_batch4"),
    "the same, judged clean": ("original_augmented", "original_baseline", "clean"),
    "of that, labels mended, clean": ("original_mended", "original_baseline", "clean"),
    "of that, windows, colour and blur, clean": ("original_augmented", "original_mended", "clean"),
}
HEADLINE = sides(_HEADLINE)
#: Each fault of the original, and its clean version.
FAULTS: dict[str, Sides] = {
    "labels not flipped with the image": (("image_only_flip", "clean"), ("flip", "clean")),
    "degenerate instead of true multi-scale": (("degenerate", "clean"), ("scale", "clean")),
    "degenerate instead of no scaling": (("degenerate", "clean"), ("none", "clean")),
    "judged on squashed frames": (("all", "squash"), ("all", "clean")),
    "judged on an augmented validation set": (("all", "own"), ("all", "clean")),
    "mean over batches of four": (("all", "clean_batch4"), ("all", "clean")),
}
#: Groups of effects that are the original's.
ORIGINAL = {"5. faults of the original": FAULTS, "5. its headline, repeated, and judged clean": HEADLINE}


def values(rows: list[dict], treatment: str, view: str) -> tuple[dict[int, float], dict[int, np.ndarray]]:
    """Value and resampled values of a treatment by seed; `view` as in `RoadStudy.trial`."""
    mine = {r["params"]["seed"]: r["metrics"] for r in rows if r["params"]["treatment"] == treatment and r["metrics"]}
    name, batch = (view.removesuffix("_batch4"), "batch_draws") if view.endswith("_batch4") else (view, "draws")
    return {s: m[view] for s, m in mine.items()}, {s: unpacked(m[batch][name]) for s, m in mine.items()}


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


def of_sizes(rows: list[dict], sizes: Sequence[Sequence[int]], view: str, images: float = np.inf) -> dict[str, float]:
    """What the last of some sizes `crop` of `RoadStudy.trial` adds to the first, as of `intervals.difference`.

    {} where there is one size, or no seed of which both are there.
    """
    named = [row | {"params": row["params"] | {"treatment": str(row["params"]["crop"])}} for row in rows]
    first, last = (str([*size]) for size in (sizes[0], sizes[-1]))
    found = effects(named, {"larger": ((last, view), (first, view))} if first != last else {}, images)
    return {k: v for k, v in found.get("larger", {}).items() if k != "holm"}  # it is the only one of its kind


def runs_of(rows: list[dict], config: str = "{treatment}") -> list[dict[str, Any]]:
    """Rows of `RoadStudy.trial` as runs for `results.write`; `config` is filled from the parameters."""
    runs = []
    for row in rows:
        m = row["metrics"]
        metrics = {k: v for k, v in m.items() if isinstance(v, float | int)} | {"gap": m["train"] - m["clean"]}
        metrics |= {f"iou {name}": value for name, value in m["iou"].items()}
        runs.append({"config": config.format(**row["params"]), "seed": row["params"]["seed"], "metrics": metrics})
    return runs


def best_rate(rows: list[dict]) -> list[dict]:
    """Of rows that differ in `lr` and seed as well, those of the rate with the best mean `clean`, each other way."""
    found: dict[str, dict[float, list[dict]]] = {}
    for row in rows:
        rest = str({k: v for k, v in sorted(row["params"].items()) if k not in ("lr", "seed")})
        found.setdefault(rest, {}).setdefault(row["params"]["lr"], []).append(row)
    mean = lambda some: np.mean([row["metrics"]["clean"] for row in some])  # noqa: E731
    return [row for rates in found.values() for row in max(rates.values(), key=mean)]


NETWORK = "{network}, pretrained {pretrained}"  # the name of a network's runs


def rates(rows: list[dict]) -> list[dict[str, Any]]:
    """`clean` of every network at every rate, as runs for `results.write`."""
    runs = runs_of(rows, f"{NETWORK}, rate {{lr:g}}")
    return [run | {"metrics": {"clean": run["metrics"]["clean"]}} for run in runs]


def networks(rows: list[dict], control: str) -> pd.DataFrame:
    """Means by network at its best rate, and `clean` at every rate; parameters in millions.

    `seconds` are relative to the control's, all at its rate: a search may be measured at other times than what it is
    added to, and a rate costs no time.
    """
    best = best_rate(rows)
    found = pd.DataFrame(results.means(runs_of(best, NETWORK))).T
    rate = next((r["params"]["lr"] for r in best if NETWORK.format(**r["params"]) == control), None)
    timed = results.means(runs_of([r for r in rows if r["params"]["lr"] == rate], NETWORK))
    found["seconds"] = pd.Series({name: m["seconds"] for name, m in timed.items()}, dtype=float)
    found["seconds"] /= found["seconds"].get(control, float("nan"))
    found["parameters"] /= 1e6
    tried = [(NETWORK.format(**r["params"]), f"at {r['params']['lr']:g}", r["metrics"]["clean"]) for r in rows]
    tried = pd.DataFrame(tried, columns=["network", "rate", "clean"]).pivot_table("clean", "network", "rate")
    found = found[["clean", "train", "gap", "parameters", "seconds", "memory_mb"]].astype(float)
    return found.join(tried).round(2)


def anomaly_runs(rows: list[dict], prefix: str = "") -> list[dict[str, Any]]:
    """Rows of `AnomalyStudy.measure` as runs: `main`, and one configuration a score, each after `prefix`.

    A score that is "seedless", see `beside`, is one run. One of labels of the other held-out towns has no budget: of
    validation it knows nothing, so no threshold is chosen there.
    """
    runs, seedless = [], set()
    for row in rows:
        seed, m = row["params"].get("seed", 0), row["metrics"]
        known = {f"{split}_{key}": v for split in ("test", "validation", "train") for key, v in m[split].items()}
        runs.append({"config": f"{prefix}main", "seed": seed, "metrics": known})
        for name, s in m["scores"].items():
            if name in seedless:
                continue
            if s.get("seedless"):
                seedless.add(name)
            kinds = pd.Series(s["kinds"], dtype=float).dropna()  # kinds without a pixel have no AUROC
            metrics = {k: v for k, v in s.items() if isinstance(v, float | int) and k != "seedless"} | s["crossed"]
            metrics |= {"kinds_above_chance": float((kinds > 0.5).mean()), "worst_kind": float(kinds.min())}
            for key, (low, high) in s["intervals"].items():
                metrics |= {f"{key}_low": low, f"{key}_high": high}
            if name == PLACES[1]:
                metrics.pop("first_found", None)
            else:
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
    by_seed = {row["params"]["seed"]: row["metrics"]["scores"] for row in rows if row["metrics"]}
    known = dict.fromkeys(name for scores in by_seed.values() for name in scores)
    names, controls = [n for n in known if n not in controls], [c for c in controls if c in known]

    def side(name: str) -> tuple[dict[int, float], dict[int, np.ndarray]]:
        mine = {seed: scores[name] for seed, scores in by_seed.items() if name in scores}  # one may have failed
        if mine and all(m.get("seedless") for m in mine.values()):
            mine = {None: next(iter(mine.values()))}
        return {s: m.get(key, np.nan) for s, m in mine.items()}, {s: unpacked(m["draws"][key]) for s, m in mine.items()}

    found = {}
    for name in names:
        for control in controls:
            (ours, our_draws), (theirs, their_draws) = side(name), side(control)
            if None not in {*ours, *theirs} and not ours.keys() & theirs.keys():
                continue
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


def chosen_runs(picked: pd.DataFrame) -> list[dict[str, Any]]:
    """A table of `chosen` as runs: "chosen in t5 by auroc"."""
    rows = [dict(row) for _, row in picked.drop(columns="score").iterrows()]
    return [{"config": f"chosen in {r.pop('chosen in')} by {r.pop('by')}", "seed": 0, "metrics": r} for r in rows]


def by_trait(traits: pd.DataFrame, values: dict[str, np.ndarray]) -> pd.DataFrame:
    """Whether frames that have more of a trait have more of a value, a row a trait and value.

    Args:
        traits: of `alarms.traits`, `[N]` rows; a trait of two values parts frames by them, any other at its median.
        values: such as the AUROC of each frame by score, `[N]`, NaN where it has none.

    Returns:
        `cut`, `above` and `up_to`: means of the frames above the cut and of the others; `difference` and its 95 %
        interval, `low` and `high`, over frames, whose side stays as they are drawn anew; `frames` that have both.
    """
    rows, one, drawn = {}, np.ones((1, len(traits))), intervals.weights(len(traits))
    for trait, found in traits.dropna(axis=1, how="all").items():
        cut = found.dropna().unique().mean() if found.nunique() == 2 else found.median()
        sides = (found > cut, found <= cut)
        for name, value in values.items():
            above, up_to = (_mean(value, side, one)[0] for side in sides)
            low, high = intervals.percentiles(np.subtract(*(_mean(value, side, drawn) for side in sides)))
            row = {"cut": cut, "above": above, "up_to": up_to, "difference": above - up_to, "low": low, "high": high}
            rows[f"{trait}, {name}"] = row | {"frames": int((found.notna() & np.isfinite(value)).sum())}
    return pd.DataFrame(rows).T


def _mean(values: np.ndarray, some: pd.Series, weights: np.ndarray) -> np.ndarray:
    """The mean of those of some frames that have a value, for each row of `weights` `[n, N]`."""
    counted = weights * (some.to_numpy() & np.isfinite(values))
    with np.errstate(invalid="ignore"):  # none is drawn, or none has a value: NaN
        return counted @ np.nan_to_num(values) / counted.sum(1)


def table(found: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Effects in mIoU points, with intervals; p and p corrected by Holm are of all effects that were measured."""
    digits = {"effect": 1, "low": 1, "high": 1, "seeds": 0, "p": 4, "holm": 4}
    rows = pd.DataFrame(found).T[list(digits)]
    rows[["effect", "low", "high"]] *= 100
    return rows.round(digits).astype({"seeds": int})


def beside(models: list[dict], untouched: list[dict], mixed: list[dict]) -> list[dict]:
    """Rows of trained models with scores of features that no street has touched: "knn, ImageNet".

    Args:
        models: of `AnomalyStudy.measure`; untouched: the same of untrained networks, by their weights, of which what
            depends on the predicted classes is left out: their decoders are random. Marked "seedless": one measurement
            beside every seed.
        mixed: of `Joined`, by seed: scores that fuse the trained model's energy with such features.
    """
    fused = {row["params"]["seed"]: row["metrics"]["scores"] for row in mixed}
    found = []
    for row in models:
        scores = row["metrics"]["scores"] | {
            f"{n}, ImageNet": s for n, s in fused.get(row["params"]["seed"], {}).items()
        }
        for other in untouched:
            weights = other["params"]["weights"]
            scores |= {f"{n}, {weights}": _untouched(s) for n, s in other["metrics"]["scores"].items()}
        found.append(row | {"metrics": row["metrics"] | {"scores": scores}})
    return found


def _untouched(score: dict[str, Any]) -> dict[str, Any]:
    """A score of `AnomalyStudy.summary` of a network without a seed whose classes say nothing."""
    kept = {key: value for key, value in score.items() if "predicted_region" not in key} | {"seedless": True}
    return kept | {"crossed": {key: value for key, value in score["crossed"].items() if key != "open_miou"}}


def statistics_runs(rows: list[dict]) -> list[dict[str, Any]]:
    """Rows of `Watched.compared` as runs: "running statistics", and "precise statistics" of whole frames."""
    sides = [(r["params"]["seed"], how, r["metrics"][how]) for r in rows for how in ("running", "precise")]
    plain = [(seed, how, {k: v for k, v in found.items() if k != "draws"}) for seed, how, found in sides]
    return [{"config": f"{how} statistics", "seed": seed, "metrics": found} for seed, how, found in plain]


def effect_runs(found: dict[str, dict[str, float]], after: str = "") -> list[dict[str, Any]]:
    """`effects` as runs: "effect flip", or with `after` "effect flip, long"."""
    return [{"config": f"effect {name}{after}", "seed": 0, "metrics": dict(e)} for name, e in found.items()]


def course_runs(rows: list[dict], kind: str = "") -> list[dict[str, Any]]:
    """Rows of `Watched.course` as runs: "after 600 steps"; without seeds that `whole_courses` leaves out.

    Args:
        kind: goes before "after", filled from the parameters.
    """
    return [
        {
            "config": f"{kind.format(**row['params'])} after {step} steps".lstrip(),
            "seed": row["params"]["seed"],
            "metrics": found,
        }
        for row in whole_courses(rows)
        for step, found in row["metrics"].items()
    ]


def whole_courses(rows: list[dict]) -> list[dict]:
    """Rows of `Watched.course` with most steps: of a model that was loaded, or went on, there are fewer."""
    most = max((len(row["metrics"]) for row in rows), default=0)
    return [row for row in rows if len(row["metrics"]) == most]


def gained(rows: list[dict], splits: Mapping[str, Sized]) -> pd.DataFrame:
    """What the batch statistics of whole frames add to running ones, as of `intervals.difference`, a row a measure.

    Args:
        rows: of `Watched.compared`; splits: that were judged, of `train` every second frame.
    """
    images = {name: len(range(0, len(split), 1 + (name == "train"))) for name, split in splits.items()}
    precise, running = ({r["params"]["seed"]: r["metrics"][how] for r in rows} for how in ("precise", "running"))
    found = {}
    for key in [key for key in next(iter(running.values())) if key != "draws"]:
        values = [{seed: m[key] for seed, m in side.items()} for side in (precise, running)]
        drawn = [
            {s: unpacked(m["draws"][key]) for s, m in side.items() if key in m["draws"]} for side in (precise, running)
        ]
        found[key] = difference(*values, draws=drawn if drawn[0] else None, units=images.get(key, np.inf))
    return pd.DataFrame(found).T


def repeats(row: dict, closed: dict[str, float], scores: dict[str, dict]) -> bool:
    """Whether a model has today, within 0.005, the numbers of its row: mIoU on the held-out split, and scores."""
    pairs = [(closed, row["test"]), *((found, row["scores"][name]) for name, found in scores.items())]
    numbers = [(a, {k: v for k, v in b.items() if isinstance(v, float)}) for a, b in pairs]
    return all(sweeps.close(a, b, 0.005) for a, b in numbers)


def last_looks(rows: list[dict], seed: int) -> pd.DataFrame:
    """What `Watched.course` found at the end, a row a network and treatment ("all", where none is said) of one seed."""
    mine = [row for row in rows if row["params"]["seed"] == seed]
    found = {f"{p['network']}, {p.get('treatment', 'all')}": m for p, m in ((r["params"], r["metrics"]) for r in mine)}
    return pd.DataFrame({name: metrics[max(metrics, key=int)] for name, metrics in found.items()}).T.round(3)


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
