"""The backbone study: backbones with faults, costs, recipes, and effects of runs."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lib.metrics import intervals
from lib.models.dinosaur import Dinosaur
from lib.studies.backbones import experiment
from lib.studies.backbones.faults import Projected
from lib.studies.objects import experiment as objects_experiment
from lib.studies.objects.final import ObjectStudy


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))


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


def test_costs_are_shares_of_the_first(pictures):
    study = experiment.BackboneStudy(ObjectStudy(device="cpu"), {"ours": {"rules": {}}})
    found = study.costs(["vit8_random", "pixels"], pictures)
    assert found["vit8_random"]["time_tokens"] == found["vit8_random"]["time_step"] == 1
    assert found["pixels"]["backbone_parameters"] == 0 < found["vit8_random"]["backbone_parameters"] < 1


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
    study = experiment.BackboneStudy(ObjectStudy(batch=8), recipes)
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


def test_slots_belong_to_their_objects(monkeypatch):
    """Each object has the slot that was matched to it; objects for which no slot was left are not there."""
    truth = torch.tensor([[[1, 2, 3, 0]], [[0, 0, 5, 5]]])
    table = pd.DataFrame({"image": [0, 0, 0, 1], "id": [1, 2, 3, 5]})
    attention = torch.tensor([[[1, 0, 0, 0], [0, 1, 1, 1]], [[0, 0, 1, 1], [1, 1, 0, 0]]]).float()  # [n, K, N]
    slots = torch.arange(8.0).view(2, 2, 2)
    data = SimpleNamespace(count=2, ids=lambda _: truth, features=SimpleNamespace(batch=lambda _: None))
    monkeypatch.setattr(experiment, "scenes", lambda *_: data)
    monkeypatch.setattr(experiment, "on_image", lambda masks, size: masks.view(2, 2, 1, 4))
    study = experiment.BackboneStudy(ObjectStudy(), {})
    monkeypatch.setattr(experiment.BackboneStudy, "objects", lambda *_: table)
    vectors, kept = study.held(lambda _: SimpleNamespace(attention=attention, slots=slots), "a", "test")
    assert kept["id"].tolist()[0] == 1 and kept["id"].tolist()[-1] == 5 and len(kept) == 3
    assert vectors.tolist() == [[0, 1], [2, 3], [4, 5]]
