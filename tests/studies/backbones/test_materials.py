"""Objects one by one: the right attribute by id, the same measures as the means, intervals that cover."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from lib.data.movi import MATERIALS
from lib.metrics import objects as measures
from lib.studies.backbones import materials


def toy(differences, seed=0, rows=3):
    """Mixed scenes of `rows` metal and rubber objects each, whose means differ by what is given."""
    rng = np.random.default_rng(seed)
    parts = []
    for scene, d in enumerate(differences):
        for material, shift in (("metal", d), ("rubber", 0.0)):
            value = rng.normal(0, 0.1, rows)
            part = {"value": value - value.mean() + shift + 0.5, "scene": scene, "material": material, "mixed": True}
            part |= {"size": rng.choice(["small", "large"], rows), "area": rng.integers(20, 500, rows)}
            part |= {
                "hidden": rng.random(rows),
                "distance": 1 + 20 * rng.random(rows),
                "border": rng.random(rows) < 0.3,
            }
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def test_every_visible_object_has_a_row_and_its_own_attributes(scenes, table):
    for s, scene in enumerate(scenes):
        for t, ids in enumerate(scene.masks):
            rows = table[table.image == 2 * s + t]
            assert rows["id"].tolist() == np.unique(ids[ids > 0]).tolist()
            assert rows.area.tolist() == [(ids == i).sum() for i in rows["id"]]
            assert [MATERIALS.index(m) for m in rows.material] == scene.material[rows["id"] - 1].tolist()
            assert (rows.scene == s).all()
    assert table.mixed.groupby(table.scene).first().tolist() == [False, True] * 3


@given(st.lists(st.integers(0, 1), min_size=2, max_size=10), st.data())
def test_the_rank_shifts_exactly_what_is_behind_a_hidden_object(material, data):
    hidden = data.draw(st.integers(1, len(material)))
    seen = np.array([i for i in range(1, len(material) + 1) if i != hidden])
    wrong, right = materials.by_rank(np.array(material), seen), np.array(material)[seen - 1]
    before = seen < hidden
    assert (wrong[before] == right[before]).all()
    assert wrong[~before].tolist() == material[hidden - 1 : -1], "each reads its predecessor's"


def test_the_tables_mistake_is_that_of_the_rank(scenes, table, frames):
    scene = scenes[1]
    masks = scene.masks.copy()
    first = scene.material[0]
    other = int(np.flatnonzero(scene.material != first)[0])  # the first of the other material
    masks[masks == 1] = 0
    after = materials.objects_of([type(scene)(**{**vars(scene), "masks": masks})], frames)
    rows = after[(after["id"] == other + 1)]
    assert len(rows) and (rows.mistaken != rows.material).all()
    whole = table.groupby("image").filter(lambda rows: rows["id"].max() == len(rows))
    assert len(whole) and (whole.mistaken == whole.material).all()


def cut(seed, n=3, k=4, side=12, count=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, k, side, side, generator=generator), torch.randint(
        0, count, (n, side, side), generator=generator
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 9))
def test_judge_agrees_with_the_means(seed, k, count):
    masks, truth = cut(seed, k=k, count=count)
    found = materials.judge(masks, truth)
    means, whole = found.groupby("image").best.mean(), measures.evaluate(truth, masks)
    np.testing.assert_allclose(means, whole["mbo"])
    assert (found.matched >= 0).groupby(found.image).sum().max() <= k, "a slot is matched once"
    assert (found.recall >= found.best - 1e-9).all()


def test_judge_of_an_image_without_objects():
    assert len(materials.judge(torch.rand(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))) == 0


def test_the_paired_difference_is_over_mixed_scenes_alone():
    frame = toy([0.1, 0.2, 0.3, 0.1, 0.25, 0.15])
    extra = frame.assign(scene=frame.scene + 100, mixed=False, material="metal", value=9.0)
    found = materials.paired({None: pd.concat([frame, extra], ignore_index=True)}, "value")
    assert found["effect"] == pytest.approx(np.mean([0.1, 0.2, 0.3, 0.1, 0.25, 0.15])) and found["scenes"] == 6
    assert 0.08 < found["low"] < found["effect"] < found["high"] < 0.3
    assert found["p"] == pytest.approx(ttest_1samp([0.1, 0.2, 0.3, 0.1, 0.25, 0.15], 0).pvalue)
    flipped = frame.assign(material=frame.material.map({"metal": "rubber", "rubber": "metal"}))
    assert materials.paired({None: flipped}, "value")["effect"] == pytest.approx(-found["effect"])


def test_p_values_are_even_where_there_is_no_effect():
    rng = np.random.default_rng(0)
    p = [materials.paired({None: toy(rng.normal(0, 0.1, 10), rows=1)}, "value")["p"] for _ in range(80)]
    assert 0.38 < np.mean(p) < 0.62 and np.mean(np.array(p) < 0.2) < 0.33


def test_over_seeds():
    found = materials.paired({seed: toy([d] * 5, seed) for seed, d in enumerate((0.1, 0.2, 0.3))}, "value")
    assert found["effect"] == pytest.approx(0.2) and found["sd"] == pytest.approx(0.1) and found["seeds"] == 3
    half = (found["high"] - found["low"]) / 2
    assert half == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5), "what training adds is in the interval"
    single = materials.paired({0: toy([0.1] * 5)}, "value")
    assert np.isnan(single["sd"]) and np.isnan(single["low"])


def test_what_is_due_to_area_is_not_put_down_to_the_material():
    frame = toy([0.0] * 40, rows=6)
    metal = frame.material == "metal"
    frame["area"] = np.where(metal, frame.area, 3 * frame.area)
    frame["value"] = 0.1 * np.log2(frame.area) + 0.05 * metal + 10 * frame.scene
    found = materials.adjusted({None: frame}, "value")
    assert found.loc["metal, alone", "effect"] < 0 < found.loc["metal", "low"]
    assert found.loc["metal", "effect"] == pytest.approx(0.05) and found.loc["log2 area", "effect"] == pytest.approx(
        0.1
    )
    assert list(found.index) == ["metal, alone", *materials.TERMS]
    other = frame.assign(value=frame.value + 0.1 * metal)
    both = materials.adjusted({0: frame, 1: other}, "value").loc["metal"]
    assert both.effect == pytest.approx(0.1) and both.high - both.low > 2 * 12.7 * 0.05, "and over seeds"


def test_what_no_scene_measures_is_nan():
    table = pd.DataFrame({"scene": [0, 0, 1, 1], "material": ["metal", "rubber"] * 2, "best": [np.nan] * 4})
    found = materials.paired({None: table}, "best")
    assert np.isnan(found["effect"]) and found["scenes"] == 0
    assert np.isnan(materials.paired({0: table, 1: table}, "best")["low"])
