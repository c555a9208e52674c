"""The road experiments on streets small enough to know the answer: trials, effects, alarms and budgets."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lib import explore, sweeps
from lib.data.augment import Resize
from lib.data.streethazards import ANOMALY, IGNORE, PALETTE
from lib.models.segmenters import Outputs, Segmenter, step_memory
from lib.studies.roads import alarms, experiment, tables
from lib.studies.roads.alarms import Alarms, Hazards, Scenes
from lib.studies.roads.experiment import TREATMENTS, Frames, Trials, resampled

SIZE = (24, 40)


@pytest.fixture
def root(tmp_path):
    """Streets of vertical stripes in the palette's colours, 48 x 80 px; test frames hold an anomaly of 8 x 12."""
    rng = np.random.default_rng(0)
    layout = {
        "train/images/training": ("t1", 4),
        "train/images/validation": ("t2", 3),
        "test/images/test": ("t5", 2),
        "test/images/test ": ("t6", 2),
    }
    for folder, (town, count) in layout.items():
        for i in range(count):
            label = np.repeat(rng.permutation(13)[:8], 10)[None].repeat(48, 0)
            if town in ("t5", "t6"):
                label[16:24, 20 + 4 * i : 32 + 4 * i] = ANOMALY
            image = tmp_path / folder.strip() / town / f"{i}.png"
            for path, pixels in (
                (image, PALETTE[label]),
                (tmp_path / folder.strip().replace("images", "annotations") / town / image.name, label + 1),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    (tmp_path / "frames.json").write_text(json.dumps({"test/images/test/t5/0.png": {"kind": "cow"}}))
    return tmp_path


class Painter(nn.Module):
    """Knows the palette: the logit of a class is minus the distance of the colour. Anomalies are far from all."""

    def __init__(self):
        super().__init__()
        self.colours = nn.Parameter(torch.tensor(PALETTE[:13]).float() / 255)

    def forward(self, x):
        return self.outputs(x).logits

    def outputs(self, x):
        logits = -10 * (x[:, None] - self.colours[None, :, :, None, None]).pow(2).sum(2)
        return Outputs(logits, x[:, :, 8::16, 8::16])


def trials(root, **kwargs):
    return Trials(root=root, size=SIZE, batch=2, device="cpu", **kwargs)


def test_frames_are_those_of_the_dataset_and_are_read_once(root, monkeypatch):
    frames = Frames(root, "train")
    image, label = frames.data[1]
    x, y = frames.batch([1], Resize((48, 80)))
    assert torch.equal(x[0], image) and torch.equal(y[0], label) and x.dtype == torch.float32
    assert frames[1][0] is frames[1][0]
    monkeypatch.setattr(experiment, "MEMORY", 1)
    large = Frames(root, "train")
    assert large[1][0] is not large[1][0] and torch.equal(large[1][0], frames[1][0])


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_every_treatment_gives_windows(root, treatment):
    x, y = trials(root).split("train").batch([0, 1], trials(root).transform(treatment, (16, 16)))
    assert x.shape == (2, 3, 16, 16) and y.shape == (2, 16, 16) and set(y.unique().tolist()) <= {*range(13), IGNORE}


def test_an_unknown_treatment_is_an_error(root):
    with pytest.raises(ValueError, match="degenerate"):
        trials(root).transform("twist", (16, 16))


def test_who_knows_the_answer_scores_one_and_squashing_costs(root):
    data, painter = trials(root).split("validation"), Painter()
    clean = experiment.matrices(painter, data, Resize(SIZE))
    assert clean.shape == (3, 13, 13) and clean.sum() == 3 * 24 * 40
    off_diagonal = clean.sum() - np.trace(clean.sum(0))
    assert off_diagonal < 0.1 * clean.sum(), "only the mixed colours at the edges of the stripes are wrong"
    back = experiment.matrices(painter, data, Resize((16, 16)), Resize(SIZE))
    assert back.sum() == clean.sum() and np.trace(back.sum(0)) < np.trace(clean.sum(0))
    assert len(experiment.matrices(painter, data, Resize(SIZE), most=2)) == 3
    assert len(experiment.matrices(painter, data, Resize(SIZE), most=1)) == 1


def test_measuring_does_not_disturb_training(root):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    experiment.matrices(Painter(), trials(root).split("validation"), trials(root).transform("all", (16, 16)))
    assert torch.equal(torch.rand(3), expected)


def test_a_trial_is_a_function_of_its_parameters(root, tmp_path):
    grid = [
        {"treatment": t, "seed": s, "steps": 2, "lr": 1e-3, "crop": [32, 32], "pretrained": False, "optimiser": o}
        for t, s, o in (("flip", 0, "sgd"), ("all", 1, "adamw"))
    ]
    t = trials(root)
    rows = sweeps.run(t.trial, grid, name="x", data=t.data, folder=tmp_path / "a")
    again = t.trial(**grid[0])
    first = rows[0]["metrics"]
    with pytest.raises(ValueError, match="steps is 0"):
        t.trial(**grid[0] | {"steps": 0})
    for key in ("clean", "squash", "own", "clean_batch4", "train", "loss", "memory_mb"):
        assert first[key] == pytest.approx(again[key], rel=1e-6)
    assert first["loss"] != rows[1]["metrics"]["loss"]
    assert first["parameters"] == 3_300_829 and len(first["draws"]["clean"].split()) == 200
    assert first["iou"].keys() >= {"road", "unlabeled"} and "anomaly" not in first["iou"]
    known = t.data(**grid[0])
    assert "40x24" in known and "validation n=3" in known and known.endswith("from random weights")
    assert known != t.data() == t.data(pretrained=True) and "test n=4" in t.data("test")


def test_a_batch_of_one_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="batch is 1"):
        Trials(batch=1)


def test_the_main_model_is_trained_once(root, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOTS_OUT", str(tmp_path / "out"))
    run = trials(root).main(0, 2, 1e-3, (32, 32))
    again = trials(root).main(0, 2, 1e-3, (32, 32))
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
    found = tables.effects(rows, tables.against_none(["none", "flip"]), images=20)["flip"]
    assert found["effect"] == pytest.approx(0.0966667, abs=1e-5) and found["seeds"] == 3
    differences = np.array([0.10, 0.11, 0.08])
    assert found["low"] < found["effect"] - 4.30 * differences.std(ddof=1) / 3**0.5 < found["effect"] < found["high"]
    same = tables.effects(rows, {"x": (("flip", "clean"), ("flip", "clean"))})["x"]
    assert same["effect"] == same["low"] == same["high"] == 0
    single = tables.effects(rows[:1] + rows[3:], tables.against_none(["flip"]))["flip"]
    assert np.isnan(single["low"]) and single["seeds"] == 1, "one seed has no interval"
    assert resampled(base[0]) == resampled(base[0]) != resampled(base[0], 4)


def test_alarms_by_hand():
    label = torch.zeros(40, 40, dtype=torch.long)
    label[10:20, 10:20] = ANOMALY
    label[0:5] = IGNORE
    score = torch.zeros(40, 40)
    score[10:20, 10:18] = 5.0  # 80 of the 100 pixels
    score[30:34, 30:34] = 4.0  # a false alarm
    score[30:34, 0:4] = 3.0  # another
    score[0:4] = 9.0  # nothing counts here
    seen = alarms.alarms([(score, label), (score, label)], np.array([8.0, 4.5, 3.5, 2.5]))
    assert seen.false_alarms.tolist() == [0, 0, 1, 2]
    assert seen.found.tolist() == [0, 1, 1, 1] and seen.recall.tolist() == [0, 0.8, 0.8, 0.8]
    assert np.isnan(seen.precision[0]) and seen.precision[1:].tolist() == [1, 80 / 96, 80 / 112]
    assert [alarms.within_budget(seen, b) for b in (0.5, 1.0, 5.0)] == [1, 2, 3]
    empty = alarms.alarms([(score, torch.zeros_like(label))], np.array([2.5]))
    assert np.isnan(empty.found[0]) and empty.false_alarms[0] == 4
    score[20, 20] = np.nan
    with pytest.raises(ValueError, match="1 of 1400 scores are not finite"):
        alarms.alarms([(score, label)], np.array([2.5]))


def test_flagging_most_of_a_frame_is_a_false_alarm():
    """88 x 88 of 100 x 100 px with one pixel on the anomaly: PPV 1/7744, which is no find."""
    score, label = torch.zeros(100, 100), torch.zeros(100, 100, dtype=torch.long)
    score[:88, :88], label[87:97, 87:97] = 1.0, ANOMALY
    seen = alarms.alarms([(score, label)], np.array([0.5]))
    assert seen.precision[0] == 1 / 7744 and seen.false_alarms[0] == 1 and seen.found[0] == 0
    score[:88, :88], score[78:98, 86:106] = 0.0, 1.0  # 20 x 14 px, 100 of them on the anomaly
    assert alarms.alarms([(score, label)], np.array([0.5])).false_alarms[0] == 0


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_the_slider_takes_thresholds_of_the_score_it_shows(scale, monkeypatch):
    """Two scores of the same order and other units; in the middle both flag the same pixels, and some."""
    titles, generator = [], torch.Generator().manual_seed(0)
    monkeypatch.setattr(explore.plots, "grid", lambda panels, columns: titles.append(columns[1]) or plt.figure())
    scores, truth = torch.rand(2, 50, 50, generator=generator), torch.zeros(2, 50, 50, dtype=torch.bool)
    maps = {"a": scores, "b": scale * scores - 30}
    frames = {name: [(s, torch.zeros(50, 50, dtype=torch.long)) for s in m] for name, m in maps.items()}
    at = {name: alarms.thresholds(pairs) for name, pairs in frames.items()}
    widget = explore.alarms(torch.rand(2, 3, 50, 50), maps, truth, at)
    for name in maps:
        widget.children[0].value = name
        widget.update()
    flagged = [int(title.split(", ")[1].split()[0]) for title in titles[-2:]]
    share = alarms.RATES[len(alarms.RATES) // 2]
    assert flagged[0] == flagged[1] and 0 < flagged[0] <= 2 * 5000 * share, titles
    with pytest.raises(ValueError, match="as many"):
        explore.alarms(torch.rand(2, 3, 50, 50), maps, truth, {"a": [1.0], "b": [1.0, 0.5]})
    plt.close("all")


def test_a_budget_is_kept_from_the_top():
    """At the lowest threshold all alarms have grown into one; that is no reason to choose it."""
    seen = Alarms(np.array([0.0, 2.0, 9.0, 1.0]), *[np.zeros(4)] * 3)
    assert alarms.within_budget(seen, 3.0) == 1 and alarms.within_budget(seen, -1.0) == -1


def test_thresholds_flag_the_shares():
    score = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    at = alarms.thresholds([(score, torch.zeros(100, 100, dtype=torch.long))])
    shares = np.array([(score >= t).float().mean() for t in at])
    assert (shares <= alarms.RATES + 1e-7).all() and shares == pytest.approx(alarms.RATES, abs=5e-4)
    assert (np.diff(at) <= 0).all()


def test_scenes_are_the_same_kept_or_not(root, monkeypatch):
    kept = Scenes(trials(root), "test", Painter())
    monkeypatch.setattr(alarms, "MEMORY", 1)
    computed = Scenes(trials(root), "test", Painter())
    for a, b in zip(kept, computed, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert next(iter(kept))[0] is next(iter(kept))[0] and next(iter(computed))[0] is not next(iter(computed))[0]
    assert len(Scenes(trials(root), "test", Painter(), every=3)) == 2


def test_a_score_that_knows_is_perfect_and_one_that_does_not_is_chance(root, monkeypatch):
    truth = {"n": 0}
    hazards = Hazards(trials(root), draws=20)
    test, validation = (Scenes(trials(root), s, Painter()) for s in ("test", "validation"))
    labels = [y for _, _, y in test]
    noise = torch.Generator().manual_seed(0)

    def knows(z, f, s):
        truth["n"] += 1
        label = labels[(truth["n"] - 1) % len(labels)]
        return (label == ANOMALY).float() + 0.01 * torch.rand(label.shape, generator=noise)

    monkeypatch.setitem(alarms.SCORES, "max_logit", knows)
    found = hazards.judged("max_logit", None, validation, test)
    assert found["auroc_pooled"] > 0.999 and found["aupr_per_image"] > 0.99 and found["fpr95_zagreb"] < 0.01
    assert found["intervals"]["auroc_pooled"][0] > 0.99 and set(found["kinds"]) == {"cow", "t5", "t6"}
    assert found["crossed"]["open_miou"] > 0.8 and found["crossed"]["f1"] > 0.9
    monkeypatch.setitem(alarms.SCORES, "max_logit", lambda z, f, s: torch.rand(z[:, 0].shape, generator=noise))
    guessed = hazards.judged("max_logit", None, validation, test)
    assert 0.4 < guessed["auroc_pooled"] < 0.6 and guessed["budgets"].keys() == {"0.1", "0.5", "1", "2"}


def test_real_scores_see_what_the_painter_cannot_name(root):
    hazards = Hazards(trials(root), draws=20)
    known = hazards.statistics(Painter())
    test, validation = (Scenes(trials(root), s, Painter()) for s in ("test", "validation"))
    assert hazards.judged("max_logit", known, validation, test)["auroc_pooled"] > 0.8
    found = test.matrices().sum(0)
    assert found.shape == (14, 14) and np.trace(found) > 0.9 * found[:-1].sum() and found[-1].sum() == 4 * 24
    assert not found[:, -1].any(), "a network cannot say anomaly"


def test_a_town_without_anomalies_chooses_no_threshold(root):
    hazards = Hazards(trials(root), draws=20)
    test = Scenes(trials(root), "test", Painter())
    pairs = list(test.scores("max_logit", None))
    towns = np.array(trials(root).split("test").data.towns)
    for i in np.flatnonzero(towns == "t5"):
        pairs[i] = (pairs[i][0], torch.where(pairs[i][1] == ANOMALY, 0, pairs[i][1]))
    test._kept = [(*scene[:2], label[None]) for scene, (_, label) in zip(test, pairs, strict=True)]
    found = hazards.crossed(pairs, test)
    assert found["open_miou"] > 0.5, "the threshold of t6, used in t5"
    none = [(score, torch.zeros_like(label)) for score, label in pairs]
    assert all(np.isnan(v) for v in hazards.crossed(none, test).values())
