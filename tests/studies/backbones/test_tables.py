"""Rows become runs and effects, the right ones."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from lib import ROOT
from lib.data.movi import MATERIALS
from lib.models.dinosaur import NORMS
from lib.studies.backbones import tables
from lib.studies.backbones.tables import pack, unpack


def test_what_is_standard_is_input_and_target_and_backbones_are_averaged():
    sides = [(n, "dataset") for n in NORMS] + [("dataset", n) for n in NORMS if n != "dataset"] + [("image", "image")]
    rows = [
        {"params": {"backbone": b, "seed": 0, "input_norm": i, "target_norm": t}, "metrics": {"mbo": float(b == "b")}}
        for b in ("a", "b")
        for i, t in sides
    ]
    runs = {r["config"]: r["metrics"]["mbo"] for r in tables.norm_runs(rows)}
    assert {"a, input dataset", "a, target dataset", "b, both image", "b, input image"} <= set(runs)
    assert runs["b, target token"] == 1 and runs["all, target token"] == 0.5 and len(runs) == 3 * 11


def test_text_holds_a_column():
    values = pd.Series([0.1234, np.nan, 1.0, 0.0])
    np.testing.assert_allclose(unpack(pack(values)), [0.123, np.nan, 1.0, 0.0])
    with pytest.raises(ValueError, match="no text of pack"):
        unpack("bm90IGNvbXByZXNzZWQ=")


def row(backbone, seed, best, recipe="ours", course=((10, 2.0, 0.1), (20, 1.0, 0.5), (30, 1.5, 0.4))):
    raw = dict.fromkeys((*tables.MASKS, "loss"), 0.5)
    texts = dict.fromkeys(tables.COLUMNS, pack(pd.Series(best))) | {"best": pack(pd.Series(best))}
    metrics = {
        "raw": raw, "refined": raw, "train": {"loss": 0.4, "fg_ari": 0.6, "mbo": 0.5}, "validation_loss": 0.45,
        "threshold": 0.3,
        "objects": texts, "probes": {"slots material": {"balanced": 0.7, "input": "slots", "attribute": "material"}},
        "course": [list(c) for c in course], "parameters": 10,
    }  # fmt: skip
    return {"params": {"backbone": backbone, "seed": seed, "recipe": recipe}, "metrics": metrics}


OBJECTS = pd.DataFrame(
    {
        "scene": [0, 0, 1, 1, 2],
        "mixed": [True] * 4 + [False],
        "material": ["metal", "rubber"] * 2 + ["metal"],
        "mistaken": ["rubber", "metal"] * 2 + ["metal"],
    }
)


BEST = [0.2, 0.6, 0.2, 0.6, 1.0]


def test_rows_become_runs_of_mixed_scenes():
    (run,) = tables.runs_of([row("a", 1, BEST)], OBJECTS)
    assert run["config"] == "a" and run["seed"] == 1
    m = run["metrics"]
    assert m["metal_alone"] == 1
    assert (m["metal"], m["rubber"]) == pytest.approx((0.2, 0.6)) and m["gap"] == pytest.approx(0.1)


def test_the_original_reading_of_materials_turns_the_sign():
    judged = tables.judged([row("a", s, BEST) for s in (0, 1)], OBJECTS)
    found = tables.material(judged).loc["a"]
    assert found["effect"] == pytest.approx(-0.4) and found["by rank"] == pytest.approx(0.4)


def test_a_backbone_that_helps_metal_alone_helps_it_more():
    helped = [0.5, 0.6, 0.5, 0.6, 1.0]
    rows = [row(n, s, best) for s in (0, 1) for n, best in (("a", helped), ("b", BEST), ("c", [0.9] * 5))]
    found = tables.more_so(tables.judged(rows, OBJECTS), [("a", "b"), ("c", "b")])
    assert found.loc["a - b", "effect"] == pytest.approx(0.3)  # rubber is as it was
    assert found.loc["c - b", "effect"] == pytest.approx(0.4)  # 0.7 for metal, 0.3 for rubber
    shifted = [row("a", 7, BEST), *rows]  # a seed that b lacks
    found = tables.more_so(tables.judged(shifted, OBJECTS), [("a", "b")])
    assert found.loc["a - b", "effect"] == pytest.approx(0.3) and found.loc["a - b", "seeds"] == 2


def test_the_best_loss_need_not_be_the_best_masks():
    (run,) = tables.chosen_by_loss([row("a", 0, [0.1] * 3, "drifting")])
    assert run["config"] == "chosen by loss, a, drifting"
    assert run["metrics"] == {"step": 20, "chosen": 0.5, "last": 0.4, "peak": 0.5}


def test_single_runs_of_far_configurations_never_reverse_and_of_near_ones_do():
    def runs(values):
        return [
            {"config": c, "seed": s, "metrics": {"fg_ari": v}} for c, vs in values.items() for s, v in enumerate(vs)
        ]

    assert tables.reversals(runs({"a": [0.9, 0.8], "b": [0.1, 0.2]})) == 0
    assert tables.reversals(runs({"a": [0.9, 0.1], "b": [0.2, 0.3]})) == 0.5
    assert np.isnan(tables.reversals(runs({"a": [0.5], "b": [0.5]})))


def test_k_means_and_blocks_are_runs_too():
    metrics = {"raw": dict.fromkeys(tables.MASKS, 0.5), "refined": dict.fromkeys(tables.MASKS, 0.6)}
    metrics |= {"objects": {"best": pack(pd.Series(BEST))}}
    metrics["probes"] = {n: {"input": n, "attribute": "material", "balanced": 0.7} for n in ("tokens", "colours")}
    truth = torch.zeros(1, 16, 16, dtype=torch.long)
    truth[:, :4, :4] = 1
    runs = tables.untrained_runs([{"params": {"backbone": "a"}, "metrics": metrics}], OBJECTS, truth)
    assert [r["config"] for r in runs] == ["a, k-means", "a, tokens", "blocks"]
    assert runs[0]["metrics"]["metal"] == pytest.approx(0.2) and runs[1]["metrics"] == {"probe material": 0.7}
    assert runs[2]["metrics"]["mbo"] == 1  # the object is one of the blocks


def test_courses_become_histories_of_a_configuration():
    rows = [row("a", s, BEST, recipe=r) for s in (0, 1) for r in ("ours", "drifting")]
    found = tables.courses(rows, ["a", "a, drifting", "a, original"])
    assert list(found) == ["a", "a, drifting"] and len(found["a"]) == 2
    assert found["a"][0][1] == {"step": 20, "loss": 1.0, "fg_ari": 0.5}


@pytest.mark.parametrize("name", ["sweep_backbone", "sweep_backbone_untrained", "sweep_backbone_twins"])
def test_committed_tables_of_objects_can_be_read(name):
    rows = json.loads((ROOT / "figures" / "results" / f"{name}.json").read_text())["rows"]
    for metrics in (row["metrics"] for row in rows):
        texts = metrics.get("objects") or {key: metrics[key] for key in MATERIALS}
        sizes = {key: unpack(text).size for key, text in texts.items()}
        assert len(set(sizes.values())) == 1 and min(sizes.values()) > 100
