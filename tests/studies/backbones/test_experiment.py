"""The backbone study: faults that do what they say and nothing else, grids, and rows that become effects."""

import numpy as np
import pandas as pd
import pytest
import torch

from lib.metrics import intervals
from lib.models.dinosaur import NORMS, Dinosaur
from lib.studies.backbones import experiment, tables
from lib.studies.backbones.faults import Projected
from lib.studies.backbones.tables import pack, unpack
from lib.studies.objects import experiment as objects_experiment
from lib.studies.objects.experiment import ImageConfig
from lib.studies.objects.final import ObjectStudy


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def changed(name, pictures):
    """Which tokens of both images change when a patch of the first is edited."""
    edited = pictures.clone()
    edited[0, :, 64:72, 64:72] = 1 - edited[0, :, 64:72, 64:72]
    return (experiment.tokens(name, edited) - experiment.tokens(name, pictures)).abs().amax(-1) > 1e-5


def test_attention_across_the_batch_hears_the_neighbour_and_not_the_image(pictures):
    right, wrong = (changed(n, pictures) for n in ("vit8_random", "vit8_random, attention across the batch"))
    assert right[0].all() and not right[1].any()
    place = 8 * 16 + 8
    assert wrong[:, place].all() and wrong.sum() == 2


def test_a_backbone_without_normalisation_reads_bare_pixels(pictures):
    bare = experiment.network("vit8_random, no pixel normalisation")
    assert bare.mean.eq(0).all() and bare.std.eq(1).all()
    mended = experiment.network("vit8_random")
    assert mended.mean.ne(0).all()
    assert torch.equal(bare((pictures - mended.mean) / mended.std).tokens, mended(pictures).tokens)
    assert bare.name != mended.name  # or the cache would give one the other's tokens


@pytest.mark.parametrize("name", ["resnet7", "pixels, rotten", "vit8_random attention across the batch"])
def test_unknown_backbones_and_faults_are_named(name):
    with pytest.raises(ValueError, match="is no backbone"):
        experiment.network(name)


def test_a_cnn_has_no_attention_to_break():
    with pytest.raises(ValueError, match="choose a transformer"):
        experiment.network("pixels, attention across the batch")


def test_a_projection_drifts_only_if_it_is_trained(split):
    tokens = split(frames=3, step=4).features.batch(slice(None))
    for trainable in (True, False):
        torch.manual_seed(0)
        net = Projected(4, trainable=trainable)
        assert net.target(tokens).shape[-1] == 2 and not net.target(tokens).requires_grad
        for sample in (0, 16):
            objects_experiment.objective(net, tokens, ImageConfig(sample=sample))[0].backward()
        gradient = net.reduce.weight.grad
        assert (gradient is not None and gradient.abs().sum() > 0) == trainable


def test_the_projection_reads_standardised_tokens(split):
    data = split(frames=3, step=4)
    tokens, net = data.features.batch(slice(None)), Projected(4, trainable=False)
    before = net.target(tokens)
    net.mean.copy_(data.features.mean)
    net.std.copy_(data.features.std)
    assert not torch.allclose(before, net.target(tokens))


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


def test_effects_take_what_both_sides_have():
    runs = [{"config": c, "seed": s, "metrics": {"x": v + s / 10}} for c, v in (("a", 1), ("b", 0)) for s in (0, 1)]
    found = intervals.against(runs, {"up": (("a", "x"), ("b", "x")), "none": (("c", "x"), ("b", "x"))})
    assert list(found.dropna(how="all").index) == ["up"] and found.loc["up", "difference"] == pytest.approx(1)
    assert found.loc["none"].isna().all() and [r["config"] for r in intervals.as_runs("effect", found)] == ["effect up"]


def test_three_seeds_are_compared_with_the_same_three_of_five():
    runs = [{"config": "b", "seed": s, "metrics": {"x": s}} for s in (4, 3, 2, 1, 0)]
    runs += [{"config": "a", "seed": s, "metrics": {"x": s + 1}} for s in (0, 1, 2)]
    found = intervals.against(runs, {"up": (("a", "x"), ("b", "x"))}).loc["up"]
    assert (found.difference, found.low, found.high, found.seeds) == (1, 1, 1, 3)


def test_pairs_are_compared_in_every_measure():
    values = {"a": 0.9, "b": 0.1}
    runs = [
        {"config": c, "seed": s, "metrics": {"fg_ari": v + s / 100, "mbo": v - s / 100}}
        for c, v in values.items()
        for s in (0, 1, 2)
    ]
    table = intervals.between(runs, [("a", "b")])
    assert list(table.index) == ["a - b, FG-ARI", "a - b, mBO"]
    assert table.difference.to_numpy() == pytest.approx(0.8)
    assert table.low.to_numpy() == pytest.approx(0.8), "what both seeds' runs share is no noise"
    (first, _) = intervals.as_runs("difference", table)
    assert first["config"] == "difference a - b, FG-ARI" and first["metrics"]["difference"] == pytest.approx(0.8)


def test_the_loss_of_a_checkpoint_is_that_of_the_steps_before_it():
    history = [{"step": s, "loss": float(s)} for s in range(0, 301, 50)]
    history[-1]["fg_ari"] = 0.5
    assert experiment.course(history) == [[300, 275.0, 0.5]]


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


def test_costs_are_shares_of_the_first(pictures):
    found = experiment.costs(["vit8_random", "pixels"], pictures, ImageConfig())
    assert found["vit8_random"]["time_tokens"] == found["vit8_random"]["time_step"] == 1
    assert found["pixels"]["backbone_parameters"] == 0 < found["vit8_random"]["backbone_parameters"] < 1


def test_courses_become_histories_of_a_configuration():
    rows = [row("a", s, BEST, recipe=r) for s in (0, 1) for r in ("ours", "drifting")]
    found = tables.courses(rows, ["a", "a, drifting", "a, original"])
    assert list(found) == ["a", "a, drifting"] and len(found["a"]) == 2
    assert found["a"][0][1] == {"step": 20, "loss": 1.0, "fg_ari": 0.5}


def test_a_recipe_names_its_checkpoint_and_its_settings_reach_the_training(monkeypatch):
    seen = []
    monkeypatch.setattr(experiment, "scenes", lambda trials, backbone, name: name)
    monkeypatch.setattr(objects_experiment, "train", lambda *args, **how: seen.append((*args, how)))
    standard = {"input_norm": "dataset", "target_norm": "dataset"}
    ours = {"rules": {"area": 0.0, "model": standard}, "warmup": 8, "masks": "attention"}
    recipes = {
        "ours": ours,
        "drifting": {"rules": {"area": 0.0}, "warmup": 40, "masks": "attention", "network": Projected},
    }
    study = experiment.Study(ObjectStudy(batch=8), recipes)
    study.run("vit8_clip, no pixel normalisation", 3, 800)
    study.run("pixels", 0, 200, input_norm="image")
    study.run("pixels", 0, 800, "drifting")
    assert [name.removeprefix("backbone_comparison-") for name, *_ in seen] == [
        "vit8_clip-no_pixel_normalisation-dataset-dataset-800-3", "pixels-image-dataset-200-0", "pixels-drifting-800-0",
    ]  # fmt: skip
    assert [rules.model for _, _, rules, *_ in seen] == [standard, standard | {"input_norm": "image"}, {}]
    assert [how.warmup for *_, how, _ in seen] == [100, 25, 20]
    assert [how["network"] for *_, how in seen] == [Dinosaur, Dinosaur, Projected]
    assert [how["watch_every"] for *_, how in seen] == [66, 200, 66]
