"""From rows to effects and runs: the right pairs, the right way round."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib import sweeps
from lib.data.streethazards import CLASSES
from lib.files import packed
from lib.metrics import anomaly as measures
from lib.studies.roads import pretrained, tables


def row(treatment, seed, clean, squash_batch4=0.2):
    text = lambda v: packed(v + 0.001 * np.arange(5))  # noqa: E731
    values = {"clean": clean, "squash": 0.3, "own": 0.4, "clean_batch4": 0.25, "squash_batch4": squash_batch4}
    metrics = values | {
        "train": clean + 0.1,
        "iou": dict.fromkeys(CLASSES[:-1], 0.5),
        "draws": {k: text(values[k]) for k in ("clean", "squash", "own")},
        "batch_draws": {"clean": text(0.25), "squash": text(squash_batch4)},
    }
    return {"params": {"treatment": treatment, "seed": seed}, "metrics": metrics}


ROWS = [row("flip", 1, 0.42), row("flip", 0, 0.40), row("image_only_flip", 0, 0.30), row("image_only_flip", 1, 0.31)]


def test_a_fault_is_what_is_lost_against_the_clean_version():
    found = tables.effects(ROWS, tables.FAULTS)
    assert tables.effects(ROWS[::-1], tables.FAULTS) == found, "the order of rows does not matter"
    assert list(found) == ["labels not flipped with the image"], "pairs without rows are left out"
    assert found["labels not flipped with the image"]["effect"] == pytest.approx(-0.105)
    assert found["labels not flipped with the image"]["seeds"] == 2
    assert tables.table(found).loc["labels not flipped with the image", "effect"] == -10.5


def test_seeds_are_paired_by_value_and_failures_are_left_out():
    """Equal models of seeds 1 and 2; by position, 0 would meet 1, 1 meet 2, and 2 meet 3."""
    of = lambda treatment, seeds: [row(treatment, s, 0.3 + 0.1 * s) for s in seeds]  # noqa: E731
    failed = {"params": {"treatment": "flip", "seed": 0}, "metrics": {}, "error": "OutOfMemoryError"}
    rows = [*of("image_only_flip", (0, 1, 2)), *of("flip", (3, 1, 2)), failed]
    found = tables.effects(rows, tables.FAULTS)["labels not flipped with the image"]
    assert found["effect"] == found["low"] == found["high"] == 0 and found["seeds"] == 2
    assert tables.effects(rows[:1] + rows[3:], tables.FAULTS) == {}, "no seed in common"


def test_a_failed_trial_costs_no_other_its_row(monkeypatch, tmp_path):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))

    def trial(treatment: str, seed: int) -> dict:
        if treatment == "all":
            raise RuntimeError("no hub")
        return ROWS[seed]["metrics"]

    grid = [{"treatment": t, "seed": s} for t in ("flip", "all") for s in (0, 1)]
    rows = sweeps.rows("streethazards", trial, grid, "none")
    assert [run["config"] for run in tables.runs_of(rows)] == ["flip", "flip"]
    with pytest.raises(RuntimeError, match="every trial failed.*no hub"):
        sweeps.rows("streethazards", trial, grid[2:], "none")


def test_p_is_corrected_for_the_number_of_effects():
    rows = [row(t, s, 0.3 + a + 0.01 * s * b) for t, a, b in (("none", 0, 1), ("flip", 0.1, 1.5), ("blur", 0.02, 2.0),
        ("colour", 0.03, 0.5)) for s in range(3)]  # fmt: skip
    pairs = {t: ((t, "clean"), ("none", "clean")) for t in ("flip", "blur", "colour")}
    alone = tables.effects(rows, {"flip": pairs["flip"]})["flip"]
    among = tables.effects(rows, pairs)
    assert alone["holm"] == alone["p"] == among["flip"]["p"] < 0.01
    assert among["flip"]["holm"] == pytest.approx(3 * alone["p"])
    assert tables.table(among).loc["flip", "effect"] == 10.5


def test_every_pair_names_treatments_and_views_that_exist(notebook):
    for sides in [*tables.FAULTS.values(), *tables.HEADLINE.values(), *tables.whole_frames(["none", "all"]).values()]:
        for treatment, view in sides:
            assert treatment in notebook["TREATMENTS"] and view in {*row("x", 0, 0.1)["metrics"], "clean_precise"}


def test_the_headline_is_measured_the_original_way():
    rows = [row("original_augmented", s, 0.1, 0.5) for s in (0, 1)] + [
        row("original_baseline", s, 0.9, 0.37) for s in (0, 1)
    ]
    found = tables.effects(rows, tables.HEADLINE)
    assert found["its augmented run - its baseline, its way"]["effect"] == pytest.approx(0.13)


def test_the_last_size_is_compared_with_the_first():
    rows = [row("original_mended", s, 0.2 + 0.1 * i) for s in (0, 1) for i in range(3)]
    for i, each in enumerate(rows):
        each["params"]["crop"] = [[9, 16], [12, 12], [18, 32]][i % 3]
    sizes = [[9, 16], [12, 12], [18, 32]]
    assert tables.of_sizes(rows, sizes, "clean")["effect"] == pytest.approx(0.2)
    assert tables.of_sizes(rows[1:-1], sizes, "clean") == {}, "what failed is no other size"
    assert tables.of_sizes(rows, sizes[:1], "clean") == {}


def test_whole_frames_are_asked_of_each_treatment_and_between_them():
    found = tables.whole_frames(["none", "flip"])
    assert found == {
        "whole frames, none": (("none", "clean_precise"), ("none", "clean")),
        "whole frames, flip": (("flip", "clean_precise"), ("flip", "clean")),
        "flip, both of whole frames": (("flip", "clean_precise"), ("none", "clean_precise")),
    }


def test_untouched_features_stand_beside_each_model():
    models = [{"params": {"seed": s}, "metrics": {"scores": {"msp": s}, "test": s}} for s in (0, 1)]
    kept = {"auroc_region": 7, "crossed": {"siou": 7}}
    known = {"auroc_predicted_region": 7, "anomalies_in_predicted_region": 7, "crossed": {"siou": 7, "open_miou": 7}}
    features = dict.fromkeys(pretrained.FEATURES, kept | known)
    untouched = [{"params": {"weights": w}, "metrics": {"scores": features}} for w in pretrained.WEIGHTS]
    mixed = [{"params": {"seed": 1}, "metrics": {"scores": {"heat": known}}}]
    zero, one = (row["metrics"]["scores"] for row in tables.beside(models, untouched, mixed))
    assert one["heat, ImageNet"] == known and "heat, ImageNet" not in zero and one["msp"] == 1
    kept |= {"seedless": True}
    assert zero["knn, random"] == zero["knn, ImageNet"] == kept, "a random decoder predicts no region and no class"
    assert len(zero) == 9
    assert models[0]["metrics"]["scores"] == {"msp": 0}, "rows are what was measured"


def test_the_last_look_at_each_kind_of_main_model():
    row = lambda seed, last, **kind: {  # noqa: E731
        "params": {"seed": seed, "network": "n", **kind},
        "metrics": {"900": {"test": last}, "1200": {"test": last + 0.1}},
    }
    rows = [row(0, 0.1), row(1, 0.2), row(1, 0.3, treatment="flip")]
    found = tables.last_looks(rows, 1)
    assert found["test"].to_dict() == {"n, all": 0.3, "n, flip": 0.4}
    runs = tables.course_runs(rows[2:], "{network}, {treatment}")
    assert [r["config"] for r in runs] == ["n, flip after 900 steps", "n, flip after 1200 steps"]
    assert tables.course_runs([], "{network}") == []


def test_a_score_that_failed_in_one_seed_is_compared_in_the_others():
    score = lambda x: {"auroc_pooled": x, "draws": {"auroc_pooled": packed(np.full(9, x))}}  # noqa: E731
    every = {"msp": score(0.8), "place_train": score(0.6)}
    rows = [{"params": {"seed": s}, "metrics": {"scores": dict(every)}} for s in (0, 1, 2)]
    for row in rows[1:]:
        row["metrics"]["scores"]["heat"] = score(0.9)
    found = tables.paired(rows, "auroc_pooled", controls=["place_train"])
    assert found["seeds"].to_dict() == {"msp - place_train": 3, "heat - place_train": 2}
    assert found.loc["heat - place_train", "difference"] == pytest.approx(0.3, abs=1e-4)


def test_runs_of_statistics_and_courses():
    side = lambda x: {"test": x, "draws": {"test": "="}}  # noqa: E731
    found = tables.statistics_runs([{"params": {"seed": 3}, "metrics": {"running": side(0.4), "precise": side(0.5)}}])
    assert [(r["config"], r["seed"], r["metrics"]) for r in found] == [
        ("running statistics", 3, {"test": 0.4}), ("precise statistics", 3, {"test": 0.5})
    ]  # fmt: skip
    loaded = {"params": {"seed": 2}, "metrics": {"900": {"test": 0.9}}}
    rows = [loaded, {"params": {"seed": 3}, "metrics": {"600": {"test": 0.4}, "900": {"test": 0.5}}}]
    assert [(r["config"], r["seed"]) for r in tables.course_runs(rows)] == [
        ("after 600 steps", 3), ("after 900 steps", 3)
    ], "a mean over other seeds at the end would look like progress"  # fmt: skip


def test_a_model_repeats_its_row():
    row = {"test": {"miou": 0.5, "n": 3}, "scores": {"msp": {"auroc": 0.9, "kinds": {}}, "knn": {"auroc": 0.1}}}
    now = {"miou": 0.502}
    assert tables.repeats(row, now, {"msp": {"auroc": 0.898}})
    assert not tables.repeats(row, now, {"msp": {"auroc": 0.8}}) and not tables.repeats(row, {"miou": 0.6}, {})


def test_networks_are_compared_with_their_control():
    """At the rate with the best mean over seeds, not of the best single run; all its seeds are kept."""
    rows = [
        {"params": {"network": network, "pretrained": True, "lr": lr, "seed": seed},
         "metrics": dict.fromkeys(("train", "memory_mb"), 0.5)
         | {"seconds": (10.0 if network == "small" else 25.0) * (1 if lr == 0.2 else 7)}  # another day at 0.1
         | {"parameters": 3e6, "iou": {}, "clean": clean}}
        for network, lr, seed, clean in (
            ("small", 0.1, 0, 0.9), ("small", 0.1, 1, 0.1), ("small", 0.2, 0, 0.6), ("small", 0.2, 1, 0.5),
            ("large", 0.1, 0, 0.2), ("large", 0.2, 0, 0.1),
        )
    ]  # fmt: skip
    assert tables.best_rate(rows) == rows[2:5] and tables.best_rate(rows[:2]) == rows[:2]
    small, large = "small, pretrained True", "large, pretrained True"
    found = tables.networks(rows, small)
    assert found.loc[large, "seconds"] == 2.5 and found.loc[small, "parameters"] == 3
    assert found.loc[small, ["clean", "gap", "at 0.1", "at 0.2"]].tolist() == [0.55, -0.05, 0.5, 0.55]
    assert found.loc[large, "clean"] == 0.2 and np.isnan(tables.networks(rows, "none")["seconds"]).all()


def test_what_whole_frames_add_is_paired_by_seed_and_by_image():
    noise = np.linspace(-0.1, 0.1, 200)
    draws = lambda x, wide: {"test": packed(x + wide * noise)}  # noqa: E731
    side = lambda x, wide: {"test": x, "auroc msp": x / 2, "draws": draws(x, wide)}  # noqa: E731

    def found(wide, images=60):
        gains = ((0.4, 0.1), (0.5, 0.12), (0.6, 0.11))
        metrics = [{"running": side(x, 1.0), "precise": side(x + gain, wide)} for x, gain in gains]
        rows = [{"params": {"seed": s}, "metrics": m} for s, m in enumerate(metrics)]
        return tables.gained(rows, {"test": range(images)}).astype(float)

    same = found(1.0)
    assert list(same.index) == ["test", "auroc msp"]
    assert same["difference"].tolist() == pytest.approx([0.11, 0.055])
    assert 0.08 < same.loc["test", "low"] < 0.09, "images move both sides alike, so that only seeds differ"
    assert found(2.0).loc["test", "low"] < 0.02, "images that move one side more"
    assert found(2.0, 4).loc["test", "low"] < found(2.0).loc["test", "low"], "of few images"


def test_runs():
    run = tables.runs_of(ROWS, "net {treatment}")[0]
    assert run["config"] == "net flip" and run["seed"] == 1 and run["metrics"]["gap"] == pytest.approx(0.1)
    assert run["metrics"]["iou road"] == 0.5 and all(not isinstance(v, dict) for v in run["metrics"].values())
    score = {
        "auroc_pooled": 0.9,
        "crossed": {"f1": 0.1},
        "kinds": {"cow": 0.4, "sofa": 0.8, "town without": None},
        "intervals": {"auroc_pooled": [0.8, 0.95]},
        "budgets": {"0.5": {"recall": 0.3}, "1": {}},
    }
    known = {"miou": 0.4}
    metrics = {"test": known, "validation": known, "train": known, "scores": {"msp": score}}
    rows = [{"params": {"seed": 2}, "metrics": metrics}]
    main, msp = tables.anomaly_runs(rows)
    assert [run["config"] for run in tables.anomaly_runs(rows, "ensemble ")] == ["ensemble main", "ensemble score msp"]
    assert main == {
        "config": "main",
        "seed": 2,
        "metrics": {"test_miou": 0.4, "validation_miou": 0.4, "train_miou": 0.4},
    }
    assert msp["metrics"] == {
        "auroc_pooled": 0.9, "f1": 0.1, "kinds_above_chance": 0.5, "worst_kind": 0.4, "auroc_pooled_low": 0.8,
        "auroc_pooled_high": 0.95, "recall at 0.5": 0.3,
    }  # fmt: skip


def test_what_has_no_seed_is_one_run_and_has_no_spread():
    draws = {"aupr_pooled": packed(np.linspace(0.3, 0.5, 9))}
    score = {"crossed": {}, "kinds": {}, "intervals": {}, "budgets": {"1": {"found": 0.3}}, "first_found": 0.2}
    score |= {"draws": draws}
    rows = []
    for seed in (0, 1, 2):
        scores = {"msp": score | {"aupr_pooled": 0.1 + 0.01 * seed}, "place_other_town": score | {"aupr_pooled": 0.05}}
        scores |= {n: score | {"aupr_pooled": x, "seedless": True} for n, x in (("knn, A", 0.4), ("knn, B", 0.3))}
        rows.append({"params": {"seed": seed}, "metrics": {"test": {}, "validation": {}, "train": {}}})
        rows[-1]["metrics"]["scores"] = scores
    runs = tables.anomaly_runs(rows)
    assert [(r["seed"], "seedless" in r["metrics"]) for r in runs if r["config"] == "score knn, A"] == [(0, False)]
    assert len([r for r in runs if r["config"] == "score msp"]) == 3
    place = next(r["metrics"] for r in runs if r["config"] == "score place_other_town")
    assert place["aupr_pooled"] == 0.05 and not {"first_found", "found at 1"} & place.keys(), "it has no threshold"
    found = tables.paired(rows, "aupr_pooled", controls=["msp", "knn, B"])
    assert found.loc["knn, A - knn, B", "seeds"] == 0 and np.isnan(found.loc["knn, A - knn, B", "g"])
    assert found.loc["knn, A - msp", "seeds"] == 3
    assert found.loc["knn, A - msp", "difference"] == pytest.approx(0.29)
    assert found.loc["knn, A - msp", "g"] == pytest.approx(0.29 / 0.01 * (1 - 3 / 7)), "of the scores that have seeds"


def test_cases_are_ranked_by_aupr():
    assert tables.ranked(np.array([0.2, np.nan, 0.9, 0.4])) == {"best": 2, "median": 3, "worst": 0}
    with pytest.raises(ValueError, match="no frame holds"):
        tables.ranked(np.full(3, np.nan))


def test_groups_of_frames_are_told_apart_by_what_differs():
    size = np.arange(20.0)
    easy = np.where(size > 9.5, 0.9, 0.6) + 0.01 * (size % 2)
    easy[3] = np.nan  # a frame without an anomaly has no AUROC
    surface = pd.Series(np.where(np.arange(20) % 2, 1.0, 0.0)).where(size != 0)
    traits = pd.DataFrame({"size": size, "road": surface, "distance": np.nan})
    found = tables.by_trait(traits, {"msp": easy})
    assert list(found.index) == ["size, msp", "road, msp"], "what no frame has is left out"
    assert found["cut"].tolist() == [9.5, 0.5] and found["frames"].tolist() == [19, 18]
    size, road = found.loc["size, msp"], found.loc["road, msp"]
    assert size["above"] == pytest.approx(0.905) and size["up_to"] == pytest.approx(np.nanmean(easy[:10]))
    assert size["difference"] == pytest.approx(size["above"] - size["up_to"])
    assert 0.29 < size["low"] < size["difference"] < size["high"] < 0.32
    assert road["low"] < 0 < road["high"], "sides of the road share what size decides"


def test_a_score_by_every_rule():
    curve = measures.exact_curve([0.9, 0.8, 0.7, 0.1], [True, False, True, False])
    values = {f"{key}_per_image": i for i, key in enumerate(("aupr", "auroc", "fpr95"))}
    found = tables.switches(SimpleNamespace(curve=curve, values=values))
    assert found["AUROC, pooled"] == 0.75 and found["FPR95, first"] == 0.5
    assert found["AUPR, steps"] == pytest.approx((1 + 2 / 3) / 2) != found["AUPR, trapezoid"]
    assert [found[f"{k}, per image"] for k in ("AUPR", "AUROC")] == [0, 1] and found["FPR95, per image, nearest"] == 2


def judged(seed, auroc, towns=None):
    """A row of `AnomalyStudy.measure`: AUROC of each score, its draws around it, and AUROC in each town."""
    noise = np.random.default_rng(0).normal(0, 0.01, 200)
    scores = {
        name: {
            "auroc_pooled": value,
            "draws": {"auroc_pooled": packed(value + noise)},
            "towns": {t: {"auroc": v, "aupr": 1 - v} for t, v in (towns or {}).get(name, {}).items()},
        }
        for name, value in auroc.items()
    }
    return {"params": {"seed": seed}, "metrics": {"scores": scores}}


def test_a_score_detects_where_it_beats_every_place():
    values = {"msp": 0.95, "sml": 0.90, "knn": 0.84, "place_train": 0.80, "place_other_town": 0.895}
    shift = {"msp": 0.0, "sml": 0.02, "knn": 0.0, "place_train": 0.0, "place_other_town": 0.0}
    rows = [judged(s, {n: v + (s - 1) * shift[n] for n, v in values.items()}) for s in range(3)]
    found = tables.paired(rows, "auroc_pooled", 60)
    assert found.loc["msp - place_other_town", "difference"] == pytest.approx(0.055)
    assert (found["seeds"] == 3).all() and len(found) == 6 and (found["holm"] >= found["p"]).all()
    assert found.loc["msp - place_other_town", "low"] > 0.05, "both sides are of the same frames, so their noise is one"
    assert found.loc["sml - place_train", "low"] > 0 > found.loc["sml - place_other_town", "low"]
    assert tables.detecting(found) == ["msp"], "knn beats one place and not the other"
    assert tables.detecting(found, found.assign(low=found["low"] - 1)) == []


def test_a_score_is_chosen_in_one_town_and_reported_in_the_other():
    towns = {
        "a": {"t5": 0.9, "t6": 0.6},
        "b": {"t5": 0.7, "t6": 0.8},
        "place_other_town": {"t5": 0.99, "t6": 0.99},
    }
    rows = [judged(s, dict.fromkeys(towns, 0.5), towns) for s in (0, 1)]
    found = tables.chosen(rows).set_index(["chosen in", "by"])
    assert found.loc[("t5", "auroc"), "score"] == "a" and found.loc[("t5", "auroc"), "auroc elsewhere"] == 0.6
    assert found.loc[("t6", "auroc"), "score"] == "b" and found.loc[("t6", "auroc"), "auroc elsewhere"] == 0.7
    assert found.loc[("t5", "aupr"), "score"] == "b" and found.loc[("t5", "aupr"), "aupr elsewhere"] == pytest.approx(
        0.2
    )
