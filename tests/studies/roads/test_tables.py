"""From rows to effects and runs: the right pairs, the right way round."""

import pytest
import torch

from lib import sweeps
from lib.data.streethazards import ANOMALY, CLASSES, IGNORE
from lib.studies.roads import tables


def row(treatment, seed, clean, squash_batch4=0.2):
    text = lambda v: " ".join(f"{v + 0.001 * i:.5f}" for i in range(5))  # noqa: E731
    values = {"clean": clean, "squash": 0.3, "own": 0.4, "clean_batch4": 0.25, "squash_batch4": squash_batch4}
    metrics = values | {
        "train": clean + 0.1,
        "iou": dict.fromkeys(CLASSES[:-1], 0.5),
        "draws": {k: text(values[k]) for k in ("clean", "squash", "own")},
        "batch_draws": {"clean": text(0.25), "squash": text(squash_batch4)},
    }
    return {"params": {"treatment": treatment, "seed": seed}, "metrics": metrics}


ROWS = [row("flip", 1, 0.42), row("flip", 0, 0.40), row("image_only_flip", 0, 0.30), row("image_only_flip", 1, 0.31)]


def test_a_fault_is_what_is_lost_against_the_clean_version(notebook):
    found = tables.effects(ROWS, notebook["FAULTS"])
    assert tables.effects(ROWS[::-1], notebook["FAULTS"]) == found, "the order of rows does not matter"
    assert list(found) == ["labels not flipped with the image"], "pairs without rows are left out"
    assert found["labels not flipped with the image"]["effect"] == pytest.approx(-0.105)
    assert found["labels not flipped with the image"]["seeds"] == 2
    assert tables.table(found).loc["labels not flipped with the image", "effect"] == -10.5


def test_seeds_are_paired_by_value_and_failures_are_left_out(notebook):
    """Equal models of seeds 1 and 2; by position, 0 would meet 1, 1 meet 2, and 2 meet 3."""
    of = lambda treatment, seeds: [row(treatment, s, 0.3 + 0.1 * s) for s in seeds]  # noqa: E731
    failed = {"params": {"treatment": "flip", "seed": 0}, "metrics": {}, "error": "OutOfMemoryError"}
    rows = [*of("image_only_flip", (0, 1, 2)), *of("flip", (3, 1, 2)), failed]
    found = tables.effects(rows, notebook["FAULTS"])["labels not flipped with the image"]
    assert found["effect"] == found["low"] == found["high"] == 0 and found["seeds"] == 2
    assert tables.effects(rows[:1] + rows[3:], notebook["FAULTS"]) == {}, "no seed in common"


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
    for sides in [*notebook["FAULTS"].values(), *notebook["HEADLINE"].values()]:
        for treatment, view in sides:
            assert treatment in notebook["TREATMENTS"] and view in row("x", 0, 0.1)["metrics"]


def test_the_headline_is_measured_the_original_way(notebook):
    rows = [row("original_augmented", s, 0.1, 0.5) for s in (0, 1)] + [
        row("original_baseline", s, 0.9, 0.37) for s in (0, 1)
    ]
    found = tables.effects(rows, notebook["HEADLINE"])
    assert found["its augmented run - its baseline, its way"]["effect"] == pytest.approx(0.13)


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
    main, msp = tables.anomaly_runs([{"params": {"seed": 2}, "metrics": metrics}])
    assert main == {
        "config": "main",
        "seed": 2,
        "metrics": {"test_miou": 0.4, "validation_miou": 0.4, "train_miou": 0.4},
    }
    assert msp["metrics"] == {
        "auroc_pooled": 0.9, "f1": 0.1, "kinds_above_chance": 0.5, "worst_kind": 0.4, "auroc_pooled_low": 0.8,
        "auroc_pooled_high": 0.95, "recall at 0.5": 0.3,
    }  # fmt: skip


@pytest.fixture
def scene():
    truth = torch.zeros(3, 20, 30, dtype=torch.long)
    truth[:, 5:10, 5:12], truth[:, 0] = ANOMALY, IGNORE
    scores = torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0))
    scores[0][truth[0] == ANOMALY] += 6
    scores[1][truth[1] == ANOMALY] += 1
    return scores, truth


def test_cases_are_ranked_by_aupr(scene):
    assert tables.ranked(*scene)["best"] == 0
    scores, truth = scene
    truth[2][truth[2] == ANOMALY] = 0
    assert set(tables.ranked(scores, truth).values()) == {0, 1}, "a frame without anomaly has no rank"
    with pytest.raises(ValueError, match="no frame holds"):
        tables.ranked(scores, torch.zeros_like(truth))
