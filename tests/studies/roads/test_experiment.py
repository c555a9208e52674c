"""The road experiments on streets small enough to know the answer: frames, trainings and what is measured of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lib import sweeps
from lib.data.augment import Resize
from lib.data.streethazards import IGNORE
from lib.files import unpacked
from lib.models.segmenters import Segmenter
from lib.studies.roads import experiment, tables
from lib.studies.roads.experiment import Frames, RoadStudy, resampled, step_memory
from lib.training import Recipe

SIZE = (24, 40)


def test_frames_are_those_of_the_dataset_and_are_read_once(root, monkeypatch):
    frames = Frames(root, "train")
    image, label = frames.data[1]
    x, y = frames.batch([1], Resize((48, 80)))
    assert torch.equal(x[0], image) and torch.equal(y[0], label) and x.dtype == torch.float32
    assert frames[1][0] is frames[1][0]
    monkeypatch.setattr(experiment, "MEMORY", 1)
    large = Frames(root, "train")
    assert large[1][0] is not large[1][0] and torch.equal(large[1][0], frames[1][0])


def test_every_treatment_of_the_notebook_gives_windows(study, each_treatment):
    transform = study.transform(each_treatment, (16, 16))
    x, y = study.split("train").batch([0, 1], transform)
    assert x.shape == (2, 3, 16, 16) and y.shape == (2, 16, 16) and set(y.unique().tolist()) <= {*range(13), IGNORE}


def test_who_knows_the_answer_scores_one_and_squashing_costs(study, painter):
    data = study.split("validation")
    clean = experiment.matrices(painter, data, Resize(SIZE))
    assert clean.shape == (3, 13, 13) and clean.sum() == 3 * 24 * 40
    off_diagonal = clean.sum() - np.trace(clean.sum(0))
    assert off_diagonal < 0.1 * clean.sum(), "only the mixed colours at the edges of the stripes are wrong"
    back = experiment.matrices(painter, data, Resize((16, 16)), Resize(SIZE))
    assert back.sum() == clean.sum() and np.trace(back.sum(0)) < np.trace(clean.sum(0))
    assert len(experiment.matrices(painter, data, Resize(SIZE), most=2)) == 3
    assert len(experiment.matrices(painter, data, Resize(SIZE), most=1)) == 1


def test_measuring_does_not_disturb_training(study, painter, notebook):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    experiment.matrices(painter, study.split("validation"), study.transform(notebook["TREATMENTS"]["all"], (16, 16)))
    assert torch.equal(torch.rand(3), expected)


def test_a_trial_is_a_function_of_its_parameters(study, notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path))
    grid = [
        {"treatment": t, "seed": s, "steps": 2, "lr": 1e-3, "crop": [32, 32], "pretrained": False, "optimiser": o}
        for t, s, o in (("flip", 0, "SGD"), ("all", 1, "AdamW"))
    ]

    def trial(treatment, optimiser, **settings):
        return study.trial(notebook["TREATMENTS"][treatment], optimiser=getattr(torch.optim, optimiser), **settings)

    rows = sweeps.run(trial, grid, name="x", data=study.data)
    again = trial(**grid[0])
    first = rows[0]["metrics"]
    with pytest.raises(ValueError, match="steps is 0"):
        trial(**grid[0] | {"steps": 0})
    for key in ("clean", "squash", "own", "clean_batch4", "train", "loss", "memory_mb"):
        assert first[key] == pytest.approx(again[key], rel=1e-6)
    assert first["loss"] != rows[1]["metrics"]["loss"]
    assert first["parameters"] == 3_300_829 and len(unpacked(first["draws"]["clean"])) == 200
    assert first["iou"].keys() >= {"road", "unlabeled"} and "anomaly" not in first["iou"]
    known = study.data(**grid[0])
    assert "40x24" in known and "validation n=3" in known and known.endswith("from random weights")
    assert known != study.data() == study.data(pretrained=True) and "test n=4" in study.data("test")


def test_worker_processes_make_the_same_batches(study, notebook):
    """Losses are equal to the bit, dropout included, and those of a training that goes on at a step."""
    recipe, found = Recipe(3, 2, 1e-3, 0, seed=1), []
    transform = study.transform(notebook["TREATMENTS"]["all"], (32, 32))
    for workers in (0, 2):
        torch.manual_seed(0)
        net, loss = Segmenter(pretrained=False), replace(study, workers=workers).loss(recipe, transform)
        found.append([])
        for step in (0, 1, 2, 1):
            torch.manual_seed(recipe.seed * 1_000_003 + step)
            found[-1].append(float(loss(net, step)[0].detach()))
    assert found[0] == found[1] and found[0][0] != found[0][1]
    assert found[0][3] == pytest.approx(found[0][1], rel=1e-5), "the same batch again"


def test_a_share_of_a_batch_is_cut_out_of_the_whole(study, each_treatment, monkeypatch):
    """The second of two processes makes its half, and goes on from the same state of the generator."""
    batches = experiment.Batches(study.split("train"), Recipe(3, 4), study.transform(each_treatment, (16, 16)))
    whole = batches[1]
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    share = batches[1]
    assert all(torch.equal(a[2:], b) for a, b in zip(whole[:2], share[:2], strict=True))
    assert torch.equal(whole[2], share[2])


def test_a_batch_of_one_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="batch is 1"):
        RoadStudy(batch=1)


def test_the_main_model_is_trained_once(study, notebook, tmp_path, monkeypatch):
    everything = notebook["TREATMENTS"]["all"]
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "out"))
    run = study.main(everything, 0, 2, 1e-3, (32, 32))
    again = study.main(everything, 0, 2, 1e-3, (32, 32))
    assert run.header["seconds"] == again.header["seconds"] and run.header["config"]["treatment"] == "all"
    x = torch.rand(1, 3, *SIZE)
    assert torch.equal(run.model(x), again.model(x))


def test_memory_of_a_step_is_weights_four_times_and_what_is_kept():
    layer = nn.Conv2d(3, 5, 3, padding=1)  # keeps its input
    weights = sum(p.numel() for p in layer.parameters())
    assert step_memory(layer, 2, (8, 8)) == pytest.approx((16 * weights + 4 * 2 * 3 * 64) / 1e6)
    model = Segmenter(pretrained=False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert step_memory(model, 2, (32, 32)) < step_memory(model, 2, (64, 64))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_effects():
    rng = np.random.default_rng(0)
    base = [rng.integers(0, 50, (20, 4, 4)) + 100 * np.eye(4, dtype=int) for _ in range(3)]
    worse = [m + rng.integers(0, 60, m.shape) for m in base]
    values = {"flip": ([0.50, 0.52, 0.51], base), "none": ([0.40, 0.41, 0.43], worse)}
    rows = [
        {"params": {"treatment": t, "seed": s}, "metrics": {"clean": v, "draws": {"clean": resampled(x)}}}
        for t, (means, found) in values.items() for s, (v, x) in enumerate(zip(means, found, strict=True))
    ]  # fmt: skip
    found = tables.effects(rows, {"flip": (("flip", "clean"), ("none", "clean"))}, images=20)["flip"]
    assert found["effect"] == pytest.approx(0.0966667, abs=1e-5) and found["seeds"] == 3
    differences = np.array([0.10, 0.11, 0.08])
    assert found["low"] < found["effect"] - 4.30 * differences.std(ddof=1) / 3**0.5 < found["effect"] < found["high"]
    same = tables.effects(rows, {"x": (("flip", "clean"), ("flip", "clean"))})["x"]
    assert same["effect"] == same["low"] == same["high"] == 0
    single = tables.effects(rows[:1] + rows[3:], {"flip": (("flip", "clean"), ("none", "clean"))})["flip"]
    assert np.isnan(single["low"]) and single["seeds"] == 1, "one seed has no interval"
    assert resampled(base[0]) == resampled(base[0]) != resampled(base[0], 4)
